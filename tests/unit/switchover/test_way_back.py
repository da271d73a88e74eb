"""The old primary is started again only if nobody can have been promoted: by a real shell, with programs of ours."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from repmgr_hooks.cluster.observe import NodeState, Registered
from repmgr_hooks.journal.holds import Holder
from repmgr_hooks.settings.cluster import Cluster, Node
from repmgr_hooks.switchover.on_node import SETTINGS
from repmgr_hooks.switchover.record import Record
from repmgr_hooks.switchover.way_back import promote, start_old_primary
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import Rows, Sql
from tests.unit.switchover.test_preflight import CLUSTER

LIMIT = 60.0
HOLDER = Holder(7, 123, "boot")
TARGET = 2
STATES = (NodeState(1, "refused"), NodeState(2, "refused"), NodeState(3, timeline=3))
ALIVE = (STATES[0], NodeState(2, timeline=3), STATES[2])
CONTROL = "pg_control version number:            1300\nDatabase cluster state:               {}\n"


class NodesAnswer(LocalHost):
    """Programs are run; nodes are not there, and say all the same which repmgr.conf is theirs, and where they are."""

    def __init__(self, directory: Path) -> None:
        super().__init__({})
        self._directory = directory

    def fetch(self, sql: Sql, limit: float) -> Rows:
        if sql == Sql(3, SETTINGS):
            return [(str(self._directory),)]
        return [(number, f"db{number}", "host=h", f"/etc/db{number}.conf") for number in CLUSTER.nodes]


def reached_by(*command: str) -> Cluster:
    return replace(CLUSTER, nodes={number: replace(node, shell=command) for number, node in CLUSTER.nodes.items()})


@dataclass(frozen=True)
class Nodes:
    """The data directories of the old primary and of the target, both down, and what was started."""

    place: Path

    @property
    def old(self) -> Path:
        return self.place / "old"

    @property
    def target(self) -> Path:
        return self.place / "target"

    def control(self, state: str) -> None:
        (self.old / "control").write_text(CONTROL.format(state))

    def begin(self, states: tuple[NodeState, ...] = STATES, promoting: bool = True) -> bool:
        return start_old_primary(reached_by("env"), self.record(promoting), states, LocalHost({}))

    def promote(
        self, states: tuple[NodeState, ...], command: tuple[str, ...] = (), promoting: bool = False
    ) -> int | None:
        cluster = replace(reached_by("env"), nodes={**reached_by("env").nodes, 3: Node("10.0.0.13", shell=command)})
        return promote(cluster, self.record(promoting), states, NodesAnswer(self.target))

    def record(self, promoting: bool) -> Record:
        repmgrs = tuple((node, str(place), "/etc/it's.conf") for node, place in ((TARGET, self.target), (1, self.old)))
        return Record(HOLDER, 1, TARGET, 0.0, 0.0, promoting=promoting, timeline=3, repmgrs=repmgrs)

    @property
    def started(self) -> str:
        log = self.place / "log"
        return log.read_text() if log.exists() else ""


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Nodes:
    made = Nodes(tmp_path)
    programs = {
        "pg_controldata": 'cat "$1/control"',
        "pg_ctl": f'echo "pg_ctl $*" >>{tmp_path}/log; [ ! -e hangs ]',
        "repmgr": f'echo "repmgr $*" >>{tmp_path}/log; [ ! -e {tmp_path}/refuses ]',
    }
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    for name, text in programs.items():
        program = tmp_path / "bin" / name
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    for place in (made.old, made.target):
        (place / "pg_wal").mkdir(parents=True)
        (place / "pg_wal/000000030000000000000007").touch()
        (place / "pg_wal/00000003.history").touch()
        (place / "postmaster.opts").write_text(f'{tmp_path}/bin/postgres "-D" "{place}"\n')
    made.control("shut down")
    return made


def test_the_old_primary_is_started_again(nodes: Nodes) -> None:
    assert nodes.begin()
    wait_for_log(nodes, "\n")
    assert nodes.started == "repmgr -f /etc/it's.conf node service --action=start\n"


def wait_for_log(nodes: Nodes, text: str) -> None:
    end = time.monotonic() + LIMIT
    while text not in nodes.started:
        assert time.monotonic() < end, nodes.started
        time.sleep(0.05)


def test_one_that_has_stopped_before_repmgr_promoted_anybody_is_started(nodes: Nodes) -> None:
    assert not nodes.begin(ALIVE)
    assert nodes.begin(ALIVE, promoting=False)
    wait_for_log(nodes, "node service --action=start")


def pid_file(nodes: Nodes, pid: int, status: str) -> None:
    """As PostgreSQL writes it (pidfile.h)."""
    lines = [str(pid), str(nodes.old), "1800000000", "5432", "/run/postgresql", "*", "  1  2", f"{status:<8}"]
    (nodes.old / "postmaster.pid").write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("status", ["ready", "starting", ""])
def test_one_that_serves_and_that_we_cannot_reach_is_left_alone(nodes: Nodes, status: str) -> None:
    pid_file(nodes, os.getpid(), status)
    assert not nodes.begin(ALIVE)
    assert nodes.started == ""


@pytest.mark.parametrize("hangs", [False, True])
def test_one_that_does_not_stop_is_ended_and_started(nodes: Nodes, hangs: bool) -> None:
    """repmgr has given it up; a standby is not promoted while it runs."""
    pid_file(nodes, os.getpid(), "stopping")
    nodes.control("in production")
    if hangs:
        (nodes.old / "hangs").touch()
    assert nodes.begin(ALIVE) is not hangs
    wait_for_log(nodes, "pg_ctl -D . -m immediate" if hangs else "node service --action=start")
    assert nodes.started.startswith("pg_ctl -D . -m immediate -w")
    assert ("repmgr" in nodes.started) is not hangs


def test_one_that_has_ended_meanwhile_is_left_to_repmgrd(nodes: Nodes) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait(60)
    pid_file(nodes, ended.pid, "stopping")
    assert not nodes.begin(ALIVE)
    assert nodes.started == ""


def runs(nodes: Nodes) -> None:
    (nodes.target / "postmaster.pid").write_text(f"{os.getpid()}\n")


DANGERS: dict[str, Callable[[Nodes], object]] = {
    "the target has begun a timeline": lambda nodes: (nodes.target / "pg_wal/00000004.history").touch(),
    "it has begun one beside others": lambda nodes: (nodes.target / "pg_wal/0000000A.history").touch(),
    "the target runs": runs,
    "its files cannot be seen": lambda nodes: (nodes.target / "pg_wal").rename(nodes.target / "gone"),
    "its disk is gone": lambda nodes: nodes.target.rename(nodes.place / "gone"),
    "the old primary was killed": lambda nodes: nodes.control("in production"),
    "the old primary is stopping": lambda nodes: nodes.control("shutting down"),
    "the old primary is a standby already": lambda nodes: (nodes.old / "standby.signal").touch(),
    "the old primary is being restored": lambda nodes: (nodes.old / "recovery.signal").touch(),
}


@pytest.mark.parametrize("danger", DANGERS)
def test_there_are_never_two_primaries(nodes: Nodes, danger: str) -> None:
    DANGERS[danger](nodes)
    assert not nodes.begin()
    assert nodes.started == ""


@pytest.mark.parametrize(
    "states",
    [
        ALIVE,  # and the old primary has stopped: repmgr may have begun to promote, and repmgrd does
        (STATES[0], STATES[1], NodeState(3, "refused")),
        (STATES[0], STATES[1], replace(STATES[2], in_recovery=False)),
        (STATES[0], STATES[1], replace(STATES[2], timeline=4)),
    ],
)
def test_where_another_may_be_promoted_it_is_left_to_repmgrd(nodes: Nodes, states: tuple[NodeState, ...]) -> None:
    assert not nodes.begin(states)
    assert nodes.started == ""


def test_a_witness_is_nobody_to_promote(nodes: Nodes) -> None:
    assert nodes.begin((*STATES, NodeState(4, "refused", witness=True)))


def test_where_the_old_primary_has_died_repmgr_promotes(nodes: Nodes) -> None:
    runs(nodes)
    assert nodes.promote(ALIVE) == TARGET
    assert nodes.started == "repmgr -f /etc/it's.conf standby promote --siblings-follow\n"


def test_a_witness_is_one_of_more_than_half(nodes: Nodes) -> None:
    runs(nodes)
    assert nodes.promote((*SILENT, NodeState(4, in_recovery=False, witness=True)))


def test_repmgr_may_refuse(nodes: Nodes) -> None:
    runs(nodes)
    (nodes.place / "refuses").touch()
    assert not nodes.promote(ALIVE)


AHEAD = (*ALIVE[:2], replace(ALIVE[2], lsn=7))


def test_the_node_with_the_most_wal_is_promoted(nodes: Nodes) -> None:
    """Its last commits may be nowhere else: with quorum commit one standby is enough."""
    runs(nodes)
    assert nodes.promote(AHEAD, ("env",)) == 3
    assert nodes.started == "repmgr -f /etc/db3.conf standby promote --siblings-follow\n"


def test_where_repmgr_may_have_begun_to_promote_a_node_no_other_is_promoted(nodes: Nodes) -> None:
    runs(nodes)
    assert not nodes.promote(AHEAD, ("env",), promoting=True)
    assert nodes.started == ""
    assert nodes.promote(ALIVE, promoting=True)
    assert "it's.conf standby promote" in nodes.started


def test_the_node_with_the_most_wal_has_no_shell(nodes: Nodes) -> None:
    runs(nodes)
    assert not nodes.promote(AHEAD)
    assert nodes.started == ""


def test_a_node_that_repmgr_never_promotes_is_not_waited_for(nodes: Nodes) -> None:
    runs(nodes)
    never = (Registered(3, "standby", True, 1, priority=0),)
    assert nodes.promote((AHEAD[0], replace(AHEAD[1], registered=never), AHEAD[2]))
    assert "it's.conf" in nodes.started


SILENT = (*ALIVE[:2], NodeState(3, "refused"))


@pytest.mark.parametrize(
    "states",
    [
        STATES,
        SILENT,
        (*SILENT, NodeState(4, "refused", witness=True)),
        (*ALIVE[:2], replace(ALIVE[2], in_recovery=False)),
        (*ALIVE[:2], replace(ALIVE[2], timeline=4)),
    ],
)
def test_nobody_is_promoted_beside_another_or_while_it_is_down(nodes: Nodes, states: tuple[NodeState, ...]) -> None:
    runs(nodes)
    assert not nodes.promote(states)
    assert nodes.started == ""
