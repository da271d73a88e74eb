"""The test kit finds each kind of fault, and says what is wrong and where; what is good it calls good."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from repmgr_hooks.system.steps import Program
from repmgr_hooks.testing import CHECKS, CLUSTER, ScriptedHost, cluster_of, ended, examine, usual_states
from tests.unit.testing import good
from tests.unit.testing.faults import FAULTS

SOURCE = Path(good.__file__).read_text()
OPTIONS = {"name": "db"}


class Names(ScriptedHost):
    """A name that leads to an address; it can be changed once somebody has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.address, self.begun, self.times = "192.0.2.1", False, 0
        self.programs = {"lookup": self.lookup, "name": self.name, "ready": self.ready, "begin": self.begin}

    def lookup(self, program: Program) -> str:
        return f"{self.address}\n"

    def ready(self, program: Program) -> str:
        return "yes" if self.begun else "no"

    def begin(self, program: Program) -> str:
        if self.begun:
            return ended(program, 1, "", "has begun already")
        self.begun = True
        return ""

    def wrong(self) -> str:
        assert self.state
        return "" if self.address == self.state.primary_host else f"db leads to {self.address}"

    def name(self, program: Program) -> str:
        if not self.begun:
            return ended(program, 1, "", "not begun")
        self.times += 1
        self.address = program.argv[2]
        return ""


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ModuleType]:
    """The good handler with some text in it changed."""

    def make(*changes: tuple[str, str]) -> ModuleType:
        text = SOURCE
        for old, new in changes:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        path = tmp_path / "faulty.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location("faulty", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "faulty", module)
        spec.loader.exec_module(module)
        return module

    return make


def test_a_good_handler_is_good() -> None:
    assert examine(good, OPTIONS, Names) == []


PLANTED = [(check, fault[:-1], fault[-1]) for check, faults in FAULTS.items() for fault in faults]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("check", "changes", "said"), PLANTED, ids=[f"{check}: {said}" for check, _, said in PLANTED])
def test_a_planted_fault_is_found(
    changed: Callable[..., ModuleType], check: str, changes: tuple[tuple[str, str], ...], said: str
) -> None:
    found = examine(changed(*changes), OPTIONS, Names, checks={check: CHECKS[check]})  # type: ignore[arg-type]
    assert len(found) == 1
    assert re.search(".*".join(map(re.escape, said.split("..."))), found[0], re.DOTALL), found[0]


def test_each_check_has_planted_faults() -> None:
    assert FAULTS.keys() == CHECKS.keys()


def test_a_notification_is_asked_while_no_primary_is_known(changed: Callable[..., ModuleType]) -> None:
    told = changed(
        (
            "def observe(config: Config, state: ClusterState, host: Host) -> dict[str, str]:",
            "def unused(config, host):",
        ),
        ("def plan(", "observe = None\n\n\ndef plan("),
        ("    steps = []\n", "    return [Step(f'tell of {state.primary + 0}', Program(('tell',)), 5)]\n"),
    )
    (found,) = examine(told, OPTIONS, Names)  # type: ignore[arg-type]
    assert found.startswith("purity: 'plan' raises TypeError")
    assert found.endswith("(no primary is known) (node 1 is the primary)")


def test_a_world_without_an_answer_says_so() -> None:
    world = ScriptedHost
    assert "contract" not in "".join(examine(good, OPTIONS, world))  # type: ignore[arg-type]
    assert examine(good, OPTIONS, world)[0] == "purity: the test has no answer for 'lookup': add it to 'programs'"  # type: ignore[arg-type]


def test_another_cluster() -> None:
    """With a witness before its nodes, and one state alone."""
    nodes = {9: {"host": "10.0.0.19", "witness": True}, 4: {"host": "10.0.0.14"}, 5: {"host": "10.0.0.15"}}
    cluster = cluster_of({**CLUSTER, "nodes": nodes})
    states = usual_states(cluster)
    assert [state.primary for state in states.values()] == [4, 5, 5, 5, 4]
    assert examine(good, OPTIONS, Names, cluster=cluster) == []  # type: ignore[arg-type]
    assert examine(good, OPTIONS, Names, cluster, {"now": states["node 4 is the primary"]}) == []  # type: ignore[arg-type]


def test_a_cluster_without_a_standby() -> None:
    cluster = cluster_of({**CLUSTER, "nodes": {1: {"host": "10.0.0.11"}}})
    (found,) = {said.partition(": ")[2] for said in examine(good, OPTIONS, Names, cluster=cluster)}  # type: ignore[arg-type]
    assert found == "a cluster needs two nodes for a failover"


def test_rows_of_a_node_keep_their_shape(changed: Callable[..., ModuleType]) -> None:
    """What is foreign are the words in them."""
    sql = 'host.fetch(Sql(1, "select"), 5)'
    said = (
        '    said = host.run(Program(("lookup", config.name)), 5)\n',
        f"    ((said, number),) = {sql}\n    number + 1\n",
    )
    imported = ("import Host, Program, Step", "import Host, Program, Sql, Step")

    class Rows(Names):
        def __init__(self) -> None:
            super().__init__()
            self.statements = {"select": lambda sql: [(self.address, 7)]}

    assert examine(changed(said, imported), OPTIONS, Rows) == []  # type: ignore[arg-type]
    careless = (said[0], f"{said[1]}    said.encode()\n")
    (found,) = examine(changed(careless, imported), OPTIONS, Rows)  # type: ignore[arg-type]
    assert "foreign_text: 'observe' raises UnicodeEncodeError" in found
