"""What the READMEs show exists: options, commands, links, a configuration that loads, and the shape of the output."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks import config
from repmgr_hooks.cli import main as cli
from repmgr_hooks.cli.arguments import parser
from repmgr_hooks.cli.main import COMMANDS
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.handlers.contract import NAMES
from repmgr_hooks.lock import exclusive
from repmgr_hooks.reports.exposition import METRICS
from repmgr_hooks.reports.status import ClusterStatus
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.testing import CHECKS
from tests import readme
from tests.fake import FakeHost
from tests.options import Option, all_options
from tests.readme import HANDLERS, README, block
from tests.unit.test_layers import LAYERS

TABLE = re.compile(r"^\| option \|.*\n\|[-|]+\n((?:\|.*\n)+)", re.MULTILINE)


# -- the configuration -------------------------------------------------------------------------------------------------


CONFIGURATION = readme.TEXTS["config/README.md"]


def documented(text: str = CONFIGURATION) -> list[Option]:
    """Return the rows of the tables of options; what stands in the heading before a table comes before its names."""
    found = []
    for table in TABLE.finditer(text):
        heading = re.findall(r"^### (.*)", text[: table.start()], re.MULTILINE)[-1]
        before = f"{heading.strip('`')}." if heading.startswith("`") else ""
        for row in table[1].splitlines():
            name, kind, _, default, meaning = (cell.strip() for cell in row.strip("|").split("|"))
            assert meaning.endswith("."), row
            found.append(Option(before + name.strip("`"), kind, default))
    return found


def test_the_table_has_every_option_with_its_type_and_default() -> None:
    assert sorted(documented(), key=str) == sorted(all_options(), key=str)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (
            "| `retry.max_delay` | integer, 1 to 86400 | s | 300 |",
            "| `retry.max_delay` | integer, 1 to 86400 | s | 600 |",
        ),
        ("| `gateway.address` | IP address |", "| `gateway.address` | string |"),
        ("| `gateway.address` |", "| `gateway.addr` |"),
        ("| `command.timeout` | integer, 1 to 3600 | s | 30 | The time limit of the program. |\n", ""),
        ("| `notify.sev", "| `notify.to` | list | | none | Whom. |\n| `notify.sev"),
    ],
)
def test_a_wrong_row_is_seen(right: str, wrong: str) -> None:
    assert CONFIGURATION.count(right) == 1
    assert sorted(documented(CONFIGURATION.replace(right, wrong)), key=str) != sorted(all_options(), key=str)


def test_the_configuration_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(block("alerts:"))
    (managed,) = config.load(path).clusters.values()
    assert [action.name for action in managed.routes[0].do] == ["firewall", "slot", "barman", "barman", "firewall"]
    assert len(block("alerts:").splitlines()) <= 25


# -- commands ----------------------------------------------------------------------------------------------------------


def parsed(words: list[str]) -> bool:
    """Whether the program's own parser takes a command line."""
    try:
        parser().parse_args(words)
    except SystemExit:
        return False
    return True


@pytest.mark.parametrize("name", readme.FILES)
def test_each_command_exists(name: str) -> None:
    found = list(readme.commands(readme.TEXTS[name]))
    assert [words for words in found if not parsed(words)] == []
    assert found or name == "tests/README.md"


def test_a_command_that_does_not_exist_is_seen() -> None:
    wrong = "`repmgr-hooks reconcile --assume-primary 2` and\n\n    repmgr-hooks frobnicate\n"
    found = list(readme.commands(wrong))
    assert sorted(words for words in found if not parsed(words)) == [
        ["frobnicate"],
        ["reconcile", "--assume-primary", "2"],
    ]


def rows(text: str) -> list[tuple[list[str], list[str]]]:
    """Return the rows of a table as what stands between backticks in the first cell, and in the others."""
    cells = [line.partition(" | ") for line in text.splitlines() if line.startswith("| `")]
    return [(re.findall(r"`([^`]+)`", first), re.findall(r"`([^`]+)`", rest)) for first, _, rest in cells]


