"""The phase in which repmgr is at work: what is made of it when the connection to its node is lost, or clients are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.engine import hold as holding
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.journal import holds
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover import drive, record
from repmgr_hooks.switchover.on_node import ENDED, Repmgr, RepmgrState
from repmgr_hooks.switchover.phases import Plan, Work, switch
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost
from tests.unit.reports.test_status import MAIN

LIMIT = 240.0
WORKS, OVER, UNPROMOTED = RepmgrState.AT_WORK.value, RepmgrState.OVER.value, RepmgrState.UNPROMOTED.value


class UnderWay:
    """A switchover from node 1 to node 2 whose clients are held; ``ssh`` is what the node answers."""

    def __init__(self, place: Path, ssh: Callable[[Program], str]) -> None:
        self.host = FakeHost()
        self.host.programs["ssh"] = ssh
        nodes = {number: replace(node, shell=("ssh",)) for number, node in MAIN.cluster.nodes.items()}  # noqa: S604
        cluster: Cluster = replace(MAIN.cluster, nodes=nodes, state_dir=str(place))
        managed: ManagedCluster = replace(MAIN, cluster=cluster)
        plan = Plan(ClusterState(cluster, 1, 1), 2, Repmgr(("ssh", "db2"), "/data", "/conf"), ("app",), (), managed, {})
        finder = PrimaryFinder(cluster, LastKnownPrimary())
        self.work = Work(plan, self.host, lambda: finder)
        self.work.hold = holding.begin(managed, 1, 1, limit=60, means=[], why="a test", pgbouncers={})

    def paused(self) -> None:
        """As repmgrd is meanwhile."""
        for node in self.host.nodes.values():
            node.paused = True


def answers(*said: str) -> Callable[[Program], str]:
    """The connection is lost; asked anew whether repmgr has ended, the node says this, and the last for ever."""
    left = list(said)

    def ssh(program: Program) -> str:
        if "/go " in program.stdin or "/go\n" in program.stdin:
            raise OperationFailed("ssh: connection lost")
        return left.pop(0) if len(left) > 1 else left[0]

    return ssh


@pytest.mark.parametrize(("said", "promoting"), [(OVER, True), (UNPROMOTED, False)])
def test_repmgr_that_has_ended_is_waited_for_no_longer(tmp_path: Path, said: str, promoting: bool) -> None:
    it = UnderWay(tmp_path, answers(WORKS, WORKS, said))
    with pytest.raises(OperationFailed, match="connection lost"):
        switch(it.work, LIMIT)
    assert it.host.now() < 10
    assert (it.work.record.repmgr, it.work.record.promoting) == (False, promoting)


def test_repmgr_that_goes_on_is_waited_for(tmp_path: Path) -> None:
    it = UnderWay(tmp_path, answers(WORKS))
    it.host.at(20, it.host.fail_over)
    switch(it.work, LIMIT)
    assert it.work.primary() == 2


@pytest.mark.parametrize(
    ("said", "promoting"),
    [("ERROR: it did not stop", False), ("NOTICE: promoting standby to primary\nERROR: it is late", True)],
)
def test_how_far_repmgr_came_is_noted(tmp_path: Path, said: str, promoting: bool) -> None:
    it = UnderWay(tmp_path, lambda _: f"{said}\n{ENDED} 8\n")
    with pytest.raises(OperationFailed, match="repmgr: it"):
        switch(it.work, LIMIT)
    assert (it.work.record.repmgr, it.work.record.promoting) == (False, promoting)


def test_repmgr_gets_no_word_when_clients_are_not_held_any_more(tmp_path: Path) -> None:
    it = UnderWay(tmp_path, answers(WORKS))
    holds.forget(it.work.plan.managed.cluster)
    with pytest.raises(OperationFailed, match="not held any more"):
        switch(it.work, LIMIT)
    assert not [program for program in it.host.ran if program.argv[0] == "ssh"]
    assert record.read(it.work.plan.managed.cluster) is None


def test_where_it_is_not_known_what_repmgr_did_its_node_is_promoted(tmp_path: Path) -> None:
    """The connection was lost, and the old primary has died: a repmgrd that gave it up while paused promotes nobody."""
    it = UnderWay(tmp_path, lambda program: "")
    it.host.lose(1)
    it.work.note(promoting=True)
    it.paused()
    assert drive.somebody_serves(it.work)
    assert "standby promote" in it.host.ran[-1].stdin


def test_a_primary_that_is_busy_is_waited_for(tmp_path: Path) -> None:
    it = UnderWay(tmp_path, lambda program: "")
    it.paused()
    it.host.nodes[1].reachable = False
    it.host.at(3, lambda: setattr(it.host.nodes[1], "reachable", True))
    assert drive.somebody_serves(it.work)
    assert not [program for program in it.host.ran if "promote" in program.stdin]


@pytest.mark.parametrize("held", [True, False])
def test_a_primary_that_dies_before_repmgr_was_let_go_on(tmp_path: Path, held: bool) -> None:
    """repmgrd was paused when it gave the primary up, and promotes nobody; whether clients are held makes no odds."""
    it = UnderWay(tmp_path, lambda program: it.host.promote(2) or "" if "promote" in program.stdin else "")  # type: ignore[func-returns-value]
    if not held:
        holding.release(it.work.plan.managed, it.work.hold, it.host)  # type: ignore[arg-type]
        it.work.hold = None
    it.paused()
    it.work.note(paused=(1, 2))
    it.host.lose(1)
    outcome = drive.end(it.work, Problem("hold_over", "clients are not held any more"))
    assert outcome.primary == 2
    assert not it.host.nodes[2].paused


def test_a_node_whose_repmgrd_is_not_paused_is_left_to_it(tmp_path: Path) -> None:
    """The service has unpaused it, for the command was stopped for long: repmgrd may be about to promote the node."""
    it = UnderWay(tmp_path, lambda program: "")
    it.host.lose(1)
    assert not drive.somebody_serves(it.work)
    assert not [program for program in it.host.ran if program.argv[0] == "ssh"]
