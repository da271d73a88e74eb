"""Notifications: for their event at once, whatever the state, and never in the way of what matters more."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route, When
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.event import CATALOGUE, Event
from repmgr_hooks.handlers import command, firewall, notify
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]
SYSTEM = "7300000000000000001"
SEEN_1 = LastKnownPrimary(1, 1, SYSTEM)
PAGE = Action("command", command, command.Config(("/bin/page",)), "command {run: /bin/page}", "[0].do[1]")
OPEN_APP = Action("firewall", firewall, firewall.Config("app"), "firewall {open: app}", "[0].do[0]")
PROMOTE_ERROR = Event(2, "repmgrd_promote_error")
PROMOTED = Event(2, "repmgrd_failover_promote", other_node=1)


def routed(*actions: Action) -> ManagedCluster:
    return replace(MAIN, routes=(Route(frozenset(CATALOGUE), actions),))


class Pager:
    """Takes what it is given, and can hang until it is let go."""

    def __init__(self, host: FakeHost) -> None:
        self.told: list[dict[str, Any]] = []
        self.at: list[float] = []
        self.go = threading.Event()
        self.go.set()
        self._host = host
        host.programs["/bin/page"] = self.page

    def page(self, program: Program) -> str:
        self.told.append(json.loads(program.stdin))
        self.at.append(self._host.now())
        assert self.go.wait(60)
        return ""


@pytest.fixture
def host() -> FakeHost:
    return FakeHost()


@pytest.fixture
def pager(host: FakeHost) -> Pager:
    return Pager(host)


@pytest.mark.parametrize("actions", [(PAGE,), (OPEN_APP, PAGE), (PAGE, OPEN_APP)])
def test_while_no_primary_is_known(host: FakeHost, pager: Pager, actions: tuple[Action, ...]) -> None:
    host.lose(1)
    handle(routed(*actions), host, [PROMOTE_ERROR], last_known=SEEN_1)
    (told,) = pager.told
    assert (told["event"]["name"], told["primary"], told["old_primary"]) == ("repmgrd_promote_error", None, 1)
    assert told["old_primary_host"] == "10.0.0.11"
    assert pager.at[0] <= 2.0, "before a primary is waited for"


def test_a_notification_alone_waits_for_no_primary(host: FakeHost, pager: Pager) -> None:
    host.lose(1)
    assert handle(routed(PAGE), host, [PROMOTE_ERROR], last_known=SEEN_1).ok
    assert host.now() <= 2.0


def test_an_event_that_the_cluster_denies(host: FakeHost, pager: Pager) -> None:
    run = handle(routed(OPEN_APP, PAGE), host, [Event(2, "standby_promote", success=False)], last_known=SEEN_1)
    assert not run.ok
    (told,) = pager.told
    assert (told["contradicts"], told["event"]["success"], told["primary"]) == (True, False, 1)


def test_one_that_fails_is_the_problem_of_its_run(host: FakeHost) -> None:
    def refuses(program: Program) -> str:
        raise OperationFailed("/bin/page: no", code="exit_status", hint="see its log")

    host.programs["/bin/page"] = refuses
    run = handle(routed(PAGE), host, [PROMOTE_ERROR], last_known=SEEN_1)
    assert (run.ok, run.again, run.problem) == (False, True, Problem("exit_status", "/bin/page: no", "see its log"))
    assert [item.problems for item in run.done] == [(run.problem,)]
    assert f"{PAGE.title} for repmgrd_promote_error of node 2: /bin/page: no" in run.message


def test_a_port_that_is_closed_is_a_fact_too(host: FakeHost) -> None:
    handle(routed(OPEN_APP), host, [], last_known=SEEN_1)
    host.lose(1)
    run = handle(routed(OPEN_APP), host, [], last_known=SEEN_1, closed=("app",))
    ((step,),) = [item.steps for item in run.done]
    assert (step.kind, step.target) == ("close_while_unknown", "app")


def test_an_action_before_it_that_fails(host: FakeHost, pager: Pager) -> None:
    def refuses(text: str) -> None:
        raise OperationFailed("iptables-restore: no")

    host.fail_over()
    host.nat.restore = refuses  # type: ignore[method-assign]
    assert not handle(routed(OPEN_APP, PAGE), host, [PROMOTED], last_known=SEEN_1).ok
    assert [told["event"]["name"] for told in pager.told] == ["repmgrd_failover_promote"]


def test_a_program_that_hangs_keeps_no_port_closed(host: FakeHost, pager: Pager) -> None:
    host.fail_over()
    pager.go.clear()
    host.after("iptables-restore", pager.go.set)
    assert handle(routed(PAGE, OPEN_APP), host, [PROMOTED], last_known=SEEN_1).ok
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"


@pytest.mark.slow
def test_the_next_failover_is_not_kept_waiting(host: FakeHost, pager: Pager) -> None:
    """The run ends while the program is still at work, for there is another primary."""
    host.fail_over()
    pager.go.clear()
    fetch_each, looks = host.fetch_each, []

    def fails_over_again(queries: Any, limit: float) -> Any:
        looks.append(1)
        if len(looks) == 8:
            host.nodes[1].reachable = host.nodes[2].reachable = True
            host.nodes[2].in_recovery, host.nodes[1].timeline = True, 2
            host.promote(1)
        return fetch_each(queries, limit)

    host.fetch_each = fails_over_again  # type: ignore[method-assign]
    assert handle(routed(PAGE, OPEN_APP), host, [PROMOTED], last_known=SEEN_1).ok
    assert not pager.go.is_set()
    pager.go.set()


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (SEEN_1, (1, "10.0.0.11")),
        (replace(SEEN_1, primary=2, timeline=2, previous=1), (1, "10.0.0.11")),  # we were there before the event
        (replace(SEEN_1, primary=2, timeline=2, previous=7), (7, None)),
        (LastKnownPrimary(), (None, None)),
    ],
)
def test_the_old_primary_whether_or_not_repmgr_names_it(
    host: FakeHost, pager: Pager, known: LastKnownPrimary, expected: tuple[int | None, str | None]
) -> None:
    host.fail_over()
    handle(routed(PAGE), host, [replace(PROMOTED, other_node=None)], last_known=known)
    (told,) = pager.told
    assert (told["old_primary"], told["old_primary_host"]) == expected


@pytest.mark.parametrize(
    ("when", "event", "given"),
    [
        (When(node=(2, 3)), PROMOTED, True),
        (When(node=(1,)), PROMOTED, False),
        (When(success=False), PROMOTED, False),
        (When(success=False), replace(PROMOTED, success=False), True),
        (When(role=("primary",)), PROMOTED, True),
        (When(role=("standby", "witness")), PROMOTED, False),
        (When(role=("silent",)), Event(1, "standby_failure"), True),
        (When(primary="known"), PROMOTED, True),
        (When(primary="unknown"), PROMOTED, False),
    ],
)
@pytest.mark.parametrize("action", [PAGE, OPEN_APP])
def test_when(host: FakeHost, pager: Pager, when: When, event: Event, given: bool, action: Action) -> None:
    host.fail_over()
    handle(routed(replace(action, when=when)), host, [event], last_known=SEEN_1)
    assert (bool(pager.told) or host.leads_to(host.app_port) == "10.0.0.12:5432") == given


def test_when_the_primary_is_unknown(host: FakeHost, pager: Pager) -> None:
    host.lose(1)
    handle(routed(replace(PAGE, when=When(primary="unknown"))), host, [PROMOTE_ERROR], last_known=SEEN_1)
    assert len(pager.told) == 1


def test_of_several_events_an_action_gets_the_newest_that_it_is_meant_for(host: FakeHost, pager: Pager) -> None:
    host.fail_over()
    events = [Event(1, "standby_failure"), Event(2, "standby_failure"), PROMOTED]
    handle(routed(replace(PAGE, when=When(node=(1,)))), host, events, last_known=SEEN_1)
    assert [told["event"]["node"] for told in pager.told] == [1]


def test_an_action_for_some_events_is_not_looked_at_without_one(host: FakeHost) -> None:
    host.fail_over()
    managed = routed(replace(OPEN_APP, when=When(node=(2,))))
    assert handle(managed, host, [], last_known=SEEN_1).message.startswith("no route")
    assert handle(routed(replace(OPEN_APP, when=When(primary="known"))), host, [], last_known=SEEN_1).ok


def test_a_message_says_what_is_not_known(host: FakeHost) -> None:
    host.lose(1)
    tell = Action("notify", notify, notify.Config("critical"), "notify {severity: critical}", "[0].do[0]")
    handle(routed(tell), host, [replace(PROMOTE_ERROR, success=False)], last_known=SEEN_1)
    (alert,) = host.told
    assert alert.summary == "repmgrd_promote_error of node 2, reported as failed; the primary is unknown"
