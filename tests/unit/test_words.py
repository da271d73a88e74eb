"""One word for one thing: words that a better one has replaced come back in no name that others see, or read first."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import repmgr_hooks
from repmgr_hooks.cli.arguments import parser
from repmgr_hooks.cli.main import COMMANDS as EXISTING
from repmgr_hooks.reports.exposition import METRICS
from tests.options import all_options

PACKAGE = Path(repmgr_hooks.__file__).parent

OPTIONS = re.compile(
    r"at_latest|steady|keep|most_mb|answer_within|primary_wait|role_changes|tick|keep_days|poke|receiver|barman\.slot|"
    r"nodes\..*\.command|remind|.*\.sender|smtp|alerts.*\.run|retry\.(first|longest|attempts)"
)
COMMANDS = {"continuity", "simulate", "--as-repmgrd", "--recovery", "--alerts", "--forget", "--assume-primary"}
METRIC_WORDS = re.compile(r"good|zombie|leads_to|missing|_waiting|last_look|failed_attempts")
KEYS = {"good", "why", "words", "mend", "what", "key", "told", "zombie", "zombies", "decided", "memory"}
"""Of JSON objects; ``code``, ``message`` and ``hint`` say what three of them said."""
NAMES = {
    *("Trouble", "BadInput", "StepFailed", "Busy", "World", "System", "Cut", "Until", "Judge", "Verdict", "Decided"),
    *(
        "Memory",
        "Managed",
        "Chosen",
        "Done",
        "Run",
        "Recorder",
        "Written",
        "Queue",
        "Watch",
        "Picture",
        "Sight",
        "Story",
    ),
    *(
        "Standing",
        "Position",
        "Lineage",
        "Fork",
        "Held",
        "Alarm",
        "Case",
        "Outbox",
        "Target",
        "Kind",
        "Meaning",
        "Shape",
    ),
    *(
        "Between",
        "Told",
        "shut_out",
        "tend",
        "foresee",
        "beat",
        "knock",
        "decided",
        "memory",
        "picture",
        "sight",
    ),
}
"""Of classes, functions and variables."""
SAID = re.compile(
    r"\bZOMBIE|\bWRONG\b|\bHOLE\b|thing\(s\)|\bmend|\btold\b|\bas is\b|lead port|cut connections|all is as it"
)
"""What a log, a status or a message no longer says."""


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield str(path.relative_to(PACKAGE)), ast.parse(path.read_text())


def names(tree: ast.AST) -> Iterator[str]:
    """Yield the names that a source gives: of classes, functions, arguments, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def keys(tree: ast.AST) -> Iterator[str]:
    """Yield the keys of the dictionaries that a source writes down."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            yield from (key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str))


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the strings of a source that are no docstrings."""
    comments = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in comments:
            yield node.value


def test_options() -> None:
    found = [option.path for option in all_options()]
    assert [path for path in found if OPTIONS.fullmatch(path) or OPTIONS.fullmatch(path.rpartition(".")[2])] == []


def test_commands() -> None:
    assert set(re.findall(r"[\w-]+", parser().format_help())) & COMMANDS == set()


@pytest.mark.parametrize("command", sorted(EXISTING))
def test_help_prints_percent_signs_once(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    said = capsys.readouterr().out
    assert "%%" not in said
    assert ("%n %e %s" in said) == (command == "event")


def test_metrics() -> None:
    assert [name for name in METRICS if METRIC_WORDS.search(name)] == []


@pytest.mark.parametrize(("of", "former"), [(names, NAMES), (keys, KEYS)])
def test_names_and_keys(of: object, former: set[str]) -> None:
    assert callable(of)
    assert {(place, word) for place, tree in trees() for word in of(tree) if word in former} == set()


def test_messages() -> None:
    assert [(place, text) for place, tree in trees() for text in texts(tree) if SAID.search(text)] == []


@pytest.mark.parametrize(
    ("of", "source"),
    [
        (names, "class Case:\n    pass"),
        (names, "def f(memory):\n    pass"),
        (keys, "{'mend': 1}"),
        (texts, "log.info('%d clients told')"),
    ],
)
def test_a_former_word_is_seen(of: object, source: str) -> None:
    assert callable(of)
    assert [word for word in of(ast.parse(source)) if word in NAMES | KEYS or SAID.search(word)]
