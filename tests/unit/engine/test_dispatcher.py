"""The whole way of an event, in a fake system: what is changed, in which order and when, and what is left alone."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.cluster.reasons import Reason, ReasonCode
from repmgr_hooks.engine import asking
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.drift import find_drift as drift
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.engine.run import NOTHING_OPENED, Opened, ScheduledAction
from repmgr_hooks.engine.selection import select
from repmgr_hooks.errors import NoSuchProgram, OperationFailed, ProgramTimeout
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import command, notify, slot
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.system.steps import Program, Sql, Step
from tests.fake import Connection, FakeHost, FakeNode, FakeSlot, NatTable

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]
OPEN_BARMAN, SLOT, STREAM, SWITCH_WAL, OPEN_APP = MAIN.routes[0].do
PROMOTED = Event(2, "standby_promote")
PROMOTED_1 = Event(1, "standby_promote")
WIPED = "*nat\n:repmgr_dnat - [0:0]\nCOMMIT"
NODE_1, NODE_2 = "10.0.0.11:5432", "10.0.0.12:5432"
APP_CLIENT = Flow("10.0.0.30", 40000, "10.0.0.20", 54322)


SYSTEM = "7300000000000000001"
SEEN_2 = LastKnownPrimary(2, 2, SYSTEM)
"""Node 2 was the primary, on timeline 2."""


class SurprisingError(Exception):
    """An exception that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no")

    __str__ = __repr__


def failed_over() -> FakeHost:
    """Node 1 is lost and node 2 promoted; the application and Barman still hang on node 1."""
    host = FakeHost()
    host.connections = [
        Connection(APP_CLIENT, "10.0.0.11"),
        Connection(Flow("10.0.0.20", 40001, "10.0.0.20", 54321), "10.0.0.11"),
    ]
    host.fail_over()
    return host


def route(*actions: Action) -> ManagedCluster:
    """The cluster with one route, for standby_promote."""
    return ManagedCluster(MAIN.cluster, (Route(frozenset({"standby_promote"}), actions),))


def plug_in(observe: Callable[..., Any] | None, plan: Callable[..., Any]) -> Action:
    """An action of a handler that some other package brings."""
    handler = SimpleNamespace(**{**vars(command), "Config": object, "observe": observe, "plan": plan})
    return Action("plug_in", handler, None, "plug_in {}", "[0].do[0]")


def page(*argv: str) -> Action:
    """An action of the ``command`` handler."""
    return Action("command", command, command.Config(argv), f"command {{run: {argv}}}", "[0].do[0]")


def opened(host: FakeHost) -> float:
    """When the app port was led to node 2: the last change of the nat table."""
    assert host.leads_to(host.app_port) == NODE_2
    return [moment for moment, what in host.changes if what == "iptables-restore"][-1]


# -- a promotion -------------------------------------------------------------------------------------------------------


def test_the_whole_promotion_in_the_articles_order() -> None:
    host = failed_over()
    app_while_not_safe: list[str | None] = []
    host.after("switch WAL on 2", lambda: app_while_not_safe.append(host.leads_to(host.app_port)))
    run = handle(MAIN, host, [PROMOTED])
    assert run.ok
    assert host.what_changed() == [
        "iptables-restore",
        "conntrack -D 54321",
        "poke",
        "conntrack -D 54322",
        "poke",
        "create slot on 2",
        "barman receive-wal --stop",
        "barman receive-wal",
        "switch WAL on 2",
        "iptables-restore",
    ]
    assert app_while_not_safe == [None], "closed until the backup is safe"
    assert host.leads_to(host.app_port) == host.leads_to(host.barman_port) == NODE_2
    assert host.connections == []
    assert APP_CLIENT in host.poked
    assert host.nodes[2].slots["barman"].active
    assert host.barman.streams_from == 2
    assert "000000020000000000000005" in host.barman.archived
    assert [done.action for done in run.done] == list(MAIN.routes[0].do)
    assert not any(done.error for done in run.done)


@pytest.mark.parametrize("event", [PROMOTED, Event(2, "repmgrd_failover_promote", other_node=1), None], ids=str)
def test_a_second_run_changes_nothing(event: Event | None) -> None:
    host = failed_over()
    handle(MAIN, host, [PROMOTED])
    before, nat = list(host.changes), host.nat.save()
    run = handle(MAIN, host, [event] if event else [])
    assert run.ok
    assert all(done.steps == () for done in run.done)
    assert host.changes == before
    assert host.nat.save() == nat


def test_reconcile_does_the_same_without_an_event() -> None:
    host, other = failed_over(), failed_over()
    assert handle(MAIN, host, []).ok
    assert handle(MAIN, other, [PROMOTED]).ok
    assert host.what_changed() == other.what_changed()


def test_an_event_whose_success_is_0_is_handled_all_the_same() -> None:
    """repmgr says so only after it has seen the node out of recovery."""
    host = failed_over()
    assert handle(MAIN, host, [Event(2, "standby_promote", success=False)]).ok
    assert host.leads_to(host.app_port) == NODE_2


