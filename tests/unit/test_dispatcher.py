"""The whole way of an event, in a fake system: what is changed, in which order and when, and what is left alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from repmgr_hooks import carry_out, config, dispatcher
from repmgr_hooks.decide import Memory, Reason, Why
from repmgr_hooks.dispatcher import Chosen, drift, handle
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import command
from repmgr_hooks.poke import Flow
from repmgr_hooks.routes import Action, Managed, Route
from repmgr_hooks.steps import Program, Sql, Step
from tests.fake import Connection, FakeWorld

MAIN = config.load(Path(__file__).resolve().parents[2] / "config/config.yaml").clusters["main"]
OPEN_BARMAN, SLOT, STREAM, SWITCH_WAL, OPEN_APP = MAIN.routes[0].do
PROMOTED = Event(2, "standby_promote")
WIPED = "*nat\n:repmgr_dnat - [0:0]\nCOMMIT"
NODE_1, NODE_2 = "10.0.0.11:5432", "10.0.0.12:5432"
APP_CLIENT = Flow("10.0.0.30", 40000, "10.0.0.20", 54322)


def failed_over() -> FakeWorld:
    """Node 1 is lost and node 2 promoted; the application and Barman still hang on node 1."""
    world = FakeWorld()
    world.connections = [
        Connection(APP_CLIENT, "10.0.0.11"),
        Connection(Flow("10.0.0.20", 40001, "10.0.0.20", 54321), "10.0.0.11"),
    ]
    world.fail_over()
    return world


def route(*actions: Action) -> Managed:
    """The cluster with one route, for standby_promote."""
    return Managed(MAIN.cluster, (Route(frozenset({"standby_promote"}), actions),))


def plug_in(observe: Callable[..., Any] | None, plan: Callable[..., Any]) -> Action:
    """An action of a handler that some other package brings."""
    handler = SimpleNamespace(Config=object, observe=observe, plan=plan, problems=lambda config, cluster: [])
    return Action("plug_in", handler, None, "plug_in {}", "[0].do[0]")


def page(*argv: str) -> Action:
    """An action of the ``command`` handler."""
    return Action("command", command, command.Config(argv), f"command {{run: {argv}}}", "[0].do[0]")


def opened(world: FakeWorld) -> float:
    """When the app port was led to node 2: the last change of the nat table."""
    assert world.leads_to(world.app_port) == NODE_2
    return [moment for moment, what in world.changes if what == "iptables-restore"][-1]


# -- a promotion -------------------------------------------------------------------------------------------------------


def test_the_whole_promotion_in_the_articles_order() -> None:
    world = failed_over()
    app_while_not_safe: list[str | None] = []
    world.after("barman switch-wal", lambda: app_while_not_safe.append(world.leads_to(world.app_port)))
    run = handle(MAIN, world, [PROMOTED])
    assert run.ok
    assert world.what_changed() == [
        "iptables-restore",
        "conntrack -D 54321",
        "poke",
        "conntrack -D 54322",
        "poke",
        "create slot on 2",
        "barman receive-wal",
        "barman cron",
        "barman switch-wal",
        "iptables-restore",
    ]
    assert app_while_not_safe == [None], "closed until the backup is safe"
    assert world.leads_to(world.app_port) == world.leads_to(world.barman_port) == NODE_2
    assert world.connections == []
    assert APP_CLIENT in world.poked
    assert world.nodes[2].slots["barman"].active
    assert world.barman.streams_from == 2
    assert "000000020000000000000005" in world.barman.archived
    assert [done.action for done in run.done] == list(MAIN.routes[0].do)
    assert not any(done.error for done in run.done)


@pytest.mark.parametrize("event", [PROMOTED, Event(2, "repmgrd_failover_promote", other_node=1), None], ids=str)
def test_a_second_run_changes_nothing(event: Event | None) -> None:
    world = failed_over()
    handle(MAIN, world, [PROMOTED])
    before, nat = list(world.changes), world.nat.save()
    run = handle(MAIN, world, [event] if event else [])
    assert run.ok
    assert all(done.steps == () for done in run.done)
    assert world.changes == before
    assert world.nat.save() == nat


def test_reconcile_does_the_same_without_an_event() -> None:
    world, other = failed_over(), failed_over()
    assert handle(MAIN, world, []).ok
    assert handle(MAIN, other, [PROMOTED]).ok
    assert world.what_changed() == other.what_changed()


def test_an_event_whose_success_is_0_is_handled_all_the_same() -> None:
    """repmgr says so only after it has seen the node out of recovery."""
    world = failed_over()
    assert handle(MAIN, world, [Event(2, "standby_promote", success=False)]).ok
    assert world.leads_to(world.app_port) == NODE_2


def test_a_switchover_ends_with_the_slot_gone_from_the_old_primary() -> None:
    world = FakeWorld()
    world.promote(2)
    world.nodes[1].in_recovery, world.nodes[1].timeline = True, 2
    assert handle(MAIN, world, [Event(2, "standby_switchover", other_node=1)]).ok
    assert list(world.nodes[1].slots) == []
    assert list(world.nodes[2].slots) == ["barman"]
    assert world.barman.streams_from == 2


def test_a_standby_that_comes_back_loses_its_slot_and_nothing_else_happens() -> None:
    world = failed_over()
    handle(MAIN, world, [PROMOTED])
    world.nodes[1].reachable, world.nodes[1].in_recovery, world.nodes[1].timeline = True, True, 2
    before = len(world.changes)
    assert handle(MAIN, world, [Event(1, "node_rejoin")]).ok
    assert world.what_changed()[before:] == ["drop slot on 1"]


def test_forwarding_is_switched_on() -> None:
    world = FakeWorld()
    world.forwarding = False
    assert handle(MAIN, world, [Event(1, "primary_register")]).ok
    assert world.forwarding


# -- Barman in ruins ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("health", ["ruins", "hangs"])
def test_the_app_port_opens_at_its_limit_although_the_backup_is_not_safe(
    caplog: pytest.LogCaptureFixture, health: str
) -> None:
    world = failed_over()
    world.barman.health = health
    closed: list[str | None] = []
    for second in range(5, 118):
        world.at(second, lambda: closed.append(world.leads_to(world.app_port)))
    with caplog.at_level(logging.ERROR, "repmgr_hooks"):
        run = handle(MAIN, world, [PROMOTED])
    assert closed == [None] * 113
    assert 118 <= opened(world) <= 121
    assert not run.ok
    assert [bool(done.error) for done in run.done] == [False, False, True, True, False]
    assert [done.error for done in run.done][3] == "not reached"
    assert "show-server" in run.done[2].error
    assert "although what comes before it failed" in caplog.text
    assert caplog.records[-1].message.startswith("FAILED after")


def test_the_same_error_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    world = failed_over()
    world.barman.health = "ruins"
    with caplog.at_level(logging.ERROR, "repmgr_hooks"):
        handle(MAIN, world, [PROMOTED])
    assert (
        len([record for record in caplog.records if record.message.startswith("barman {stream: true, steady: 0}: ")])
        == 1
    )


def test_what_heals_in_time_is_done_and_the_run_is_ok() -> None:
    world = failed_over()
    world.barman.health = "ruins"
    world.at(30, lambda: setattr(world.barman, "health", "good"))
    assert handle(MAIN, world, [PROMOTED]).ok
    assert 30 <= opened(world) <= 33
    assert "000000020000000000000005" in world.barman.archived


def test_the_limit_counts_from_the_start_of_the_run() -> None:
    """The wait for the primary is part of it: clients do not care why they wait."""
    world = FakeWorld()
    world.lose(1)
    world.barman.health = "ruins"
    world.at(20, lambda: world.promote(2))
    assert not handle(MAIN, world, [PROMOTED]).ok
    assert 118 <= opened(world) <= 121


def test_without_a_later_limit_nothing_is_tried_twice() -> None:
    world = failed_over()
    world.barman.health = "ruins"
    run = handle(route(SLOT, STREAM, SWITCH_WAL), world, [PROMOTED])
    assert [done.error[:11] for done in run.done] == ["", "barman show", "not reached"]
    assert [str(program) for program in world.ran if program.argv[0] == "barman"] == ["barman show-server main_backup"]


# -- which node is the primary -----------------------------------------------------------------------------------------


def test_an_unknown_primary_changes_nothing_and_is_waited_for() -> None:
    world = FakeWorld()
    world.lose(1)
    run = handle(MAIN, world, [PROMOTED])
    assert (run.ok, run.done, world.changes) == (False, (), [])
    assert run.verdict and run.verdict.primary is None
    assert 30 <= world.now() <= 33, "primary_wait"


def test_a_node_that_is_promoted_some_seconds_later_is_waited_for() -> None:
    world = FakeWorld()
    world.lose(1)
    world.at(7, lambda: world.promote(2))
    assert handle(MAIN, world, [PROMOTED]).ok
    assert 7 <= world.changes[0][0] <= 12


def test_a_dead_primary_that_comes_back_is_not_followed() -> None:
    world = failed_over()
    handle(MAIN, world, [PROMOTED])
    before = list(world.changes)
    world.nodes[1].reachable = True
    world.nodes[2].in_recovery = True
    run = handle(MAIN, world, [Event(1, "primary_register")])
    assert (run.ok, world.changes) == (False, before)
    assert not any(done.steps or done.error for done in run.done), "nothing leads to it"
    assert run.verdict and run.verdict.reason.why is Why.BEHIND


@pytest.mark.parametrize(
    "name", ["standby_promote", "repmgrd_failover_promote", "primary_register", "standby_switchover"]
)
def test_an_event_that_claims_another_primary_changes_nothing(caplog: pytest.LogCaptureFixture, name: str) -> None:
    world = failed_over()
    with caplog.at_level(logging.ERROR, "repmgr_hooks"):
        run = handle(MAIN, world, [Event(1, name)])
    assert (run.ok, run.done, world.changes) == (False, (), [])
    assert "contradicts the cluster: the primary is node 2" in caplog.text
    assert world.now() < 5, "there is nothing to wait for"


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("demoted", {"in_recovery": True}),
        ("promoted again", {"timeline": 3}),
    ],
)
def test_when_the_primary_changes_in_mid_run_nothing_more_is_done(what: str, change: dict[str, Any]) -> None:
    world = failed_over()
    world.barman.health = "ruins"
    world.at(9.3, lambda: vars(world.nodes[2]).update(change))
    run = handle(MAIN, world, [PROMOTED])
    assert not run.ok
    assert max(moment for moment, _ in world.changes) <= 9.3
    assert world.leads_to(world.app_port) is None
    assert world.now() < 9.5, "it is looked for between two attempts, too"
    assert [done.error.startswith("the primary has changed meanwhile") for done in run.done] == [
        False,
        False,
        *3 * [True],
    ]


def test_a_primary_that_is_silent_for_a_while_is_tried_again() -> None:
    world = failed_over()
    world.after("create slot on 2", lambda: setattr(world.nodes[2], "reachable", False))
    world.at(40, lambda: setattr(world.nodes[2], "reachable", True))
    assert handle(MAIN, world, [PROMOTED]).ok
    assert 40 <= opened(world) <= 45


def test_no_port_opens_to_a_primary_that_stays_silent() -> None:
    world = failed_over()
    world.after("create slot on 2", lambda: setattr(world.nodes[2], "reachable", False))
    run = handle(MAIN, world, [PROMOTED])
    assert not run.ok
    assert world.leads_to(world.app_port) is None
    assert "does not answer" in run.done[-1].error


SYSTEM = "7300000000000000001"
SEEN_2 = Memory(2, 2, SYSTEM)
"""Node 2 was the primary, on timeline 2."""


def back_from_the_dead() -> FakeWorld:
    """Node 2 was promoted and does not answer; node 1 is a primary again, the ports and a client are with it."""
    world = FakeWorld()
    world.connections = [Connection(APP_CLIENT, "10.0.0.11"), Connection(replace(APP_CLIENT, client_port=9), NODE_2)]
    world.lose(2)
    return world


@pytest.mark.parametrize("events", [[PROMOTED], []], ids=str)
def test_while_the_primary_is_unknown_a_zombie_gets_nobody(events: list[Event]) -> None:
    world = back_from_the_dead()
    run = handle(MAIN, world, events, memory=SEEN_2)
    assert not run.ok
    assert run.again
    assert run.verdict and (run.verdict.primary, run.verdict.zombies) == (None, (1,))
    assert (world.leads_to(world.app_port), world.leads_to(world.barman_port)) == (None, None)
    assert world.what_changed() == ["iptables-restore", "conntrack -D 54321", "conntrack -D 54322", "poke"]
    assert [connection.host for connection in world.connections] == [NODE_2]
    assert world.poked == [APP_CLIENT]
    assert world.now() < 5, "there is nothing to wait for"
    before = list(world.changes)
    handle(MAIN, world, events, memory=SEEN_2)
    assert world.changes == before


def test_a_dry_run_shuts_nobody_out() -> None:
    world = back_from_the_dead()
    run = handle(MAIN, world, [], dry_run=True, memory=SEEN_2)
    assert not run.ok
    assert [[step.what for step in done.steps] for done in run.done] == [
        [
            "close what leads to node 1",
            "cut connections of port 54321 to 10.0.0.11",
            "cut connections of port 54322 to 10.0.0.11",
        ]
    ]
    assert world.changes == []


def test_a_zombie_that_cannot_be_shut_out_is_said_and_tried_again() -> None:
    world = back_from_the_dead()

    def locked(program: Program) -> str:
        raise StepFailed("another app is currently holding the xtables lock")

    world.programs["iptables-restore"] = locked
    run = handle(MAIN, world, [], memory=SEEN_2)
    assert (run.ok, run.again) == (False, True)
    assert "xtables lock" in run.done[0].error


def test_without_a_zombie_an_unknown_primary_leaves_every_rule_as_it_is() -> None:
    world = FakeWorld()
    world.nodes[2].in_recovery = False  # twins
    handle(MAIN, world, [], memory=Memory(1, 1, SYSTEM))
    assert world.changes == []


# -- looking without an event ------------------------------------------------------------------------------------------

SEEN_1 = Memory(1, 1, SYSTEM)


def test_a_cluster_of_another_system_than_the_one_that_is_remembered_gets_nobody() -> None:
    world = failed_over()
    for node in world.nodes.values():
        node.system_identifier = "7300000000000000002"
    assert drift(MAIN, world, SEEN_1, {}).verdict.reason == Reason(Why.FOREIGN, (2,))
    assert drift(MAIN, world, Memory(), {}).verdict.primary == 2


def settled() -> tuple[FakeWorld, dict[str, object]]:
    """All is as it should be, and was looked at once."""
    world, marks = FakeWorld(), {}
    assert handle(MAIN, world, []).ok
    assert drift(MAIN, world, SEEN_1, marks).missing == ()
    world.ran.clear()
    return world, marks


def test_a_quiet_tick_runs_no_program() -> None:
    world, marks = settled()
    for _ in range(20):
        found = drift(MAIN, world, SEEN_1, marks)
        assert (found.verdict.primary, found.missing, found.warnings) == (1, (), ())
    assert world.ran == []


def test_every_five_minutes_it_is_looked_at_all_the_same() -> None:
    world, marks = settled()
    looks = []
    for second in range(900):
        world.sleep(1)
        world.ran.clear()
        drift(MAIN, world, SEEN_1, marks)
        if world.ran:
            looks.append(second)
    assert len(looks) == 3
    assert max(after - before for before, after in pairwise(looks)) <= 300


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda world: world.nat.restore(WIPED), "lead port app to node 1 (10.0.0.11)"),
        (lambda world: setattr(world, "forwarding", False), "let the kernel forward"),
        (lambda world: world.nodes[1].slots.clear(), "create slot barman on node 1"),
    ],
    ids=["the chains are wiped", "forwarding is switched off", "the slot is dropped"],
)
def test_what_others_change_is_seen_at_the_next_tick(change: Callable[[FakeWorld], None], missing: str) -> None:
    world, marks = settled()
    change(world)
    for _ in range(2):
        assert missing in drift(MAIN, world, SEEN_1, marks).missing, "and as long as it is so"
    assert handle(MAIN, world, []).ok
    assert drift(MAIN, world, SEEN_1, marks).missing == ()
    world.ran.clear()
    drift(MAIN, world, SEEN_1, marks)
    assert world.ran == []


def test_another_primary_is_looked_at_although_no_rule_has_changed() -> None:
    world, marks = settled()
    world.fail_over()
    assert "lead port barman to node 2 (10.0.0.12)" in drift(MAIN, world, SEEN_1, marks).missing


def test_a_failover_begins_with_the_first_thing_that_is_missing() -> None:
    world, marks = settled()
    world.fail_over()
    assert "create slot barman on node 2" in drift(MAIN, world, SEEN_2, marks).missing
    assert "create slot barman on node 2" not in drift(MAIN, world, SEEN_1, marks).missing


def test_where_the_kernel_does_not_count_it_is_looked_at_every_time() -> None:
    world, marks = settled()
    world.counts_rules = False
    for _ in range(3):
        world.ran.clear()
        assert drift(MAIN, world, SEEN_1, marks).missing == ()
        assert [program.argv[0] for program in world.ran].count("iptables-save") == 2
    world.nat.chains["repmgr_dnat"].clear()
    assert "lead port app to node 1 (10.0.0.11)" in drift(MAIN, world, SEEN_1, marks).missing


def test_a_look_that_fails_is_no_mark() -> None:
    world, marks = settled()

    def broken(program: Program) -> str:
        raise StepFailed("iptables-save: no such program")

    world.programs["iptables-save"] = broken
    world.nat.restore("*nat\nCOMMIT")
    for _ in range(2):
        assert any("no such program" in line for line in drift(MAIN, world, SEEN_1, marks).missing)


def test_a_tick_sees_what_leads_to_a_zombie_and_changes_nothing() -> None:
    world = back_from_the_dead()
    found = drift(MAIN, world, SEEN_2, {})
    assert found.verdict.zombies == (1,)
    assert found.missing[0] == "close what leads to node 1"
    assert world.changes == []
    assert handle(MAIN, world, [], memory=SEEN_2).done
    assert drift(MAIN, world, SEEN_2, {}).missing == ()


# -- dry runs, routes, notifications -----------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [PROMOTED, None], ids=str)
def test_a_dry_run_shows_the_steps_and_changes_nothing(event: Event | None) -> None:
    world = failed_over()
    nat = world.nat.save()
    run = handle(MAIN, world, [event] if event else [], dry_run=True)
    assert run.ok
    assert [len(done.steps) for done in run.done][:5] == [3, 1, 2, 1, 1]
    assert (world.changes, world.nat.save()) == ([], nat)


def test_a_dry_run_does_not_wait_for_a_primary() -> None:
    world = FakeWorld()
    world.lose(1)
    assert not handle(MAIN, world, [PROMOTED], dry_run=True).ok
    assert world.now() < 5


@pytest.mark.parametrize("name", ["cluster_created", "repmgrd_start", "repmgrd_promote_error"])
def test_an_event_without_a_route_looks_at_nothing(name: str) -> None:
    world = FakeWorld()
    run = handle(MAIN, world, [Event(2, name)])
    assert (run.ok, run.verdict, run.done) == (True, None, ())
    assert (world.ran, world.changes, world.now()) == ([], [], 0)


def test_the_routes_of_an_event_are_taken_in_the_order_of_the_file() -> None:
    first, second = MAIN.routes
    switchover, rejoin = Event(2, "standby_switchover"), Event(1, "node_rejoin")
    both = [*first.do, *second.do]
    assert dispatcher.select(MAIN.routes, [switchover]) == [Chosen(action, switchover) for action in both]
    assert dispatcher.select(MAIN.routes, [rejoin]) == [Chosen(action, rejoin) for action in second.do]
    assert dispatcher.select(MAIN.routes, []) == [Chosen(action, None) for action in both]


def test_a_notification_runs_on_its_events_and_not_on_reconcile() -> None:
    world = failed_over()
    told: list[Program] = []
    world.programs["/usr/local/bin/page"] = lambda program: told.append(program) or ""  # type: ignore[func-returns-value]
    main = route(page("/usr/local/bin/page", "dba"), OPEN_APP)
    assert handle(main, world, []).ok
    assert told == []
    assert handle(main, world, [PROMOTED]).ok
    assert handle(main, world, [PROMOTED]).ok
    assert [program.argv for program in told] == [("/usr/local/bin/page", "dba")] * 2


def test_a_notification_that_fails_does_not_keep_the_port_closed() -> None:
    world = failed_over()
    run = handle(route(page("/no/such/program"), OPEN_APP), world, [PROMOTED])
    assert not run.ok
    assert 118 <= opened(world) <= 121


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
    world = failed_over()
    run = handle(route(plug_in(observe, plan), OPEN_APP), world, [PROMOTED])
    assert not run.ok
    assert "a bug in the handler plug_in: " in run.done[0].error
    assert 118 <= opened(world) <= 121


@pytest.mark.parametrize("part", ["observe", "plan", "mark", "warnings", "tend"])
def test_a_plug_in_that_never_returns_fails_and_the_port_opens_all_the_same(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(carry_out, "PLUG_IN_LIMIT", 0.1)
    let_go = threading.Event()
    parts: dict[str, Callable[..., Any]] = {"observe": lambda *_: None, "plan": lambda *_: []}
    parts[part] = lambda *_: let_go.wait(60)
    handler = SimpleNamespace(Config=object, problems=lambda config, cluster: [], **parts)
    stuck = Action(f"hangs in {part}", handler, None, "stuck {}", "[0].do[0]")
    world = failed_over()
    try:
        if part in ("observe", "plan"):
            run = handle(route(stuck, OPEN_APP), world, [PROMOTED])
            assert run.done[0].error == f"the handler hangs in {part} has not answered; it stands still"
            assert 118 <= opened(world) <= 121
        else:
            assert drift(route(stuck, OPEN_APP), world, Memory(), {}).missing
            found = drift(route(stuck), world, Memory(), {})
            assert (part == "mark") == (not found.warnings)
    finally:
        let_go.set()


def test_a_step_that_worked_and_left_things_as_they_were_has_failed() -> None:
    world = failed_over()
    world.programs["/bin/mend"] = lambda program: ""
    run = handle(
        route(plug_in(lambda *_: None, lambda *_: [Step("mend it", Program(("/bin/mend",)), 5)])), world, [PROMOTED]
    )
    assert [done.error for done in run.done] == ["still missing afterwards: mend it"]


def test_one_failure_in_a_dry_run_hides_no_other_step() -> None:
    world = failed_over()
    run = handle(route(plug_in(None, fails(ValueError("x"))), OPEN_APP), world, [PROMOTED], dry_run=True)
    assert not run.ok
    assert run.done[0].error == "a bug in the handler plug_in: ValueError('x')"
    assert len(run.done[1].steps) == 3


@pytest.mark.parametrize(
    "steps",
    [["mend it"], [Step("mend it", Sql(9, "select 1"), 5)], [Step("mend it", Program(("/bin/mend",)), "5 s")]],  # type: ignore[arg-type]
    ids=["no step", "no such node", "no number of seconds"],
)
def test_a_plan_of_no_steps_fails_and_the_port_opens_all_the_same(steps: list[Any]) -> None:
    world = failed_over()
    run = handle(route(plug_in(lambda *_: None, lambda *_: steps), OPEN_APP), world, [PROMOTED])
    assert not run.ok
    assert 118 <= opened(world) <= 121


def test_under_a_new_primary_nothing_is_looked_at_through_a_port_that_leads_to_the_old_one() -> None:
    world = failed_over()
    found = drift(MAIN, world, SEEN_1, {})
    assert found.missing[0] == "lead port barman to node 2 (10.0.0.12)"
    assert "barman" not in {program.argv[0] for program in world.ran}


def test_the_app_port_opens_at_its_limit_although_looking_hangs() -> None:
    world = failed_over()
    world.barman.hanging = frozenset({"show-server"})
    world.after("barman cron", lambda: setattr(world.barman, "health", "hangs"))
    handle(MAIN, world, [PROMOTED])
    assert 118 <= opened(world) <= 121


class WithoutRawSockets(FakeWorld):
    """A container in which nobody may send packets of his own making."""

    def poke(self, flows: Iterable[Flow]) -> None:
        raise StepFailed("cannot send packets (needs CAP_NET_RAW)")


def test_clients_that_cannot_be_told_do_not_keep_the_port_closed(caplog: pytest.LogCaptureFixture) -> None:
    world = WithoutRawSockets()
    vars(world).update(vars(failed_over()))
    run = handle(MAIN, world, [PROMOTED])
    assert run.ok
    assert opened(world) < 30
    assert "cannot send packets (needs CAP_NET_RAW); going on without it" in caplog.text


def test_a_slot_that_somebody_drops_while_the_stream_is_started_is_made_anew_at_once() -> None:
    world = failed_over()
    world.after("barman receive-wal", world.nodes[2].slots.clear)
    run = handle(MAIN, world, [PROMOTED])
    assert run.ok
    assert world.nodes[2].slots["barman"].active
    assert opened(world) < 10, "start_timeout, 60 s, is not waited for in vain"
