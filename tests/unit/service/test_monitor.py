"""Looking without an event: what was lost, done by hand or undone by others is seen and mended."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks import config
from repmgr_hooks.alerts.evaluator import Listener
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.readiness import Readiness
from repmgr_hooks.config import Config
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event
from repmgr_hooks.journal.heartbeat import last_heartbeat
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import Waiting
from repmgr_hooks.journal.wal_checks import WalCheckRow, keep
from repmgr_hooks.service.controller import NOBODY, ClusterController
from repmgr_hooks.service.foreground import run_now
from repmgr_hooks.service.monitor import HURRY_EVERY, MANY
from repmgr_hooks.settings.cluster import WhileUnknown
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.login import UNUSED_LIMIT
from tests.fake import FakeHost, NatTable

LOADED = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml")
MAIN = LOADED.clusters["main"]
TICK = LOADED.service.monitor_interval
PROMOTED = Event(2, "standby_promote")


@pytest.fixture
def queue(journal: Journal, host: FakeHost, loaded: Config) -> ClusterController:
    return ClusterController(MAIN, journal, host, loaded)


def two_gateways(journal: Journal, host: FakeHost, loaded: Config, listener: Listener = NOBODY) -> ClusterController:
    gateway = replace(MAIN.cluster.gateway, hosts=("10.0.0.21", "10.0.0.22"))
    managed = replace(MAIN, cluster=replace(MAIN.cluster, gateway=gateway))
    return ClusterController(managed, journal, host, loaded, listener)


def test_what_is_left_to_do_is_done_when_the_address_comes(journal: Journal, host: FakeHost, loaded: Config) -> None:
    """Also what a run has failed to do, and is not to be tried again for long."""
    host.addresses = {"10.0.0.22"}
    queue = two_gateways(journal, host, loaded)
    ticks(queue, host, 2)
    host.fail_over()
    ticks(queue, host, 200)
    assert "slots" not in host.what_changed()
    assert "barman" not in host.nodes[2].slots
    assert host.leads_to(host.app_port) == "10.0.0.12:5432", "after fail_open_after"
    (last,) = journal.runs(1)
    assert not last.ok
    host.addresses.add(host.gateway)
    queue.work()
    assert host.nodes[2].slots["barman"].active
    assert host.barman.streams_from == 2
    (last,) = journal.runs(1)
    assert (last.cause, last.ok) == ("drift", True)
    host.addresses.discard(host.gateway)
    changed = host.what_changed()
    ticks(queue, host, 20)
    assert host.what_changed() == changed


@pytest.mark.parametrize(
    ("command", "way"), [(("ssh", "barman@backup", "barman"), ("ssh", "barman@backup")), (("barman",), ())]
)
def test_a_gateway_without_the_address_stays_logged_in_where_barman_is(
    journal: Journal, host: FakeHost, loaded: Config, command: tuple[str, ...], way: tuple[str, ...]
) -> None:
    """It looks at Barman no more for hours; when the address comes, each look would be a login of its own."""
    host.addresses = {"10.0.0.22"}
    assert MAIN.cluster.barman
    barman = replace(MAIN.cluster.barman, command=command)
    gateway = replace(MAIN.cluster.gateway, hosts=("10.0.0.21", "10.0.0.22"))
    managed = replace(MAIN, cluster=replace(MAIN.cluster, gateway=gateway, barman=barman))
    queue = ClusterController(managed, journal, host, loaded)
    ticks(queue, host, 200)
    assert {words for _, words in host.logins} == ({way} if way else set())
    if way:
        moments = [0.0, *(moment for moment, _ in host.logins), host.now()]
        assert max(after - before for before, after in itertools.pairwise(moments)) < UNUSED_LIMIT / 2


class Listens:
    """Keeps what is open."""

    def __init__(self) -> None:
        self.open: dict[str, Alert] | None = None

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        self.open = {alert.condition: alert for alert in found}

    def leave(self, cluster: str, but: Collection[str]) -> None:
        """Nothing of it is kept here."""

    def tell(self, alert: Alert) -> None:
        """Nothing happens here."""


def test_the_gateway_with_the_address_tells_of_the_other(journal: Journal, host: FakeHost, loaded: Config) -> None:
    host.addresses = {"10.0.0.22", host.gateway}
    listener = Listens()
    queue = two_gateways(journal, host, loaded, listener)
    ticks(queue, host, 2)
    assert host.announced == {1: "repmgr_hooks 10.0.0.22 active"}
    assert listener.open == {}, "it may just be starting"
    ticks(queue, host, 3)
    assert listener.open is not None
    assert str(listener.open["gateways"].summary) == "the gateway 10.0.0.21 does not watch the cluster"
    host.other_gateways = [("repmgr_hooks 10.0.0.21 standby", 1.0)]
    ticks(queue, host, 1)
    assert listener.open == {}


def test_connections_that_are_not_tracked_here_are_told_of_by_this_gateway(
    journal: Journal, host: FakeHost, loaded: Config
) -> None:
    """Whether it has the address or not: nobody else sees its table. What is on its way is nothing to tell of."""
    host.addresses = {"10.0.0.22"}
    host.other_gateways = [("repmgr_hooks 10.0.0.21 active", 1.0)]
    listener = Listens()
    queue = two_gateways(journal, host, loaded, listener)
    ticks(queue, host, 2)
    host.sessions = [(1, 40000)]
    ticks(queue, host, 13)
    host.sessions = [(1, 40001)]
    ticks(queue, host, 13)
    assert not listener.open, "each was missing in one look only"
    ticks(queue, host, 13)
    assert listener.open is not None
    alert = listener.open["gateways"]
    assert (alert.severity, alert.summary) == (
        "warning",
        "connections that clients have with the nodes are not tracked by this gateway: they break when 10.0.0.20 comes",
    )
    compared = sum(program.argv[:2] == ("conntrack", "-L") for program in host.ran)
    assert compared < 10, "once a minute"
    host.sessions = []
    ticks(queue, host, 13)
    assert listener.open == {}, "it is told that it is over"


def test_what_was_not_tracked_is_told_no_more_where_it_cannot_be_judged(
    journal: Journal, host: FakeHost, loaded: Config
) -> None:
    """Without the address, and with a cache of conntrackd's own, the kernel is not to have it all."""
    host.addresses = {"10.0.0.22", host.gateway}
    host.conntrackd_fills_kernel = False
    host.other_gateways = [("repmgr_hooks 10.0.0.21 standby", 1.0)]
    listener = Listens()
    queue = two_gateways(journal, host, loaded, listener)
    host.sessions = [(1, 40000)]
    ticks(queue, host, 26)
    assert listener.open is not None
    assert "they break now" in listener.open["gateways"].summary
    host.addresses = {"10.0.0.22"}
    host.other_gateways = [("repmgr_hooks 10.0.0.21 active", 1.0)]
    ticks(queue, host, 13)
    assert listener.open == {}