def test_a_switchover_ends_with_the_slot_gone_from_the_old_primary() -> None:
    host = FakeHost()
    host.promote(2)
    host.nodes[1].in_recovery, host.nodes[1].timeline = True, 2
    assert handle(MAIN, host, [Event(2, "standby_switchover", other_node=1)]).ok
    assert list(host.nodes[1].slots) == []
    assert list(host.nodes[2].slots) == ["barman"]
    assert host.barman.streams_from == 2


def test_a_standby_that_comes_back_loses_its_slot_and_nothing_else_happens() -> None:
    host = failed_over()
    handle(MAIN, host, [PROMOTED])
    host.nodes[1].reachable, host.nodes[1].in_recovery, host.nodes[1].timeline = True, True, 2
    before = len(host.changes)
    assert handle(MAIN, host, [Event(1, "node_rejoin")]).ok
    assert host.what_changed()[before:] == ["drop slot on 1"]


def test_forwarding_is_switched_on() -> None:
    host = FakeHost()
    host.forwarding = False
    assert handle(MAIN, host, [Event(1, "primary_register")]).ok
    assert host.forwarding


# -- Barman in ruins ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("health", ["ruins", "hangs"])
def test_the_app_port_opens_at_its_limit_although_the_backup_is_not_safe(
    caplog: pytest.LogCaptureFixture, health: str
) -> None:
    host = failed_over()
    host.barman.health = health
    closed: list[str | None] = []
    for second in range(5, 118):
        host.at(second, lambda: closed.append(host.leads_to(host.app_port)))
    with caplog.at_level(logging.ERROR, "repmgr_hooks"):
        run = handle(MAIN, host, [PROMOTED])
    assert closed == [None] * 113
    assert 118 <= opened(host) <= 121
    assert not run.ok
    assert [bool(done.error) for done in run.done] == [False, False, True, True, False]
    assert [done.error for done in run.done][3] == "not reached"
    assert "show-server" in run.done[2].error
    assert "although an earlier action failed" in caplog.text
    assert caplog.records[-1].message.startswith("FAILED after")


def test_the_same_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    host = failed_over()
    host.barman.health = "ruins"
    with caplog.at_level(logging.ERROR, "repmgr_hooks"):
        handle(MAIN, host, [PROMOTED])
    assert (
        len(
            [
                record
                for record in caplog.records
                if record.message.startswith("barman {stream: true, min_stream_age: 0}: ")
            ]
        )
        == 1
    )


def test_what_heals_in_time_is_done_and_the_run_is_ok() -> None:
    host = failed_over()
    host.barman.health = "ruins"
    host.at(30, lambda: setattr(host.barman, "health", "good"))
    assert handle(MAIN, host, [PROMOTED]).ok
    assert 30 <= opened(host) <= 33
    assert "000000020000000000000005" in host.barman.archived


def test_the_limit_counts_from_the_start_of_the_run() -> None:
    """The wait for the primary is part of it: clients do not care why they wait."""
    host = FakeHost()
    host.lose(1)
    host.barman.health = "ruins"
    host.at(20, lambda: host.promote(2))
    assert not handle(MAIN, host, [PROMOTED]).ok
    assert 118 <= opened(host) <= 121


def test_without_a_later_limit_nothing_is_tried_twice() -> None:
    host = failed_over()
    host.barman.health = "ruins"
    run = handle(route(SLOT, STREAM, SWITCH_WAL), host, [PROMOTED])
    assert [done.error[:11] for done in run.done] == ["", "barman show", "not reached"]
    assert [str(program) for program in host.ran if program.argv[0] == "barman"] == ["barman show-server main_backup"]


# -- which node is the primary -----------------------------------------------------------------------------------------


def test_an_unknown_primary_changes_nothing_and_is_waited_for() -> None:
    host = FakeHost()
    host.lose(1)
    run = handle(MAIN, host, [PROMOTED])
    assert (run.ok, run.done, host.changes) == (False, (), [])
    assert run.decision and run.decision.primary is None
    assert 30 <= host.now() <= 33, "promotion_timeout"


def test_a_node_that_is_promoted_some_seconds_later_is_waited_for() -> None:
    host = FakeHost()
    host.lose(1)
    host.at(7, lambda: host.promote(2))
    assert handle(MAIN, host, [PROMOTED]).ok
    assert 7 <= host.changes[0][0] <= 12


def test_a_dead_primary_that_comes_back_is_not_followed() -> None:
    host = failed_over()
    handle(MAIN, host, [PROMOTED])
    before = list(host.changes)
    host.nodes[1].reachable = True
    host.nodes[2].in_recovery = True
    run = handle(MAIN, host, [Event(1, "primary_register")])
    assert (run.ok, host.changes) == (False, before)
    assert not any(done.steps or done.error for done in run.done), "nothing leads to it"
    assert run.decision and run.decision.reason.code is ReasonCode.BEHIND