def test_the_table_names_each_command_and_its_options() -> None:
    table = rows(readme.section("## Commands", README))
    assert sorted(readme.filled([name.split()[0]])[0] for names, _ in table for name in names) == sorted(COMMANDS)
    for names, others in table:
        for option in (word for word in others if word.startswith("--")):
            assert any(parsed(readme.filled([*name.split(), *option.split()])) for name in names), (names, option)
        for whole in (words for words in others if words.split()[0] in COMMANDS):
            assert parsed(readme.filled(whole.split())), whole


def test_the_options_of_check() -> None:
    for (option,), _ in rows(readme.section("## check", readme.TEXTS["repmgr_hooks/cli/README.md"])):
        assert parsed(["check", option]), option


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("status", "README.md"),
        ("handlers", "repmgr_hooks/cli/README.md"),
        ("simulate-failover 2", "repmgr_hooks/cli/README.md"),
        ("check-wal", "repmgr_hooks/cli/README.md"),
    ],
)
def test_what_needs_no_cluster(
    command: str,
    name: str,
    run: Callable[..., int],
    host: FakeHost,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """With the cluster of the unit tests, and a service that runs."""
    host.nodes[2].upstream = 1
    host.barman.begin_wal = min(host.barman.archived)
    shown = readme.sample(command, readme.TEXTS[name])
    with exclusive(tmp_path / "worker.lock", 0.0):
        assert run(*shown.words) == 0
    said = "".join(line for line in capsys.readouterr().out.splitlines(keepends=True) if "last event" not in line)
    assert readme.difference(tuple(line for line in shown.output if "last event" not in line), said) == ""


def test_a_file_by_itself(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(readme.REPOSITORY)
    shown = readme.sample("check --offline config/config.yaml", readme.TEXTS["repmgr_hooks/cli/README.md"])
    assert cli.run(list(shown.words)) == 0
    assert readme.difference(shown.output, capsys.readouterr().out) == ""


def test_a_pause(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = (s for s in readme.samples(readme.TEXTS["repmgr_hooks/cli/README.md"]) if s.words[0] == "pause")
    assert run(*shown.words) == 0
    assert readme.difference(shown.output, capsys.readouterr().out) == ""


def test_each_program_of_the_tests_exists() -> None:
    for name, text in readme.TEXTS.items():
        for module in re.findall(r"python -m (tests\.[\w.]+)", text):
            place = readme.REPOSITORY / module.replace(".", "/")
            assert place.with_suffix(".py").exists() or (place / "__main__.py").exists(), (name, module)
        for path in re.findall(r"(?<![\w/])(tests/[\w./]+)", text):
            assert (readme.REPOSITORY / path.rstrip(".")).exists(), (name, path)


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_the_front_page_is_short() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("name", readme.FILES)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", readme.TEXTS[name]):
        file, _, anchor = link.partition("#")
        place = (readme.REPOSITORY / name).parent / file if file else readme.REPOSITORY / name
        assert place.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)", place.read_text(), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-").replace(",", "") for heading in headings], link


@pytest.mark.parametrize("name", [*readme.FILES, "config/config.yaml"])
def test_the_words_are_plain(name: str) -> None:
    """Words that a reader stumbles over, or that have a better one in the glossary."""
    odd = (
        r"zombie(?!`)|loudly|in ruins|lying|from the dead|a hole|shop|\btold\b|stands? in the way|root's alone|"
        r"to go back|3 a\.m\.|\bmend|\bverb\b|place of the fork|as it should be"
    )
    assert re.findall(odd, (readme.REPOSITORY / name).read_text(), re.IGNORECASE) == []


def test_the_glossary_has_each_word_once_in_order() -> None:
    glossary = readme.section("## Glossary", readme.TEXTS["repmgr_hooks/README.md"])
    words = re.findall(r"^\| ([a-z -]+) \| (?!means)", glossary, re.MULTILINE)
    assert words == sorted(set(words))


def test_the_layers_are_those_that_are_kept() -> None:
    table = rows(readme.section("## Layers", readme.TEXTS["repmgr_hooks/README.md"]))
    assert [sorted(names) for names, _ in table] == [sorted(layer.split()) for layer in LAYERS.split(">")]