@pytest.mark.parametrize(("own", "other"), [("10.0.0.21", "10.0.0.22"), ("10.0.0.22", "10.0.0.21")])
def test_each_of_two_that_have_the_address_tells_of_it(
    journal: Journal, host: FakeHost, loaded: Config, own: str, other: str
) -> None:
    """Who is told by one of them may be cut off from the other."""
    host.addresses = {own, host.gateway}
    host.other_gateways = [(f"repmgr_hooks {other} active", 1.0)]
    listener = Listens()
    queue = two_gateways(journal, host, loaded, listener)
    ticks(queue, host, 5)
    assert listener.open is not None
    alert = listener.open["gateways"]
    assert (alert.severity, alert.summary) == ("critical", "10.0.0.20 is on 10.0.0.21 and 10.0.0.22 at once")
    host.other_gateways = [(f"repmgr_hooks {other} standby", 1.0)]
    ticks(queue, host, 1)
    assert listener.open == {}


def test_a_former_primary_that_runs_on_does_not_show_that_we_follow_it(
    journal: Journal, host: FakeHost, loaded: Config
) -> None:
    """A gateway that was away would believe it."""
    host.addresses = {"10.0.0.22", host.gateway}
    queue = two_gateways(journal, host, loaded)
    ticks(queue, host, 2)
    host.promote(2)
    host.nodes[1].registered = (1,)
    ticks(queue, host, 3)
    assert host.announced == {1: "repmgr_hooks", 2: "repmgr_hooks 10.0.0.22 active"}
    host.nodes[2].reachable = False
    ticks(queue, host, 3)
    assert host.announced[1] == "repmgr_hooks", "a stale primary is no primary"