@pytest.mark.parametrize(
    "name", ["standby_promote", "repmgrd_failover_promote", "primary_register", "standby_switchover"]
)
def test_an_event_that_claims_another_primary_changes_nothing(caplog: pytest.LogCaptureFixture, name: str) -> None:
    host = failed_over()
    with caplog.at_level(logging.ERROR, "repmgr_hooks"):
        run = handle(MAIN, host, [Event(1, name)])
    assert (run.ok, run.done, host.changes) == (False, (), [])
    assert "contradicts the cluster: the primary is node 2" in caplog.text
    assert host.now() < 5, "there is nothing to wait for"


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("demoted", {"in_recovery": True}),
        ("promoted again", {"timeline": 3}),
    ],
)
def test_when_the_primary_changes_in_mid_run_nothing_more_is_done(what: str, change: dict[str, Any]) -> None:
    host = failed_over()
    host.barman.health = "ruins"
    host.at(9.3, lambda: vars(host.nodes[2]).update(change))
    run = handle(MAIN, host, [PROMOTED])
    assert not run.ok
    assert max(moment for moment, _ in host.changes) <= 9.3
    assert host.leads_to(host.app_port) is None
    assert host.now() < 9.5, "it is looked for between two attempts, too"
    assert [done.error.startswith("the primary has changed meanwhile") for done in run.done] == [
        False,
        False,
        *3 * [True],
    ]


def test_a_stale_primary_beside_a_silent_one_ends_the_run() -> None:
    """Old rules may lead to it, and while the run went on nobody would close them."""
    host = failed_over()
    host.barman.health = "ruins"
    host.at(9.3, lambda: setattr(host.nodes[2], "reachable", False))
    host.at(9.3, lambda: vars(host.nodes[1]).update(reachable=True, in_recovery=False))
    run = handle(MAIN, host, [PROMOTED], last_known=SEEN_2)
    assert host.now() < 12
    assert run.again and "the primary has changed meanwhile" in run.done[-1].error
    assert host.leads_to(host.app_port) is None


@pytest.mark.parametrize(
    ("known", "at_once"),
    [
        (Opened(SEEN_2, frozenset({"app"})), True),
        (Opened(replace(SEEN_2, timeline=1), frozenset({"app"})), False),
        (Opened(replace(SEEN_2, primary=1), frozenset({"app"})), False),
        (Opened(replace(SEEN_2, system_identifier="4711"), frozenset({"app"})), False),
        (Opened(SEEN_2, frozenset({"barman"})), False),
        (NOTHING_OPENED, False),
    ],
)
def test_a_port_that_was_open_under_this_primary_waits_for_nothing(known: Opened, at_once: bool) -> None:
    """Somebody has flushed the rules while Barman was in ruins."""
    host = failed_over()
    assert handle(MAIN, host, [PROMOTED]).ok
    host.barman.health = "ruins"
    begun = host.now()
    host.nat = NatTable()
    run = handle(MAIN, host, [], everything=True, last_known=SEEN_2, opened=known)
    assert not run.ok
    assert (opened(host) - begun < 5) == at_once


def test_a_port_that_cannot_be_opened_again_keeps_nothing_from_barman() -> None:
    host = failed_over()
    assert handle(MAIN, host, [PROMOTED]).ok
    del host.nodes[2].slots["barman"]
    host.nat = NatTable()
    shut = Opened(SEEN_2, frozenset({"app"}))

    def locked(program: Program) -> str:
        raise OperationFailed("another app is currently holding the xtables lock")

    host.programs["iptables-restore"] = locked
    run = handle(route(SLOT, OPEN_APP), host, [], everything=True, last_known=SEEN_2, opened=shut)
    assert not run.ok
    assert "barman" in host.nodes[2].slots


def test_a_look_says_which_ports_lead_where_they_should() -> None:
    host = failed_over()
    assert handle(MAIN, host, [PROMOTED]).ok
    marks: dict[str, object] = {}
    for _ in range(2):
        assert drift(MAIN, host, SEEN_2, marks).open_ports >= {"app", "barman"}
    host.nat = NatTable()
    assert not drift(MAIN, host, SEEN_2, marks).open_ports & {"app", "barman"}


def test_what_has_been_open_since_the_primary_is_the_primary() -> None:
    two = PrimaryFinder(MAIN.cluster, SEEN_2).decision(failed_over()).primary_state
    one = PrimaryFinder(MAIN.cluster, LastKnownPrimary(1, 1, SYSTEM)).decision(FakeHost()).primary_state
    assert one and two
    known = NOTHING_OPENED.and_now(one, {"app"}).and_now(one, {"barman"})
    assert known.ports == {"app", "barman"}, "it stays so, if it is flushed"
    assert known.and_now(two, {"barman"}).ports == {"barman"}, "and not under another primary"


def test_a_primary_that_is_silent_for_a_while_is_tried_again() -> None:
    host = failed_over()
    host.after("create slot on 2", lambda: setattr(host.nodes[2], "reachable", False))
    host.at(40, lambda: setattr(host.nodes[2], "reachable", True))
    assert handle(MAIN, host, [PROMOTED]).ok
    assert 40 <= opened(host) <= 45


def test_no_port_opens_to_a_primary_that_stays_silent() -> None:
    host = failed_over()
    host.after("create slot on 2", lambda: setattr(host.nodes[2], "reachable", False))
    run = handle(MAIN, host, [PROMOTED])
    assert not run.ok
    assert host.leads_to(host.app_port) is None
    assert "does not answer" in run.done[-1].error


