"""What the README shows: its handler keeps the contract, and its configuration loads."""

from __future__ import annotations

import re
import sys
import textwrap
import types
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.handlers.contract import NAMES
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import apply

REPOSITORY = Path(__file__).resolve().parents[3]
README = (REPOSITORY / "README.md").read_text()
HANDLERS = (REPOSITORY / "repmgr_hooks/handlers/README.md").read_text()


def block(begins: str, text: str = README) -> str:
    """Return the indented block that begins with a line."""
    lines = text[text.index(f"    {begins}") :].splitlines()
    end = next(number for number, line in enumerate(lines) if line and not line.startswith("    "))
    return textwrap.dedent("\n".join(lines[:end]))


def test_the_configuration_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(block("clusters:"))
    (managed,) = config.load(path).clusters.values()
    assert [action.name for action in managed.routes[0].do] == ["firewall", "slot", "barman", "barman", "firewall"]


def test_the_handler_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(block("clusters:"))
    managed = config.load(path).clusters["main"]
    handler = types.ModuleType("primary_file")
    monkeypatch.setitem(sys.modules, "primary_file", handler)
    handler.__dict__["__name__"] = "primary_file"
    exec(block('"""A file that names', HANDLERS), handler.__dict__)  # noqa: S102 - the README's own text
    options = handler.Config(str(tmp_path / "primary"))
    assert list(handler.validate(options, managed.cluster)) == []
    host, decided = LocalHost({}), ClusterState(managed.cluster, 2, 2)

    for step in handler.plan(options, decided, handler.observe(options, decided, host)):
        apply(step, host)

    assert (tmp_path / "primary").read_text() == "10.0.0.12"
    assert handler.plan(options, decided, handler.observe(options, decided, host)) == []


def test_the_table_names_the_whole_contract() -> None:
    table = re.findall(r"^\| `(\w+)", HANDLERS, re.MULTILINE)
    assert sorted(table) == sorted(NAMES)


def test_every_command_is_named() -> None:
    from repmgr_hooks.cli.main import COMMANDS

    table = README[README.index("## The command line") :]
    assert [command for command in COMMANDS if not re.search(rf"`{command}\b", table)] == []