def test_the_others_tell_only_what_nobody_else_does(journal: Journal, host: FakeHost, loaded: Config) -> None:
    host.addresses = {"10.0.0.22"}
    host.other_gateways = [("repmgr_hooks 10.0.0.21 active", 1.0)]
    listener = Listens()
    queue = two_gateways(journal, host, loaded, listener)
    host.nodes[2].unseen_for = -1
    ticks(queue, host, 10)
    assert listener.open == {}
    host.other_gateways = [("repmgr_hooks 10.0.0.21 standby", 1.0)]
    ticks(queue, host, 4)
    assert listener.open is not None
    assert list(listener.open) == ["gateways"]
    assert listener.open["gateways"].severity == "critical"
    host.other_gateways = [("repmgr_hooks 10.0.0.21 active", 1.0)]
    ticks(queue, host, 1)
    assert listener.open == {}, "it is told that it is over"


def ticks(queue: ClusterController, host: FakeHost, number: int) -> None:
    """Let so much time pass, looking whenever the queue says so."""
    for _ in range(number):
        host.sleep(queue.work())


def promote(host: FakeHost, node: int, timeline: int) -> None:
    host.nodes[node].in_recovery = False
    host.nodes[node].timeline = timeline
    host.nodes[node].reachable = True


def test_all_is_well_and_nothing_is_written(queue: ClusterController, host: FakeHost, journal: Journal) -> None:
    assert queue.work() == TICK
    ticks(queue, host, 20)
    assert (host.changes, journal.runs(9)) == ([], [])


def test_a_promotion_that_no_event_has_told_of(queue: ClusterController, host: FakeHost, journal: Journal) -> None:
    ticks(queue, host, 2)
    host.nodes[1].reachable = False
    promote(host, 2, 2)
    ticks(queue, host, 2)
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"
    assert [(run.cause, run.ok, run.primary) for run in journal.runs(9)] == [("drift", True, 2)]


def test_without_a_primary_it_looks_ten_times_a_second_and_not_for_ever(
    queue: ClusterController, host: FakeHost
) -> None:
    ticks(queue, host, 2)
    host.nodes[1].reachable = False
    waits = []
    for _ in range(800):
        waits.append(queue.work())
        host.sleep(waits[-1])
    assert waits[1] == pytest.approx(0.1)
    assert waits[-1] == TICK
    assert host.changes == []


def test_a_primary_that_came_back_from_the_dead_gets_nobody(
    queue: ClusterController, host: FakeHost, journal: Journal, loaded: Config, caplog: pytest.LogCaptureFixture
) -> None:
    host.nodes[1].reachable = False
    promote(host, 2, 2)
    ticks(queue, host, 3)
    host.nodes[2].reachable = False
    promote(host, 1, 1)
    host.changes.clear()
    with caplog.at_level(logging.WARNING):
        again = ClusterController(MAIN, journal, host, loaded)  # also after a restart
        ticks(again, host, 3)
    assert host.changes == []
    assert "SPLIT-BRAIN: node 1 is a stale primary (timeline 1 < 2)" in caplog.text
    assert "node 1 is a primary on an older timeline than 2" in caplog.text


def test_a_standby_promoted_by_mistake_beside_a_healthy_primary_changes_nothing(
    queue: ClusterController, host: FakeHost, journal: Journal, loaded: Config
) -> None:
    ticks(queue, host, 2)
    promote(host, 2, 2)
    ticks(queue, host, 3)
    assert host.changes == []
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"