def back_from_the_dead() -> FakeHost:
    """Node 2 was promoted and does not answer; node 1 is a primary again, the ports and a client are with it."""
    host = FakeHost()
    host.connections = [Connection(APP_CLIENT, "10.0.0.11"), Connection(replace(APP_CLIENT, client_port=9), NODE_2)]
    host.lose(2)
    return host


@pytest.mark.parametrize("events", [[PROMOTED], []], ids=str)
def test_while_the_primary_is_unknown_a_stale_primary_gets_nobody(events: list[Event]) -> None:
    host = back_from_the_dead()
    run = handle(MAIN, host, events, last_known=SEEN_2)
    assert not run.ok
    assert run.again
    assert run.decision and (run.decision.primary, run.decision.stale_primaries) == (None, (1,))
    assert (host.leads_to(host.app_port), host.leads_to(host.barman_port)) == (None, None)
    assert host.what_changed() == ["iptables-restore", "conntrack -D 54321", "conntrack -D 54322", "poke"]
    assert [connection.host for connection in host.connections] == [NODE_2]
    assert host.poked == [APP_CLIENT]
    assert host.now() < 5, "there is nothing to wait for"
    before = list(host.changes)
    handle(MAIN, host, events, last_known=SEEN_2)
    assert host.changes == before


def test_a_dry_run_shuts_nobody_out() -> None:
    host = back_from_the_dead()
    run = handle(MAIN, host, [], dry_run=True, last_known=SEEN_2)
    assert not run.ok
    assert [[step.what for step in done.steps] for done in run.done] == [
        [
            "close what leads to node 1",
            "reset connections of port 54321 to 10.0.0.11",
            "reset connections of port 54322 to 10.0.0.11",
        ]
    ]
    assert host.changes == []


def test_a_stale_primary_that_cannot_be_shut_out_is_said_and_tried_again() -> None:
    host = back_from_the_dead()

    def locked(program: Program) -> str:
        raise OperationFailed("another app is currently holding the xtables lock")

    host.programs["iptables-restore"] = locked
    run = handle(MAIN, host, [], last_known=SEEN_2)
    assert (run.ok, run.again) == (False, True)
    assert "xtables lock" in run.done[0].error


def test_without_a_stale_primary_an_unknown_primary_leaves_every_rule_as_it_is() -> None:
    host = FakeHost()
    host.nodes[2].in_recovery = False  # twins
    handle(MAIN, host, [], last_known=LastKnownPrimary(1, 1, SYSTEM))
    assert host.changes == []


# -- looking without an event ------------------------------------------------------------------------------------------

SEEN_1 = LastKnownPrimary(1, 1, SYSTEM)


def test_a_cluster_of_another_system_than_the_one_that_is_remembered_gets_nobody() -> None:
    host = failed_over()
    for node in host.nodes.values():
        node.system_identifier = "7300000000000000002"
    assert drift(MAIN, host, SEEN_1, {}).decision.reason == Reason(ReasonCode.FOREIGN, (2,))
    assert drift(MAIN, host, LastKnownPrimary(), {}).decision.primary == 2


def settled() -> tuple[FakeHost, dict[str, object]]:
    """All is as it should be, and was looked at once."""
    host, marks = FakeHost(), {}
    assert handle(MAIN, host, []).ok
    assert drift(MAIN, host, SEEN_1, marks).pending == ()
    host.ran.clear()
    return host, marks


def test_a_quiet_tick_runs_no_program() -> None:
    host, marks = settled()
    for _ in range(20):
        found = drift(MAIN, host, SEEN_1, marks)
        assert (found.decision.primary, found.pending, found.warnings) == (1, (), ())
    assert host.ran == []


def test_every_five_minutes_it_is_looked_at_all_the_same() -> None:
    host, marks = settled()
    looks = []
    for second in range(900):
        host.sleep(1)
        host.ran.clear()
        drift(MAIN, host, SEEN_1, marks)
        if host.ran:
            looks.append(second)
    assert len(looks) == 3
    assert max(after - before for before, after in pairwise(looks)) <= 300


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda host: host.nat.restore(WIPED), "route port app to node 1 (10.0.0.11)"),
        (lambda host: setattr(host, "forwarding", False), "let the kernel forward"),
        (lambda host: host.nodes[1].slots.clear(), "create slot barman on node 1"),
    ],
    ids=["the chains are wiped", "forwarding is switched off", "the slot is dropped"],
)
def test_what_others_change_is_seen_at_the_next_tick(change: Callable[[FakeHost], None], missing: str) -> None:
    host, marks = settled()
    change(host)
    for _ in range(2):
        assert missing in map(str, drift(MAIN, host, SEEN_1, marks).pending), "and as long as it is so"
    assert handle(MAIN, host, []).ok
    assert drift(MAIN, host, SEEN_1, marks).pending == ()
    host.ran.clear()
    drift(MAIN, host, SEEN_1, marks)
    assert host.ran == []


def test_another_primary_is_looked_at_although_no_rule_has_changed() -> None:
    host, marks = settled()
    host.fail_over()
    assert "route port barman to node 2 (10.0.0.12)" in map(str, drift(MAIN, host, SEEN_1, marks).pending)


def test_a_failover_begins_with_the_first_thing_that_is_missing() -> None:
    host, marks = settled()
    host.fail_over()
    assert "create slot barman on node 2" in map(str, drift(MAIN, host, SEEN_2, marks).pending)
    assert "create slot barman on node 2" not in map(str, drift(MAIN, host, SEEN_1, marks).pending)


