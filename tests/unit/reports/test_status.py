"""``status``: what is true in a few lines, and whether that is all as it should be."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from repmgr_hooks import clock, config
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.reasons import Reason, ReasonCode
from repmgr_hooks.config import Config
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.errors import Problem
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import slot
from repmgr_hooks.journal.heartbeat import write_heartbeat
from repmgr_hooks.journal.holds import Holder
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.lock import Holder as LockHolder
from repmgr_hooks.lock import exclusive
from repmgr_hooks.reports import metrics
from repmgr_hooks.reports.look import look
from repmgr_hooks.reports.status import ClusterStatus
from repmgr_hooks.settings.cluster import WhileUnknown
from repmgr_hooks.switchover.record import Record
from repmgr_hooks.system.steps import Program
from repmgr_hooks.system.visit import Visit
from tests.fake import FakeHost, FakeSlot

SHIPPED = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml")
LOADED = replace(SHIPPED, service=replace(SHIPPED.service, state_dir="/nonexistent"))
"""Without the state of a service that runs on this machine."""
WITHOUT_LOOKS = replace(LOADED, service=replace(LOADED.service, monitor_interval=0))
MAIN = LOADED.clusters["main"]
PROMOTED = Event(2, "standby_promote")
DONE = (True, False, "done", 1, 1)


def healthy() -> FakeHost:
    host = FakeHost()
    assert handle(MAIN, host, []).ok
    return host


def cluster_status(host: FakeHost, journal: Journal) -> ClusterStatus:
    return look(MAIN, host, journal, WITHOUT_LOOKS)


def ended(journal: Journal, ok: bool, again: bool, attempt: int, message: str) -> None:
    """A run that has ended so."""
    journal.end_run(journal.begin_run("main", "event", attempt, []), ok, again, message, 1, 1)


HEALTHY = [
    "main: primary is node 1, timeline 1 (the only node out of recovery)",
    "  node 1: primary, timeline 1",
    "  node 2: standby, timeline 1, 0 B behind",
    "  port 54321 (barman): leads to node 1, and a client writes there",
    "  port 54322 (app): leads to node 1, and a client writes there",
    "  slot barman: reserved, holds 672 B of WAL",
    "  Barman: streaming, 0 B behind",
    "  archive: its records have not been checked yet",
    "  failover: repmgr would promote node 2",
]


def test_all_as_it_should_be(journal: Journal) -> None:
    found = cluster_status(healthy(), journal)
    assert found.healthy
    assert found.lines() == HEALTHY


def test_a_service_that_does_not_run(journal: Journal, tmp_path: Path) -> None:
    """That is no fault, for the hook starts a worker; but nobody looks at what sends no event."""
    loaded = replace(LOADED, service=replace(LOADED.service, state_dir=str(tmp_path)))
    host = healthy()
    with exclusive(tmp_path / "worker.lock", 0.0):
        running = look(MAIN, host, journal, loaded)
    stopped = look(MAIN, host, journal, loaded)
    assert (running.no_service, running.lines()) == (False, HEALTHY)
    assert stopped.healthy
    said = ["  service: none is running, so only events are seen", "  HINT: systemctl enable --now repmgr-hooks"]
    assert (stopped.no_service, stopped.lines()) == (True, [*HEALTHY, *said])


def test_after_a_failover_that_nobody_handled(journal: Journal) -> None:
    host = healthy()
    host.fail_over()
    before = list(host.changes)
    found = cluster_status(host, journal)
    lines = found.lines()
    assert not found.healthy
    assert lines[0].startswith("main: primary is node 2, timeline 2")
    assert "  port 54322 (app): leads to node 1" in lines, "and no client can write there"
    assert "  PENDING route port app to node 2 (10.0.0.12)" in lines
    assert "  PENDING create slot barman on node 2" in lines
    assert lines[-1] == "  HINT: to do it now: repmgr-hooks reconcile --cluster main"
    assert host.changes == before, "looking changes nothing"
    assert handle(MAIN, host, []).ok
    assert cluster_status(host, journal).lines() == [
        "main: primary is node 2, timeline 2 (the only node out of recovery)",
        "  node 1: connection timeout expired",
        "  node 2: primary, timeline 2",
        "  port 54321 (barman): leads to node 2, and a client writes there",
        "  port 54322 (app): leads to node 2, and a client writes there",
        "  slot barman: reserved, holds 16 MB of WAL",
        "  Barman: streaming, 0 B behind",
        "  archive: its records have not been checked yet",
        "  failover: NOT POSSIBLE: no standby answers",
        "  WARNING node 1 does not answer",
    ]
    host.nodes[1].reachable, host.nodes[1].in_recovery, host.nodes[1].timeline = True, True, 2
    assert handle(MAIN, host, []).ok
    assert cluster_status(host, journal).healthy


def test_after_the_failover_of_two_nodes_no_other_is_possible(journal: Journal) -> None:
    """Nothing said so, and the alert that asks the metric for 0 never came."""
    host = healthy()
    found = [cluster_status(host, journal)]
    host.fail_over()
    found.append(cluster_status(host, journal))
    host.lose(2)
    found.append(cluster_status(host, journal))
    values = [
        [
            each.value
            for each in metrics.measure(status, None, Path("/nonexistent"))
            if each.metric == "failover_possible"
        ]
        for status in found
    ]
    assert values == [[1], [0], []], "while no primary is known it is repmgrd's affair"
    assert "  failover: NOT POSSIBLE: no standby answers" in found[1].lines()


def test_an_unknown_primary(journal: Journal) -> None:
    host = healthy()
    host.lose(1)
    found = cluster_status(host, journal)
    lines = found.lines()
    assert not found.healthy
    assert lines[:2] == [
        "main: UNKNOWN primary: no node is out of recovery, but there is no answer from node 1",
        "  HINT: make node 1 answer; "
        "promote a standby only if no other node can be a primary, and repmgrd does not do it",
    ]
    assert "  node 1: connection timeout expired" in lines
    assert "  WARNING node 1 does not answer" in lines
    assert not any("PENDING" in line or "slot" in line or "behind" in line for line in lines)


def test_a_stale_primary_stands_first_and_what_leads_to_it_is_missing(journal: Journal) -> None:
    host = healthy()
    journal.remember("main", LastKnownPrimary(2, 2, host.nodes[1].system_identifier))
    host.lose(2)
    found = cluster_status(host, journal)
    lines = found.lines()
    assert not found.healthy
    assert lines[0] == "main: " + str(Reason(ReasonCode.STALE_PRIMARY, (1,), 2, 1))
    assert lines[1].startswith("  UNKNOWN primary: node 1 is a primary on an older timeline than 2")
    assert "  PENDING close what leads to node 1" in lines
    assert not any("WARNING SPLIT-BRAIN" in line for line in lines)


def test_a_port_that_will_be_closed_while_no_primary_is_known_is_pending(journal: Journal) -> None:
    host = healthy()
    host.lose(1)
    unknown = replace(MAIN, cluster=replace(MAIN.cluster, unknown=WhileUnknown(("app",), 60)))
    lines = look(unknown, host, journal, LOADED).lines()
    pending = lines.index("  PENDING close port app: no primary is known")
    assert lines[pending + 1] == "  HINT: the service does it when no primary has been known for 60 s"
    assert not any("repmgr-hooks reconcile" in line for line in lines), "that closes nothing"
    handle(unknown, host, [], closed=("app",))
    assert not any("PENDING" in line for line in look(unknown, host, journal, LOADED).lines())


def test_a_slot_of_another_program(journal: Journal) -> None:
    host = healthy()
    other = replace(MAIN.routes[0].do[1], config=slot.Config("primary", name="second"))
    main = replace(MAIN, routes=(*MAIN.routes, Route(MAIN.routes[0].on, (other,))))
    lines = look(main, host, journal, LOADED).lines()
    assert lines[6] == "  Barman: streaming, 0 B behind"
    assert "  slot second: not there, or it reserves no WAL" in lines
    assert "  PENDING create slot second on node 1" in lines
    assert handle(main, host, []).ok
    found = look(main, host, journal, LOADED)
    assert any(line.startswith("  slot second: reserved, holds ") for line in found.lines())
    assert found.as_dict()["other_slots"] == ["second"]
    retained = {
        sample.labels["slot"]: sample.value
        for sample in metrics.measure(found, None, Path("/nonexistent"))
        if sample.metric == "slot_retained_bytes"
    }
    assert set(retained) == {"barman", "second"}


def test_where_logical_slots_would_survive(journal: Journal) -> None:
    host = healthy()
    host.nodes[1].slots |= {
        "sub": FakeSlot(physical=False, failover=True, active=True),
        "mine": FakeSlot(physical=False),
        "tmp": FakeSlot(physical=False, failover=True, temporary=True),
    }
    found = cluster_status(host, journal)
    (line,) = [line for line in found.lines() if "in sync" in line]
    assert line.startswith("  slot sub: reserved, holds ")
    assert line.endswith("; in sync on no standby")
    host.nodes[2].slots["sub"] = FakeSlot(physical=False, failover=True, synced=True)
    synced = cluster_status(host, journal)
    assert [line for line in synced.lines() if "sub" in line and line.endswith("; in sync on node 2")]
    values = [
        [each.value for each in metrics.measure(status, None, Path("/nonexistent")) if each.metric == metric]
        for status in (found, synced)
        for metric in ("failover_slot_in_sync",)
    ]
    assert values == [[0], [1]]


def test_how_far_everybody_is(journal: Journal) -> None:
    host = healthy()
    host.nodes[2].behind = 3 * 1024
    host.nodes[1].slots["barman"].active = False
    lines = cluster_status(host, journal).lines()
    assert "  node 2: standby, timeline 1, 3 kB behind" in lines
    assert "  Barman: not streaming" in lines
    host.nodes[1].slots["barman"].reserved = False
    assert "  slot barman: invalidated by PostgreSQL (lost)" in cluster_status(host, journal).lines()
    host.nodes[1].slots["barman"] = FakeSlot(invalidated="idle_timeout")
    assert "  slot barman: invalidated by PostgreSQL (idle_timeout)" in cluster_status(host, journal).lines()
    del host.nodes[1].slots["barman"]
    assert "  slot barman: not there, or it reserves no WAL" in cluster_status(host, journal).lines()
    host.nodes[2].behind = -4096
    assert "  node 2: standby, timeline 1, 0 B behind" in cluster_status(host, journal).lines(), "it was asked later"


def test_what_no_step_can_fix_is_no_good_state_and_is_shown() -> None:
    def half(config: object, state: ClusterState) -> list[Problem]:
        return [Problem("half", f"half a slot on {state.primary}", "make the\nother half")]

    warned = SimpleNamespace(observe=None, warnings=half)
    main = ManagedCluster(MAIN.cluster, (*MAIN.routes, Route(frozenset(), (Action("x", warned, None, "x"),))))
    host = healthy()
    found = look(main, host, None, WITHOUT_LOOKS)
    assert not found.healthy
    assert found.lines() == [*HEALTHY, "  WARNING half a slot on 1", "  HINT: make the other half"]
    host.lose(1)
    assert not any("half a slot" in line for line in look(main, host, None, LOADED).lines()), "of which primary?"


def test_the_last_event(journal: Journal) -> None:
    received = time.mktime((2026, 11, 20, 3, 0, 0, 0, 0, -1))
    journal.end_run(journal.begin_run("main", "event", 1, [journal.add_event("main", PROMOTED, received)]), *DONE)
    found = cluster_status(healthy(), journal)
    assert found.healthy
    assert found.lines() == [*HEALTHY, "  last event: standby_promote of node 2, 2026-11-20 03:00:00"]


def test_barman_that_cannot_be_asked_is_shown(journal: Journal) -> None:
    host = healthy()
    host.barman.health = "ruins"
    found = cluster_status(host, journal)
    assert not found.healthy
    assert any(line.startswith("  PENDING ") and "No space left on device" in line for line in found.lines())


def test_events_that_wait(journal: Journal) -> None:
    received = clock.wall() - 60
    journal.add_event("main", PROMOTED, received - 60)
    journal.add_event("main", PROMOTED, received)
    journal.add_event("other", PROMOTED, received + 60)
    found = cluster_status(healthy(), journal)
    assert not found.healthy
    assert found.lines() == [
        *HEALTHY,
        f"  last event: standby_promote of node 2, {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(received))}",
        "  WARNING 2 event(s) wait to be handled",
        "  HINT: make sure that repmgr-hooks.service is running",
    ]
    busy = replace(found, lock=LockHolder(4711, received, "repmgr-hooks worker"))
    assert busy.lines()[-1] == "  HINT: process 4711 is at work, and they come next"


def test_events_that_have_just_come(journal: Journal) -> None:
    """The service collects what comes together; "make sure that it is running" would send somebody the wrong way."""
    journal.add_event("main", PROMOTED, clock.wall())
    found = cluster_status(healthy(), journal)
    assert (found.healthy, found.waiting) == (True, 1)
    assert not any("HINT" in line for line in found.lines())


@pytest.mark.parametrize(
    ("again", "attempt", "said"),
    [
        (True, 1, "FAILED, will be tried again: Barman is in ruins"),
        (True, 20, "FAILED, given up: Barman is in ruins"),
    ],
)
def test_a_run_that_failed(journal: Journal, again: bool, attempt: int, said: str) -> None:
    ended(journal, False, again, attempt, "Barman is in ruins")
    found = cluster_status(healthy(), journal)
    assert not found.healthy
    assert found.lines() == [*HEALTHY, f"  {said}", "  HINT: to do it now: repmgr-hooks reconcile --cluster main"]
    ended(journal, True, False, 1, "done")
    assert cluster_status(healthy(), journal).healthy


@pytest.mark.parametrize("reason", ["", "new disks"])
def test_a_pause_is_no_good_state_and_stands_second(journal: Journal, reason: str) -> None:
    journal.pause("main", None, reason)
    found = cluster_status(healthy(), journal)
    assert not found.healthy
    shown = f" ({reason})" if reason else ""
    assert found.lines()[1:3] == [
        f"  PAUSED until it is resumed{shown}",
        "  HINT: to end it: repmgr-hooks resume",
    ]
    journal.resume("main")
    assert cluster_status(healthy(), journal).healthy


def test_a_pause_with_an_end_shows_it(journal: Journal) -> None:
    until = time.time() + 3600
    journal.pause("main", until, "")
    clock = time.strftime("%H:%M:%S", time.localtime(until))
    assert cluster_status(healthy(), journal).lines()[1] == f"  PAUSED until {clock}"


def test_the_same_for_machines(journal: Journal) -> None:
    journal.pause("main", 2e9, "new disks")
    ended(journal, False, True, 3, "no")
    host = healthy()
    host.lose(2)
    plain = json.loads(json.dumps(cluster_status(host, journal).as_dict()))
    assert (plain["healthy"], plain["cluster"], plain["waiting"]) == (False, "main", 0)
    assert (plain["decision"]["primary"], plain["decision"]["timeline"]) == (1, 1)
    assert [(state["node"], state["error"]) for state in plain["decision"]["states"]] == [
        (1, ""),
        (2, "node 2: connection timeout expired"),
    ]
    assert plain["decision"]["reason"] == {
        "code": "only",
        "message": "the only node out of recovery",
        "hint": "",
        "nodes": [],
    }
    assert plain["decision"]["notes"] == [
        {"code": "silent", "message": "node 2 does not answer", "hint": "", "nodes": [2]}
    ]
    assert plain["decision"]["states"][0]["slots"][0]["name"] == "barman"
    assert plain["ports"] == {"barman": 1, "app": 1}
    assert plain["last"] is None
    assert (plain["paused"]["until"], plain["paused"]["reason"]) == (2e9, "new disks")
    assert (plain["failed"]["attempt"], plain["failed"]["message"]) == (3, "no")


# -- the service itself ------------------------------------------------------------------------------------------------


def test_it_says_who_works_at_the_cluster(journal: Journal, loaded: Config) -> None:
    with exclusive(loaded.state_dir / "cluster-main.lock", 0):
        found = look(MAIN, healthy(), journal, loaded)
    assert f"  lock: held by process {os.getpid()} (repmgr-hooks " in "\n".join(found.lines())
    assert found.healthy, "a run is no fault"
    assert look(MAIN, healthy(), journal, loaded).lock is None


@pytest.mark.parametrize(("ago", "paused", "too_long"), [(10, False, False), (400, False, True), (400, True, False)])
def test_a_service_that_does_not_look_is_seen(
    journal: Journal, loaded: Config, ago: float, paused: bool, too_long: bool
) -> None:
    write_heartbeat(loaded.state_dir, "main")
    os.utime(loaded.state_dir / "cluster-main.looked", (time.time() - ago,) * 2)
    if paused:
        journal.pause("main", None, "")
    found = look(MAIN, healthy(), journal, loaded)
    assert any("the service has not looked for 40" in line for line in found.lines()) == too_long
    assert found.healthy == (not too_long and not paused)


def test_a_switchover_is_shown(journal: Journal) -> None:
    status = cluster_status(healthy(), journal)
    assert status.healthy
    found = Record(Holder(7, 1, "boot"), 1, 2, time.time(), 0.0, "switch", (1, 3), True)
    status = replace(status, switchover=found)
    assert not status.healthy
    (line,) = (line for line in status.lines() if "SWITCHOVER" in line)
    assert line.startswith("  SWITCHOVER from node 1 to node 2: phase switch, repmgrd paused on node 1, 3, since ")
    assert json.loads(json.dumps(status.as_dict()))["switchover"]["paused"] == [1, 3]


# -- what a look costs -------------------------------------------------------------------------------------------------


def test_a_look_starts_each_program_once(journal: Journal) -> None:
    """Each start of Barman takes longer than all the rest."""
    host, started = healthy(), list[str]()
    run = host.run

    def counted(program: Program, limit: float) -> str:
        started.append(" ".join(program.argv[:2]))
        return run(program, limit)

    host.run = counted  # type: ignore[method-assign]
    assert cluster_status(host, journal).healthy
    assert sorted(started) == ["barman show-server", "conntrack -L", "find -L", "iptables-save -t", "python3 -I"]


def test_what_is_behind_a_port_and_in_barman_is_looked_at_meanwhile(journal: Journal) -> None:
    """One does not end before the other has begun."""
    host, visits, barman = healthy(), threading.Event(), threading.Event()
    visit, run = host.visit_each, host.run

    def visited(dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        visits.set()
        assert barman.wait(60)
        return visit(dsns, limit)

    def asked(program: Program, limit: float) -> str:
        if program.argv[0] == "barman":
            barman.set()
            assert visits.wait(60)
        return run(program, limit)

    host.visit_each, host.run = visited, asked  # type: ignore[method-assign]
    assert cluster_status(host, journal).healthy


def test_connections_that_this_gateway_does_not_track(journal: Journal) -> None:
    host = healthy()
    gateway = replace(MAIN.cluster.gateway, hosts=("10.0.0.21", "10.0.0.22"))
    pair = replace(MAIN, cluster=replace(MAIN.cluster, gateway=gateway))
    assert handle(pair, host, []).ok
    host.addresses = {"10.0.0.22"}
    host.other_gateways = [("repmgr_hooks 10.0.0.21 active", 1.0)]
    assert look(pair, host, journal, LOADED).healthy
    host.sessions = [(1, 40000)]
    found = look(pair, host, journal, LOADED)
    assert [problem.code for problem in found.warnings] == ["not_in_step"]
    assert any("they break when 10.0.0.20 comes" in line for line in found.lines())
    host.at(host.now() + 2, lambda: setattr(host, "sessions", []))
    assert look(pair, host, journal, LOADED).healthy, "it was on its way"