def test_each_metric_is_named() -> None:
    text = readme.section("## metrics", readme.TEXTS["repmgr_hooks/cli/README.md"])
    assert [name for name in METRICS if not re.search(rf"\b(repmgr_hooks_)?{name}\b", text)] == []
    assert set(re.findall(r"repmgr_hooks_(\w+)", text)) <= set(METRICS)


@pytest.mark.parametrize("name", readme.FILES)
def test_units_and_shipped_files_exist(name: str) -> None:
    text, shipped = readme.TEXTS[name], readme.REPOSITORY
    units = re.findall(r"repmgr(?:d@|-hooks)[\w-]*\.(?:service|timer)", text)
    assert [unit for unit in units if not (shipped / "systemd" / unit).exists()] == []
    files = re.findall(r"`(config/[\w./-]+)`", text)
    assert [file for file in files if not (shipped / file).exists()] == []


@pytest.mark.parametrize(
    ("name", "actions"),
    [("app-only", ["firewall"]), ("barman-only", ["firewall", "slot"]), ("two-gateways", ["firewall", "slot"])],
)
def test_the_other_files_load(name: str, actions: list[str], tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text((readme.REPOSITORY / f"config/{name}.yaml").read_text())
    (managed,) = config.load(path).clusters.values()
    assert [action.name for action in managed.routes[0].do][:2] == actions


def test_each_key_of_status_is_named() -> None:
    text = readme.section("## status", readme.TEXTS["repmgr_hooks/cli/README.md"])
    keys = {field.name for field in dataclasses.fields(ClusterStatus)} | {"healthy"}
    assert sorted(key for key in keys if f"`{key}`" not in text) == []


def test_the_handler_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(block("alerts:"))
    managed = config.load(path).clusters["main"]
    handler = types.ModuleType("primary_file")
    monkeypatch.setitem(sys.modules, "primary_file", handler)
    handler.__dict__["__name__"] = "primary_file"
    exec(block('"""A file that names', HANDLERS), handler.__dict__)  # noqa: S102 - the README's own text
    options = handler.Config(str(tmp_path / "primary"))
    assert list(handler.validate(options, managed.cluster)) == []
    host, state = LocalHost({}), ClusterState(managed.cluster, 2, 2)

    for step in handler.plan(options, state, handler.observe(options, state, host)):
        apply(step, host)

    assert (tmp_path / "primary").read_text() == "10.0.0.12"
    assert handler.plan(options, state, handler.observe(options, state, host)) == []

    names: dict[str, Any] = {"cluster": managed.cluster, "ClusterState": ClusterState, "Config": handler.Config}
    names["primary_file"] = handler
    exec(block("def test_another_primary", HANDLERS), names)  # noqa: S102 - the README's own text
    names["test_another_primary"]()


def run_pytest(place: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{readme.REPOSITORY}:{place}", "PYTHONDONTWRITEBYTECODE": "1"}
    words = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(place), str(place))
    ended = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=place, timeout=300, check=False)
    return ended.stdout + ended.stderr


def test_the_test_of_the_handler_works(tmp_path: Path) -> None:
    """The text of the README and nothing else; then with a fault in it."""
    handler = block('"""A file that names', HANDLERS)
    (tmp_path / "primary_file.py").write_text(handler)
    (tmp_path / "test_primary_file.py").write_text(block('"""Whether primary_file', HANDLERS))
    assert f"{len(CHECKS)} passed" in run_pytest(tmp_path)
    (tmp_path / "primary_file.py").write_text(handler.replace("if seen ==", "if seen !="))
    said = run_pytest(tmp_path)
    assert "'plan' says that nothing is missing, and the world says: it names None" in said
    assert "FAILED test_primary_file.py::test_primary_file[convergence]" in said


def test_the_table_of_checks_is_complete() -> None:
    table = re.findall(r"^\| `(\w+)` \|", HANDLERS.partition("## Test it")[2], re.MULTILINE)
    assert table == list(CHECKS)


def test_the_table_names_the_whole_contract() -> None:
    table = re.findall(r"^\| `(\w+)[`(]", HANDLERS.partition("## What it may use")[0], re.MULTILINE)
    assert sorted(table) == sorted(NAMES)