def test_where_the_kernel_does_not_count_it_is_looked_at_every_time() -> None:
    host, marks = settled()
    host.counts_rules = False
    for _ in range(3):
        host.ran.clear()
        assert drift(MAIN, host, SEEN_1, marks).pending == ()
        assert [program.argv[0] for program in host.ran].count("iptables-save") == 1
    host.nat.chains["repmgr_dnat"].clear()
    assert "route port app to node 1 (10.0.0.11)" in map(str, drift(MAIN, host, SEEN_1, marks).pending)


def test_a_look_that_fails_is_no_mark() -> None:
    host, marks = settled()

    def broken(program: Program) -> str:
        raise OperationFailed("iptables-save: no such program")

    host.programs["iptables-save"] = broken
    host.nat.restore("*nat\nCOMMIT")
    for _ in range(2):
        assert any("no such program" in line for line in map(str, drift(MAIN, host, SEEN_1, marks).pending))


def test_a_tick_sees_what_leads_to_a_stale_primary_and_changes_nothing() -> None:
    host = back_from_the_dead()
    found = drift(MAIN, host, SEEN_2, {})
    assert found.decision.stale_primaries == (1,)
    assert str(found.pending[0]) == "close what leads to node 1"
    assert host.changes == []
    assert handle(MAIN, host, [], last_known=SEEN_2).done
    assert drift(MAIN, host, SEEN_2, {}).pending == ()


# -- dry runs, routes, notifications -----------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [PROMOTED, None], ids=str)
def test_a_dry_run_shows_the_steps_and_changes_nothing(event: Event | None) -> None:
    host = failed_over()
    nat = host.nat.save()
    run = handle(MAIN, host, [event] if event else [], dry_run=True)
    assert run.ok
    assert [len(done.steps) for done in run.done][:5] == [3, 1, 2, 1, 1]
    assert (host.changes, host.nat.save()) == ([], nat)


def test_a_dry_run_does_not_wait_for_a_primary() -> None:
    host = FakeHost()
    host.lose(1)
    assert not handle(MAIN, host, [PROMOTED], dry_run=True).ok
    assert host.now() < 5


@pytest.mark.parametrize("name", ["cluster_created", "repmgrd_start", "repmgrd_promote_error"])
def test_an_event_without_a_route_looks_at_nothing(name: str) -> None:
    host = FakeHost()
    run = handle(MAIN, host, [Event(2, name)])
    assert (run.ok, run.decision, run.done) == (True, None, ())
    assert (host.ran, host.changes, host.now()) == ([], [], 0)


def test_the_routes_of_an_event_are_taken_in_the_order_of_the_file() -> None:
    first, second = MAIN.routes
    switchover, rejoin = Event(2, "standby_switchover"), Event(1, "node_rejoin")
    both = [*first.do, *second.do]
    assert select(MAIN.routes, [switchover]) == [ScheduledAction(action, switchover) for action in both]
    assert select(MAIN.routes, [rejoin]) == [ScheduledAction(action, rejoin) for action in second.do]
    assert select(MAIN.routes, []) == [ScheduledAction(action, None) for action in both]


def test_a_notification_runs_on_its_events_and_not_on_reconcile() -> None:
    host = failed_over()
    told: list[Program] = []
    host.programs["/usr/local/bin/page"] = lambda program: told.append(program) or ""  # type: ignore[func-returns-value]
    main = route(page("/usr/local/bin/page", "dba"), OPEN_APP)
    assert handle(main, host, []).ok
    assert told == []
    assert handle(main, host, [PROMOTED]).ok
    assert handle(main, host, [PROMOTED]).ok
    assert [program.argv for program in told] == [("/usr/local/bin/page", "dba")] * 2


def test_nothing_waits_for_a_notification_that_fails() -> None:
    host = failed_over()
    run = handle(route(page("/no/such/program"), OPEN_APP), host, [PROMOTED])
    assert (run.ok, run.again, run.done[-1].error) == (False, True, "/no/such/program: no such program")
    assert opened(host) <= 4


# -- handlers of others ------------------------------------------------------------------------------------------------


def fails(error: BaseException) -> Callable[..., Any]:
    """A function that has a bug."""

    def function(*arguments: object) -> Any:
        raise error

    return function


@pytest.mark.parametrize(
    ("observe", "plan"),
    [
        (fails(ValueError("bad literal")), lambda *_: []),
        (lambda *_: None, fails(KeyError("missing"))),
        (None, fails(TypeError("not callable"))),
        (lambda *_: None, lambda *_: None),
        (lambda *_: None, fails(StopIteration())),
        (fails(SystemExit(1)), lambda *_: []),
        (lambda *_: None, fails(GeneratorExit())),
        (fails(KeyboardInterrupt()), lambda *_: []),
    ],
)
def test_a_handler_with_a_bug_fails_and_the_port_opens_all_the_same(
    observe: Callable[..., Any] | None, plan: Callable[..., Any]
) -> None:
    host = failed_over()
    run = handle(route(plug_in(observe, plan), OPEN_APP), host, [PROMOTED])
    assert not run.ok
    assert any("a bug in the handler plug_in: " in item.error for item in run.done)
    assert (118 <= opened(host) <= 121) if observe else opened(host) <= 4


