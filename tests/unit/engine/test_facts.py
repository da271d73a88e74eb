"""Steps and errors are facts; their sentences are for people, and no code reads one back."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import repmgr_hooks
from repmgr_hooks import config
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.errors import NoSuchProgram
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import command
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import Failed, Place, StepRow
from repmgr_hooks.reports import history
from repmgr_hooks.service.foreground import run_now
from repmgr_hooks.system.steps import Program, Step
from tests.fake import FakeHost

MAIN = config.load(Path(__file__).parents[3] / "config/config.yaml").clusters["main"]
PROMOTED = Event(2, "standby_promote")
READS = {"startswith", "endswith", "partition", "rpartition", "removeprefix", "removesuffix", "split", "find", "index"}
SENTENCES = {"what", "message", "title"}


def failed_over() -> FakeHost:
    host = FakeHost()
    assert handle(MAIN, host, []).ok
    host.fail_over()
    return host


def reworded(managed: ManagedCluster) -> ManagedCluster:
    """The same routes, whose handlers speak another language."""

    def speaks(action: Action) -> Action:
        def plan(*given: Any) -> list[Step]:
            return [replace(step, what=f"étape {number}") for number, step in enumerate(action.handler.plan(*given))]

        handler: Any = SimpleNamespace(**{**vars(action.handler), "plan": plan})
        return replace(action, handler=handler)

    return replace(managed, routes=tuple(replace(route, do=tuple(map(speaks, route.do))) for route in managed.routes))


def facts(steps: list[StepRow]) -> list[tuple[object, ...]]:
    return [(step.place, step.kind, step.target, step.node, step.code) for step in steps]


def handled(managed: ManagedCluster, path: Path) -> tuple[list[StepRow], Any]:
    """The steps of a failover as the journal has them, and its run as history shows it."""
    journal = Journal(path)
    assert run_now(managed, failed_over(), [PROMOTED], "event", journal).ok
    (run,) = history.read(journal, 9, None, False)
    steps = journal.steps(run["id"])
    journal.close()
    return steps, run


def test_the_facts_of_a_failover(tmp_path: Path) -> None:
    steps, run = handled(MAIN, tmp_path / "journal.db")
    assert [(step.kind, step.target, step.node) for step in steps if step.kind != "reset_connections"] == [
        ("open_port", "barman", 2),
        ("create_slot", "barman", 2),
        ("stop_stream", "main_backup", None),
        ("start_stream", "main_backup", 2),
        ("switch_wal", "main_backup", 2),
        ("open_port", "app", 2),
    ]
    assert {step.target for step in steps if step.kind == "reset_connections"} == {"barman", "app"}
    assert all(step.place.path.startswith("[0].do[") for step in steps)
    assert [step["kind"] for step in json.loads(json.dumps(run))["steps"]] == [step.kind for step in steps]


def test_other_words_change_nothing(tmp_path: Path) -> None:
    ours, _ = handled(MAIN, tmp_path / "ours.db")
    theirs, _ = handled(reworded(MAIN), tmp_path / "theirs.db")
    assert facts(theirs) == facts(ours)
    assert {step.what.split()[0] for step in theirs} == {"étape"}


@pytest.mark.parametrize(
    ("named", "kind", "target"),
    [
        ({"kind": "update_dns", "target": "db.example.com"}, "update_dns", "db.example.com"),
        ({}, "dns", ""),
        ({"kind": "a\nb", "target": "\x1b[2J"}, "a b", "\\x1b[2J"),
    ],
    ids=["a kind of its own", "none: the handler's name", "foreign text"],
)
def test_a_plug_in_has_kinds_of_its_own(tmp_path: Path, named: dict[str, str], kind: str, target: str) -> None:
    host, journal = failed_over(), Journal(tmp_path / "journal.db")
    host.programs["/bin/dns"] = lambda program: ""
    steps = [Step("point the name at the primary", Program(("/bin/dns",)), 5, **named)]  # type: ignore[arg-type]
    handler: Any = SimpleNamespace(**{**vars(command), "plan": lambda *_: steps})
    action = Action("dns", handler, None, "dns {}", "[0].do[0]")
    managed = replace(MAIN, routes=(Route(frozenset({PROMOTED.name}), (action,)),))
    assert run_now(managed, host, [PROMOTED], "event", journal).ok
    (run,) = history.read(journal, 9, None, False)
    (step,) = run["steps"]
    assert (step["action"], step["kind"], step["target"]) == ("dns {}", kind, target)
    assert "point the name at the primary" in "\n".join(history.lines([run]))
    journal.close()


def test_an_error_keeps_its_code_and_its_hint(tmp_path: Path) -> None:
    def missing(program: Program) -> str:
        raise NoSuchProgram("/bin/dns: no such program", hint="install it")

    host, journal = failed_over(), Journal(tmp_path / "journal.db")
    host.programs["/bin/dns"] = missing
    handler: Any = SimpleNamespace(**{**vars(command), "plan": lambda *_: [Step("x", Program(("/bin/dns",)), 5)]})
    action = Action("dns", handler, None, "dns {}", "[0].do[0]")
    managed = replace(MAIN, routes=(Route(frozenset({PROMOTED.name}), (action,)),))
    assert not run_now(managed, host, [PROMOTED], "event", journal).ok
    (run,) = journal.runs(9)
    (step,) = journal.steps(run.id)
    assert (run.code, run.hint) == (step.code, step.hint) == ("no_such_program", "install it")
    assert run.left == (Failed(Place("[0].do[0]", "dns {}", PROMOTED.name, PROMOTED.node), "no_such_program"),)
    shown = history.lines(history.read(journal, 9, None, False))
    assert shown[-1] == "    HINT: install it"
    journal.close()


def sentences_read(source: str) -> Iterator[str]:
    """Where a source compares a sentence, or takes it to pieces."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare):
            found = [side for side in (node.left, *node.comparators) if isinstance(side, ast.Attribute)]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in READS:
            found = [node.func.value] if isinstance(node.func.value, ast.Attribute) else []
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re."):
            found = [given for given in node.args if isinstance(given, ast.Attribute)]
        else:
            continue
        yield from (ast.unparse(node) for side in found if side.attr in SENTENCES)


PACKAGE = Path(repmgr_hooks.__file__).parent


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_code_reads_a_sentence(path: Path) -> None:
    assert list(sentences_read(path.read_text())) == []


@pytest.mark.parametrize(
    "line",
    [
        're.match(r"route port (.*)", item.what)',
        'run.message.partition("; the primary is")[0]',
        'item.what.startswith("reset connections ")',
        "action.title in left",
    ],
)
def test_a_sentence_that_is_read_is_seen(line: str) -> None:
    """All of these stood in the code."""
    assert list(sentences_read(line))
