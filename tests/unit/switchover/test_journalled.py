"""What the journal keeps of a switchover, and what a report on the change of the primary shows of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import Problem
from repmgr_hooks.journal.journal import Journal, open_journal
from repmgr_hooks.journal.rows import Place, StepRow
from repmgr_hooks.reports import failover, failover_text
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.switchover import journalled
from repmgr_hooks.switchover.drive import Outcome
from repmgr_hooks.switchover.on_node import Repmgr
from repmgr_hooks.switchover.phases import PHASES, Ended, Plan

T = 1_800_000_000.0
CLUSTER = Cluster({1: Node("10.0.0.11"), 2: Node("10.0.0.12")}, Gateway("10.0.0.20", {"app": 54322}), name="main")
PLAN = Plan(
    ClusterState(CLUSTER, 1, 1),
    2,
    Repmgr((), "/data", "/etc/repmgr.conf"),
    ("app",),
    (1, 2),
    ManagedCluster(CLUSTER, ()),
    {},
)
PHASE = {phase.name: phase for phase in PHASES}


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    monkeypatch.setattr(time, "time", lambda: T + 20)
    made = open_journal(tmp_path / "journal.db")
    yield made
    made.close()


def outcome(problem: Problem | None = None, primary: int = 2) -> Outcome:
    switch = Ended(PHASE["switch"], T + 1, 6.0, problem)
    return Outcome(primary, True, problem, T, T + 9, (Ended(PHASE["hold"], T, 0.1), switch))


def opened(journal: Journal, at: float, port: str = "app") -> None:
    run = journal.begin_run("main", "drift", 1, [])
    journal.add_step(run, StepRow(Place("", "firewall"), "open_port", port, 2, "route it", at - 0.5, 0.5))
    journal.end_run(run, True, False, "done", 2, 2)


def test_clients_were_held_until_the_run_led_their_port(journal: Journal) -> None:
    opened(journal, T - 100)
    opened(journal, T + 4)
    opened(journal, T + 7, "barman")
    assert journalled.held_for(outcome(), PLAN, journal) == 4


def test_clients_that_no_run_let_go_on_were_held_until_the_command_did(journal: Journal) -> None:
    opened(journal, T - 100)
    assert journalled.held_for(outcome(primary=1), PLAN, journal) == 9


def test_the_report_says_for_how_long(journal: Journal) -> None:
    journal.remember("main", LastKnownPrimary(1, 1, "7"))
    opened(journal, T + 4)
    journal.remember("main", LastKnownPrimary(2, 2, "7"))
    journalled.write_down(journal, PLAN, outcome(), 4.0, "main: node 2 is the primary")
    report = failover.report(journal, failover.find(journal, "last", ["main"]))
    assert (4.0, "for which clients of port app were held by a switchover") in failover_text.figures(report)
    assert any(item.step == "switchover_switch" and item.took == 6.0 for item in report.items)
    assert report.ok


def test_a_switchover_that_failed_is_no_run_that_is_to_be_tried_again(journal: Journal) -> None:
    opened(journal, T + 4)
    journalled.write_down(journal, PLAN, outcome(Problem("repmgr", "it is late")), 4.0, "said")
    assert [run.cause for run in journal.runs(10, "main", failed=True)] == ["switchover"]
    due = journal.due("main").last
    assert due is not None
    assert (due.cause, due.ok) == ("drift", True)