def test_a_plug_in_that_cannot_even_say_when_it_fails_open() -> None:
    parts = {"fail_open_after": fails(SystemExit(1)), "on_tick": fails(ValueError()), "observe": lambda *_: None}
    handler = SimpleNamespace(**{**vars(command), "Config": object, **parts})
    odd = Action("plug_in", handler, None, "plug_in {}", "[0].do[0]")
    assert (odd.fail_open_after, odd.on_tick) == (None, True)
    host = failed_over()
    handle(route(odd, OPEN_APP), host, [PROMOTED])
    assert opened(host)


@pytest.mark.parametrize("said", ["soon", float("nan"), float("inf"), -1, 10**9, [], object()])
def test_a_plug_in_that_says_nonsense_of_itself(said: object) -> None:
    parts = {name: lambda _: said for name in ("fail_open_after", "helper", "on_tick")}
    handler = SimpleNamespace(**{**vars(command), "Config": object, **parts, "observe": lambda *_: None})
    odd = Action("plug_in", handler, None, "plug_in {}", "[0].do[0]")
    assert (odd.fail_open_after, odd.helper, odd.on_tick) == (None, False, True)
    host = failed_over()
    handle(route(odd, OPEN_APP), host, [PROMOTED])
    assert opened(host)


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), ValueError()])
@pytest.mark.parametrize("part", ["fail_open_after", "helper", "on_tick"])
def test_a_plug_in_that_cannot_say_what_it_is(error: BaseException, part: str) -> None:
    handler = SimpleNamespace(
        **{**vars(command), "Config": object, "observe": lambda *_: None, "plan": lambda *_: [], part: fails(error)}
    )
    host = failed_over()
    handle(route(Action("plug_in", handler, None, "plug_in {}", "[0].do[0]"), OPEN_APP), host, [PROMOTED])
    assert opened(host) <= 4