def test_a_promotion_that_repmgr_could_not_write_down_is_followed_beside_the_old_primary(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    """``standby_promote`` with success 0 comes once the node is out of recovery; only the metadata is wrong."""
    ticks(queue, host, 2)
    promote(host, 2, 2)
    ticks(queue, host, 2)
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"
    journal.add_event("main", Event(2, "standby_promote", success=False), time.time(), "00000000000000000005-77")
    ticks(queue, host, 2)
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"
    ticks(queue, host, 20)
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"


class Flood(Journal):
    """There is always one more event, and it lies."""

    told = 0

    def waiting(self, cluster: str) -> list[Waiting]:
        self.told += 1
        if self.told <= 50:
            self.add_event(cluster, Event(1, "standby_promote"), time.time(), str(self.told))
        return super().waiting(cluster)


def test_a_promotion_that_no_event_has_told_of_is_followed_beside_a_flood_of_lies(
    tmp_path: Path, host: FakeHost, loaded: Config
) -> None:
    journal = Flood(tmp_path / "journal.db")
    journal.told = 50
    queue = ClusterController(MAIN, journal, host, loaded)
    ticks(queue, host, 2)
    host.nodes[1].reachable = False
    promote(host, 2, 2)
    journal.told = 0
    looks_before: list[int] = []
    host.after("iptables-restore", lambda: looks_before.append(journal.told))
    ticks(queue, host, 1)
    assert looks_before[0] < 5
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"
    journal.close()


def test_a_promotion_that_only_an_operator_tells_of_is_not_followed_beside_the_old_primary(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    ticks(queue, host, 2)
    promote(host, 2, 2)
    assert not run_now(MAIN, host, [PROMOTED], "replay", journal).ok
    ticks(queue, host, 3)
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"
    assert host.changes == []


def test_what_the_hook_handles_itself_is_as_good_as_what_it_has_stored(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    ticks(queue, host, 2)
    promote(host, 2, 2)
    assert run_now(MAIN, host, [PROMOTED], "event", journal).ok
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"


def test_a_chain_that_others_have_wiped_is_filled_again(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    ticks(queue, host, 3)
    host.nat.restore("*nat\n:repmgr_dnat - [0:0]\nCOMMIT")
    ticks(queue, host, 2)
    assert host.leads_to(host.app_port) == host.leads_to(host.barman_port) == "10.0.0.11:5432"


def test_quiet_ticks_run_no_program(queue: ClusterController, journal: Journal, host: FakeHost) -> None:
    keep(journal, "main", WalCheckRow("all", 0.0, 1, 1, "", "", "the records follow each other"))
    ticks(queue, host, 3)
    host.ran.clear()
    while host.now() < 60 - TICK:
        ticks(queue, host, 1)
    assert host.ran == []


def test_when_anybody_changes_rules_the_own_are_read_once(
    queue: ClusterController, journal: Journal, host: FakeHost
) -> None:
    """A failover of one cluster makes each other one look at all of its ports again."""
    ticks(queue, host, 3)
    host.ran.clear()
    host.nat.generation += 1
    ticks(queue, host, 1)
    assert sorted(program.argv[0] for program in host.ran) == ["conntrack", "iptables-save"]


# -- in a hurry --------------------------------------------------------------------------------------------------------


def waits(queue: ClusterController, host: FakeHost, seconds: float) -> list[tuple[float, float]]:
    """When it looked in so many seconds, and how long it waited then."""
    end, made = host.now() + seconds, []
    while host.now() < end:
        made.append((host.now(), queue.work()))
        host.sleep(made[-1][1])
    return made


@pytest.mark.parametrize("name", ["repmgrd_upstream_disconnect", "standby_failure", "repmgrd_promote_error"])
def test_after_a_sign_of_trouble_it_looks_ten_times_a_second_and_not_for_ever(
    queue: ClusterController, host: FakeHost, journal: Journal, name: str
) -> None:
    """The primary answers all the time: repmgr has seen it earlier than we, or was wrong."""
    ticks(queue, host, 2)
    journal.add_event("main", Event(2, name), time.time())
    begun = host.now()
    made = waits(queue, host, 100)
    quick = [moment - begun for moment, wait in made if wait < 1]
    assert quick[-1] == pytest.approx(60, abs=0.2)
    assert len(quick) == pytest.approx(600, abs=5)
    assert made[-1][1] == TICK
    assert host.changes == []


@pytest.mark.parametrize("name", ["repmgrd_start", "standby_register", "primary_register"])
def test_other_events_are_no_trouble(queue: ClusterController, host: FakeHost, journal: Journal, name: str) -> None:
    ticks(queue, host, 2)
    journal.add_event("main", Event(2 if name == "standby_register" else 1, name), time.time())
    assert [wait for _, wait in waits(queue, host, 30)] == [TICK] * int(30 / TICK)


def test_the_hurry_is_over_when_another_primary_was_seen(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    ticks(queue, host, 2)
    journal.add_event("main", Event(2, "repmgrd_upstream_disconnect"), time.time())
    begun = host.now()
    host.at(begun + 5, host.fail_over)
    made = waits(queue, host, 40)
    assert max(moment - begun for moment, wait in made if wait < 1) < 10
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"
    assert min(moment for moment, what in host.changes) - begun < 8


def test_the_hurry_is_over_when_the_primary_is_back(queue: ClusterController, host: FakeHost) -> None:
    ticks(queue, host, 2)
    begun = host.now()
    host.nodes[1].reachable = False
    host.at(begun + 8, lambda: setattr(host.nodes[1], "reachable", True))
    made = waits(queue, host, 40)
    assert max(moment - begun for moment, wait in made if wait < 1) == pytest.approx(8, abs=0.3)


# -- to and fro --------------------------------------------------------------------------------------------------------


def swing(host: FakeHost, node: int) -> None:
    """repmgr promotes this node, and the other one is made a standby."""
    other = 3 - node
    host.nodes[node].timeline = host.nodes[other].timeline
    host.promote(node)
    host.nodes[other].in_recovery, host.nodes[other].timeline = True, host.nodes[node].timeline


def test_a_primary_that_swings_is_held_and_by_hand_it_is_followed_at_once(
    queue: ClusterController, host: FakeHost, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    most = MAIN.cluster.flap_limit.changes
    ticks(queue, host, 2)
    for number in range(most):
        swing(host, 2 - number % 2)
        ticks(queue, host, 3)
        assert host.leads_to(host.app_port) == f"10.0.0.1{2 - number % 2}:5432"
    held, before = 2 - most % 2, list(host.changes)
    swing(host, held)
    with caplog.at_level(logging.WARNING):
        ticks(queue, host, 5)
    assert host.changes == before
    assert f"the primary has changed too often lately, now to node {held}" in caplog.text
    assert run_now(MAIN, host, [], "reconcile", journal).ok
    assert host.leads_to(host.app_port) == f"10.0.0.1{held}:5432"
    ticks(queue, host, 5)
    assert host.leads_to(host.app_port) == f"10.0.0.1{held}:5432"


def test_a_held_primary_is_followed_when_the_window_has_gone_by(
    queue: ClusterController, host: FakeHost, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks(queue, host, 2)
    for number in range(MAIN.cluster.flap_limit.changes + 1):
        swing(host, 2 - number % 2)
        ticks(queue, host, 3)
    moment = time.time() + MAIN.cluster.flap_limit.window
    monkeypatch.setattr(time, "time", lambda: moment)
    ticks(queue, host, 3)
    assert host.leads_to(host.app_port) == f"10.0.0.1{2 - number % 2}:5432"


# -- the dead ----------------------------------------------------------------------------------------------------------


def test_what_leads_to_a_stale_primary_is_closed_without_any_event(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    system = host.nodes[1].system_identifier
    journal.remember("main", LastKnownPrimary(2, 2, system))
    host.lose(2)
    ticks(queue, host, 3)
    assert (host.leads_to(host.app_port), host.leads_to(host.barman_port)) == (None, None)
    assert len([what for what in host.what_changed() if what == "iptables-restore"]) == 1
    assert journal.last_known("main") == LastKnownPrimary(2, 2, system), "a stale primary is not remembered"


def test_a_stale_primary_that_comes_after_a_run_has_failed_does_not_wait_for_a_retry(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    journal.remember("main", LastKnownPrimary(2, 2, host.nodes[1].system_identifier))
    host.lose(1)
    host.lose(2)
    failed = journal.begin_run("main", "event", 20, [])
    journal.end_run(failed, False, True, "the primary is unknown", None, 0)
    ticks(queue, host, 3)
    host.nodes[1].reachable = True
    ticks(queue, host, 3)
    assert host.leads_to(host.app_port) is None


def test_rules_that_others_put_back_after_a_stale_primary_was_shut_out_are_closed_again(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    journal.remember("main", LastKnownPrimary(2, 2, host.nodes[1].system_identifier))
    host.lose(2)
    saved = host.nat.save()
    ticks(queue, host, 3)
    assert host.leads_to(host.app_port) is None
    failed = journal.begin_run("main", "retry", LOADED.service.retry.max_attempts, [])
    journal.end_run(failed, False, True, "the primary is unknown", None, 0)
    host.nat.chains = NatTable(saved).chains
    host.nat.generation += 1
    ticks(queue, host, 3)
    assert host.leads_to(host.app_port) is None


def test_a_slot_that_was_dropped_is_made_anew(queue: ClusterController, host: FakeHost, journal: Journal) -> None:
    host.nodes[1].slots.clear()
    ticks(queue, host, 2)
    assert "barman" in host.nodes[1].slots
    assert [run.cause for run in journal.runs(9)] == ["drift"]


def test_what_cannot_be_mended_is_left_to_the_retries(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    host.barman.health = "ruins"
    host.barman.streams_from = None
    ticks(queue, host, 30)
    causes = [run.cause for run in journal.runs(99)]
    assert causes[0] == "drift"
    assert set(causes[1:]) <= {"retry"}


# -- what was seen, and when -------------------------------------------------------------------------------------------


def seen(journal: Journal) -> list[tuple[int | None, int, bool]]:
    """What stands in the journal of the looks: the primary, its timeline, and whether a look before is known."""
    return [
        (row[0], row[1], row[2] is not None)
        for row in journal.read('select "primary", timeline, before from observation')
    ]


def test_a_look_that_sees_something_new_is_written_and_no_other(
    queue: ClusterController, host: FakeHost, journal: Journal
) -> None:
    ticks(queue, host, 20)
    assert seen(journal) == [(1, 1, False)]
    host.lose(1)
    ticks(queue, host, 20)
    assert seen(journal) == [(1, 1, False), (None, 0, True)]
    promote(host, 2, 2)
    ticks(queue, host, 20)
    assert seen(journal) == [(1, 1, False), (None, 0, True), (2, 2, True)]
    ((decision, nodes),) = journal.read("select decision, nodes from observation where id = 2")
    assert decision.startswith("the primary is unknown: no node is out of recovery")
    assert nodes == "node 1: connection timeout expired\nnode 2: standby, timeline 1"


def test_a_sight_knows_when_the_look_before_was(
    queue: ClusterController, host: FakeHost, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000 + host.now())
    ticks(queue, host, 3)
    host.lose(1)
    ticks(queue, host, 1)
    ((at, before),) = journal.read('select at, before from observation where "primary" is null')
    silent = MAIN.cluster.postgres.timeout
    assert (at - 1_800_000_000, at - before) == (3 * TICK + silent, TICK + silent), "when it was known"


def test_a_look_goes_on_when_it_cannot_be_written_down(
    queue: ClusterController,
    host: FakeHost,
    journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ticks(queue, host, 2)

    def full(name: str, observation: object) -> None:
        raise OperationFailed("database or disk is full")

    monkeypatch.setattr(journal, "saw", full)
    host.fail_over()
    ticks(queue, host, 2)
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"
    assert "database or disk is full" in caplog.text


def test_every_look_leaves_its_time(queue: ClusterController, host: FakeHost, tmp_path: Path) -> None:
    assert last_heartbeat(tmp_path, "main") is None
    ticks(queue, host, 1)
    place = tmp_path / "cluster-main.looked"
    for paused in (False, True):
        os.utime(place, (0, 0))
        if paused:
            queue._journal.pause("main", None, "")
        ticks(queue, host, 1)
        assert (last_heartbeat(tmp_path, "main") == 0) == paused, "a paused worker does not look"
    place.unlink()
    place.mkdir()
    queue._journal.resume("main")
    assert queue.work() == TICK, "and it looks on if it cannot leave it"


# -- whether a failover could happen -----------------------------------------------------------------------------------


class Told:
    """A listener that keeps what a cluster calls for."""

    def __init__(self) -> None:
        self.found: dict[str, Alert] = {}

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        self.found = {alert.condition: alert for alert in found}

    def leave(self, cluster: str, but: Collection[str]) -> None:
        """Nothing of it is kept here."""

    def tell(self, alert: Alert) -> None:
        pass


def long_ago(journal: Journal) -> None:
    """Let the primary have been found long ago."""
    journal.change(lambda db: db.execute("update role set since = since - 3600"))


def within(queue: ClusterController, host: FakeHost, seconds: float) -> None:
    end = host.now() + seconds
    while host.now() < end:
        host.sleep(min(queue.work(), end - host.now()) or 0.01)
    queue.work()


def test_what_stands_against_a_failover_is_told_when_it_lasts(journal: Journal, host: FakeHost, loaded: Config) -> None:
    told = Told()
    queue = ClusterController(MAIN, journal, host, loaded, told)
    queue.work()
    long_ago(journal)
    host.nodes[2].unseen_for = 11
    within(queue, host, 8)
    assert told.found == {}
    within(queue, host, 8)
    assert told.found["failover"].severity == "critical"
    assert "no standby would be promoted: repmgrd of node 2" in told.found["failover"].summary
    host.nodes[2].unseen_for = 1
    within(queue, host, 6)
    assert told.found == {}


@pytest.mark.parametrize(("clusters", "looks"), [(1, 13), (MANY, 13), (MANY + 1, 5)])
def test_of_many_clusters_it_is_asked_less_often(
    journal: Journal, host: FakeHost, loaded: Config, clusters: int, looks: int
) -> None:
    everywhere = replace(loaded, clusters={f"c{number}": MAIN for number in range(clusters)})
    queue = ClusterController(MAIN, journal, host, everywhere)
    asked: list[float] = []
    look = queue._monitor.readiness.look

    def counted(*given: Any) -> Readiness | None:
        asked.append(host.now())
        return look(*given)

    queue._monitor.readiness.look = counted  # type: ignore[method-assign]
    within(queue, host, 60)
    assert len(asked) == looks


def test_it_is_told_too_while_something_else_stays_missing(journal: Journal, host: FakeHost, loaded: Config) -> None:
    told = Told()
    queue = ClusterController(MAIN, journal, host, loaded, told)
    queue.work()
    long_ago(journal)
    host.barman.health, host.barman.streams_from = "ruins", None
    host.nodes[1].slots["barman"].active = False
    within(queue, host, 140)
    host.nodes[2].paused = True
    within(queue, host, 300)
    assert len(told.found) > 1
    assert "failover" in told.found


def test_a_short_pause_as_of_a_switchover_is_no_alert(journal: Journal, host: FakeHost, loaded: Config) -> None:
    told, seen = Told(), set()
    queue = ClusterController(MAIN, journal, host, loaded, told)
    queue.work()
    long_ago(journal)
    for _ in range(10):
        host.nodes[1].paused = host.nodes[2].paused = True
        within(queue, host, 6)
        seen |= set(told.found)
        host.nodes[1].paused = host.nodes[2].paused = False
        within(queue, host, 6)
        seen |= set(told.found)
    assert seen == set()


# -- while no primary is known -----------------------------------------------------------------------------------------


def test_a_port_is_closed_when_no_primary_is_known_for_long(journal: Journal, host: FakeHost, loaded: Config) -> None:
    unknown = replace(MAIN, cluster=replace(MAIN.cluster, unknown=WhileUnknown(("app",), 60)))
    queue = ClusterController(unknown, journal, host, loaded)
    queue.work()
    host.lose(1)
    within(queue, host, 50)
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"
    within(queue, host, 30)
    assert host.leads_to(host.app_port) is None
    assert host.leads_to(host.barman_port) == "10.0.0.11:5432"
    changes = len(host.changes)
    within(queue, host, 120)
    assert len(host.changes) == changes, "it is closed once"
    host.promote(2)
    within(queue, host, 30)
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"


def test_as_shipped_a_port_stays_while_no_primary_is_known(queue: ClusterController, host: FakeHost) -> None:
    queue.work()
    host.lose(1)
    within(queue, host, 300)
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"


def test_what_stirs_is_looked_at_at_once(journal: Journal, host: FakeHost, loaded: Config) -> None:
    """PostgreSQL was restarted between two looks, and Barman's receiver has ended with it."""
    queue = ClusterController(MAIN, journal, host, loaded)
    assert queue.work() == 5
    host._end_stream()
    assert 0 < queue.work() <= 5, "not before the next look"
    assert host.barman.streams_from is None
    host.sleep(HURRY_EVERY)
    queue.stirred.set()
    queue.work()
    assert host.barman.streams_from == 1
    assert not queue.stirred.is_set()


def test_a_node_that_ends_each_connection_at_once_is_not_looked_at_without_a_pause(
    queue: ClusterController, host: FakeHost
) -> None:
    """As with an idle_session_timeout of a millisecond, or a server that starts and crashes."""
    looks = 0
    for _ in range(100):
        queue.stirred.set()
        queue.work()
        looks += not queue.stirred.is_set()
        host.sleep(0.01)
    assert 5 <= looks <= 11