@pytest.mark.parametrize("part", ["observe", "plan", "fingerprint", "warnings", "housekeep"])
def test_a_plug_in_that_never_returns_fails_and_the_port_opens_all_the_same(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(asking, "PLUG_IN_LIMIT", 0.1)
    let_go = threading.Event()
    parts: dict[str, Callable[..., Any]] = {"observe": lambda *_: None, "plan": lambda *_: []}
    parts[part] = lambda *_: let_go.wait(60)
    handler = SimpleNamespace(**{**vars(command), "Config": object, **parts})
    stuck = Action(f"hangs in {part}", handler, None, "stuck {}", "[0].do[0]")
    host = failed_over()
    try:
        if part in ("observe", "plan"):
            run = handle(route(stuck, OPEN_APP), host, [PROMOTED])
            assert run.done[0].error == f"the handler hangs in {part} does not return"
            assert 118 <= opened(host) <= 121
        else:
            assert drift(route(stuck, OPEN_APP), host, LastKnownPrimary(), {}).pending
            found = drift(route(stuck), host, LastKnownPrimary(), {})
            assert (part == "fingerprint") == (not found.warnings)
    finally:
        let_go.set()


def test_a_step_that_worked_and_left_things_as_they_were_has_failed() -> None:
    host = failed_over()
    host.programs["/bin/mend"] = lambda program: ""
    run = handle(
        route(plug_in(lambda *_: None, lambda *_: [Step("mend it", Program(("/bin/mend",)), 5)])), host, [PROMOTED]
    )
    assert [done.error for done in run.done] == ["still pending afterwards: mend it"]


def test_one_failure_in_a_dry_run_hides_no_other_step() -> None:
    host = failed_over()
    run = handle(route(plug_in(None, fails(ValueError("x"))), OPEN_APP), host, [PROMOTED], dry_run=True)
    assert not run.ok
    assert run.done[0].error == "a bug in the handler plug_in: ValueError('x')"
    assert len(run.done[1].steps) == 3


@pytest.mark.parametrize(
    "steps",
    [
        ["mend it"],
        [Step("mend it", Sql(9, "select 1"), 5)],
        [Step("mend it", Program(("/bin/mend",)), "5 s")],  # type: ignore[arg-type]
        [Step("mend it", Program(("/bin/mend",)), float("inf"))],
        [Step("mend it", Program(("/bin/mend",)), float("nan"))],
        (Step(f"mend it {number}", Program(("/bin/mend",)), 5) for number in itertools.count()),
    ],
    ids=["no step", "no such node", "no number of seconds", "for ever", "no number", "steps without end"],
)
def test_a_plan_of_no_steps_fails_and_the_port_opens_all_the_same(steps: list[Any]) -> None:
    host = failed_over()
    run = handle(route(plug_in(lambda *_: None, lambda *_: steps), OPEN_APP), host, [PROMOTED])
    assert not run.ok
    assert 118 <= opened(host) <= 121


def test_under_a_new_primary_nothing_is_looked_at_through_a_port_that_leads_to_the_old_one() -> None:
    host = failed_over()
    found = drift(MAIN, host, SEEN_1, {})
    assert str(found.pending[0]) == "route port barman to node 2 (10.0.0.12)"
    assert "barman" not in {program.argv[0] for program in host.ran}


def test_the_app_port_opens_at_its_limit_although_looking_hangs() -> None:
    host = failed_over()
    host.barman.hanging = frozenset({"show-server"})
    host.after("barman receive-wal", lambda: setattr(host.barman, "health", "hangs"))
    handle(MAIN, host, [PROMOTED])
    assert 118 <= opened(host) <= 121


def test_that_it_hung_at_last_does_not_hide_why_it_failed_before() -> None:
    """Barman is refused for two minutes, and the last try has a second left."""
    host = failed_over()
    host.barman.health = "ruins"
    host.at(host.now() + 116, lambda: setattr(host.barman, "health", "hangs"))
    run = handle(MAIN, host, [PROMOTED])
    assert 118 <= opened(host) <= 121
    (problem, *_) = next(done.problems for done in run.done if done.problems)
    said = "killed; before that: barman show-server main_backup: exit code 1: ERROR: cannot open /var/lib"
    assert said in problem.message
    assert problem.code != "timeout", "an alert goes by the code: a slow Barman would hide its gap"


class WithoutRawSockets(FakeHost):
    """A container in which nobody may send packets of his own making."""

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        raise OperationFailed("cannot send packets (needs CAP_NET_RAW)")


def test_clients_that_cannot_be_told_do_not_keep_the_port_closed(caplog: pytest.LogCaptureFixture) -> None:
    host = WithoutRawSockets()
    vars(host).update(vars(failed_over()))
    run = handle(MAIN, host, [PROMOTED])
    assert run.ok
    assert opened(host) < 30
    assert "cannot send packets (needs CAP_NET_RAW); going on without it" in caplog.text


def test_a_slot_that_somebody_drops_while_the_stream_is_started_is_made_anew_at_once() -> None:
    host = failed_over()
    host.after("barman receive-wal --stop", host.nodes[2].slots.clear)
    run = handle(MAIN, host, [PROMOTED])
    assert run.ok
    assert host.nodes[2].slots["barman"].active
    assert opened(host) < 10, "start_timeout, 60 s, is not waited for in vain"


def test_which_node_began_a_timeline_is_known_after_the_first_step_too() -> None:
    """Then the decision itself is what is remembered of the primary."""
    host = FakeHost()
    host.fail_over()
    host.nodes[2].segment, host.nodes[2].recycled = 6, {"000000020000000000000005"}
    host.barman.archived |= {"000000020000000000000005", "00000002.history"}
    known = LastKnownPrimary(1, 1, host.nodes[1].system_identifier, began={1: 1, 2: 3})
    result = handle(MAIN, host, [], last_known=known)
    assert "BRANCH_CONFLICT: Barman holds timeline 2 that another node began" in result.message
    assert host.leads_to(54322) == "10.0.0.12:5432", "clients are not held up for longer than the gate says"
    assert "FFFFFFFFFFFFFFFF000000FF.partial" in host.barman.streaming


# -- what matters less, and fails --------------------------------------------------------------------------------------

NO_MODULE = "conntrack v1.4.7 (conntrack-tools): Operation failed: No such file or directory"


def exits_1(words: str) -> Callable[[FakeHost, Program], str]:
    def run(host: FakeHost, program: Program) -> str:
        raise OperationFailed(f"{program}: exit code 1: {words}")

    return run


def is_missing(host: FakeHost, program: Program) -> str:
    raise NoSuchProgram(f"{program.argv[0]}: no such program")


def hangs(host: FakeHost, program: Program) -> str:
    host.sleep(5)
    raise ProgramTimeout(program, 5)


def only(verb: str, failing: Callable[[FakeHost, Program], str]) -> Callable[[FakeHost, Program], str]:
    def run(host: FakeHost, program: Program) -> str:
        return failing(host, program) if verb in program.argv else host._conntrack(program, [*program.argv[1:]])

    return run


@pytest.mark.parametrize(
    ("program", "broken", "named"),
    [
        ("conntrack", exits_1(NO_MODULE), NO_MODULE),
        ("conntrack", only("-L", exits_1(NO_MODULE)), NO_MODULE),
        ("conntrack", only("-D", exits_1(NO_MODULE)), NO_MODULE),
        ("conntrack", is_missing, "conntrack: no such program"),
        ("conntrack", hangs, "not finished after 5 s; killed"),
        ("conntrack", only("-L", hangs), "not finished after 5 s; killed"),
        ("sysctl", exits_1("read-only file system"), "read-only file system"),
        ("sysctl", is_missing, "sysctl: no such program"),
    ],
    ids=["fails", "cannot list", "cannot delete", "missing", "hangs", "hangs on the list", "sysctl", "no sysctl"],
)
def test_a_helper_that_fails_keeps_no_port_where_it_was(
    program: str, broken: Callable[[FakeHost, Program], str], named: str
) -> None:
    host = failed_over()
    host.forwarding = program != "sysctl"
    host.programs[program] = lambda asked: broken(host, asked)
    run = handle(MAIN, host, [PROMOTED])
    assert (host.leads_to(54321), host.leads_to(54322)) == (NODE_2, NODE_2)
    swaps = [moment for moment, what in host.changes if what == "iptables-restore"]
    assert swaps[0] <= 2.0, "the first waits for nothing but the silent node"
    assert swaps[-1] <= swaps[0] + 10.0, "what hangs is waited for once"
    assert not run.ok and run.again, "it is tried again"
    assert named in run.message
    assert any(named in step.error for step in run.done)


def test_when_the_helper_works_again_the_rest_is_done() -> None:
    host = failed_over()
    host.programs["conntrack"] = lambda asked: exits_1(NO_MODULE)(host, asked)
    assert not handle(MAIN, host, [PROMOTED]).ok
    assert host.connections
    del host.programs["conntrack"]
    assert handle(MAIN, host, [PROMOTED]).ok
    assert not host.connections


@pytest.mark.parametrize("broken", [exits_1(NO_MODULE), only("-L", exits_1(NO_MODULE)), hangs, is_missing])
def test_a_broken_conntrack_leaves_no_port_at_a_stale_primary(broken: Callable[[FakeHost, Program], str]) -> None:
    world = FakeHost()
    world.nodes[2].timeline = 2
    world.nodes[2].in_recovery = False
    world.promote(2)
    world.lose(2)
    world.programs["conntrack"] = lambda asked: broken(world, asked)
    run = handle(MAIN, world, [], last_known=LastKnownPrimary(2, 3, world.nodes[1].system_identifier))
    assert run.decision and run.decision.stale_primaries == (1,)
    assert (world.leads_to(54321), world.leads_to(54322)) == (None, None)
    assert not run.ok
    assert "conntrack" in run.message


def test_a_plug_in_that_cannot_fence_keeps_no_other_handler_from_it() -> None:
    world = FakeHost()
    world.nodes[2].timeline = 3
    broken = plug_in(lambda *_: None, lambda *_: [])
    broken.handler.fence = exits_1("never called with two arguments")  # type: ignore[attr-defined]
    managed = route(broken, OPEN_BARMAN, OPEN_APP)
    run = handle(managed, world, [], last_known=LastKnownPrimary(2, 3, world.nodes[1].system_identifier))
    assert run.decision and run.decision.stale_primaries == (1,)
    assert (world.leads_to(54321), world.leads_to(54322)) == (None, None)
    assert "a bug in the handler plug_in" in run.message


def test_a_forwarding_switch_that_cannot_be_read_keeps_no_port() -> None:
    host = failed_over()

    def read(path: str) -> str:
        raise OperationFailed(f"{path} cannot be read: Permission denied")

    host.read = read  # type: ignore[method-assign]
    run = handle(MAIN, host, [PROMOTED])
    assert (host.leads_to(54321), host.leads_to(54322)) == (NODE_2, NODE_2)
    assert "let the kernel forward" in run.message


@pytest.mark.parametrize("bug", [OperationFailed("no"), ValueError("no"), UnicodeEncodeError("utf-8", "x", 0, 1, "no")])
def test_clients_that_cannot_be_told_and_people_neither_keep_no_port(bug: Exception) -> None:
    host = failed_over()

    def fail(_: object) -> None:
        raise bug

    host.reset_clients = host.tell = fail  # type: ignore[assignment,method-assign]
    alert = Action("notify", notify, notify.Config(), "notify {}", "[0].do[9]")
    run = handle(route(alert, OPEN_BARMAN, OPEN_APP), host, [PROMOTED])
    assert host.now() < 10, "nobody waits for them until the ports' limit"
    assert (host.leads_to(54321), host.leads_to(54322)) == (NODE_2, NODE_2)
    assert not run.ok
    assert "no" in run.message


def test_a_standbys_slot_comes_last_and_hinders_nobody() -> None:
    host = failed_over()
    host.nodes[3] = FakeNode("10.0.0.13", timeline=2)
    host.nodes[3].slots["barman"] = FakeSlot(physical=False)
    cluster = replace(MAIN.cluster, nodes={**MAIN.cluster.nodes, 3: Node("10.0.0.13")})
    drop = Action("slot", slot, slot.Config("standbys"), "slot {on: standbys}", "[0].do[0]")
    managed = replace(route(drop, OPEN_BARMAN, SLOT, STREAM, OPEN_APP), cluster=cluster)
    run = handle(managed, host, [PROMOTED])
    assert [item.action.name for item in run.done] == ["firewall", "slot", "barman", "firewall", "slot"]
    assert (host.leads_to(54321), host.leads_to(54322)) == (NODE_2, NODE_2)
    assert [item.action for item in run.done if item.error] == [drop]
    assert "is logical" in run.message


@pytest.mark.parametrize("broken", [ValueError("odd\x1b[31m"), OperationFailed("a\udcffb\0"), SurprisingError()])
def test_what_a_plug_in_says_is_made_printable(broken: Exception) -> None:
    def observe(*_: object) -> None:
        raise broken

    run = handle(route(plug_in(observe, lambda *_: [])), FakeHost(), [PROMOTED_1])
    assert run.message.isprintable()
    step = Step("do\x1b[31m\n\udcff", Program(("true",)), 1)
    run = handle(route(plug_in(None, lambda *_: [step])), FakeHost(), [PROMOTED_1])
    assert all(item.isprintable() for item in run.message.splitlines())
