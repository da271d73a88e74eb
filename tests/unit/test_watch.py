"""Looking without an event: what was lost, done by hand or undone by others is seen and mended."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.config import Config
from repmgr_hooks.decide import Memory
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.event import Event
from repmgr_hooks.journal import Journal
from repmgr_hooks.pulse import last_beat
from repmgr_hooks.queue import Queue, run_now
from repmgr_hooks.records import Waiting
from tests.fake import FakeWorld, NatTable

LOADED = config.load(Path(__file__).resolve().parents[2] / "config/config.yaml")
MAIN = LOADED.clusters["main"]
TICK = LOADED.service.tick
PROMOTED = Event(2, "standby_promote")


@pytest.fixture
def queue(journal: Journal, world: FakeWorld, loaded: Config) -> Queue:
    return Queue(MAIN, journal, world, loaded)


def ticks(queue: Queue, world: FakeWorld, number: int) -> None:
    """Let so much time pass, looking whenever the queue says so."""
    for _ in range(number):
        world.sleep(queue.work())


def promote(world: FakeWorld, node: int, timeline: int) -> None:
    world.nodes[node].in_recovery = False
    world.nodes[node].timeline = timeline
    world.nodes[node].reachable = True


def test_all_is_well_and_nothing_is_written(queue: Queue, world: FakeWorld, journal: Journal) -> None:
    assert queue.work() == TICK
    ticks(queue, world, 20)
    assert (world.changes, journal.runs(9)) == ([], [])


def test_a_promotion_that_no_event_has_told_of(queue: Queue, world: FakeWorld, journal: Journal) -> None:
    ticks(queue, world, 2)
    world.nodes[1].reachable = False
    promote(world, 2, 2)
    ticks(queue, world, 2)
    assert world.leads_to(world.app_port) == "10.0.0.12:5432"
    assert [(run.cause, run.ok, run.primary) for run in journal.runs(9)] == [("drift", True, 2)]


def test_without_a_primary_it_looks_ten_times_a_second_and_not_for_ever(queue: Queue, world: FakeWorld) -> None:
    ticks(queue, world, 2)
    world.nodes[1].reachable = False
    waits = []
    for _ in range(800):
        waits.append(queue.work())
        world.sleep(waits[-1])
    assert waits[1] == pytest.approx(0.1)
    assert waits[-1] == TICK
    assert world.changes == []


def test_a_primary_that_came_back_from_the_dead_gets_nobody(
    queue: Queue, world: FakeWorld, journal: Journal, loaded: Config, caplog: pytest.LogCaptureFixture
) -> None:
    world.nodes[1].reachable = False
    promote(world, 2, 2)
    ticks(queue, world, 3)
    world.nodes[2].reachable = False
    promote(world, 1, 1)
    world.changes.clear()
    with caplog.at_level(logging.WARNING):
        again = Queue(MAIN, journal, world, loaded)  # also after a restart
        ticks(again, world, 3)
    assert world.changes == []
    assert "ZOMBIE: node 1 has come back from the dead as a primary" in caplog.text
    assert "node 1 is a primary on an older timeline than 2" in caplog.text


def test_a_standby_promoted_by_mistake_beside_a_healthy_primary_changes_nothing(
    queue: Queue, world: FakeWorld, journal: Journal, loaded: Config
) -> None:
    ticks(queue, world, 2)
    promote(world, 2, 2)
    ticks(queue, world, 3)
    assert world.changes == []
    assert world.leads_to(world.app_port) == "10.0.0.11:5432"


def test_a_promotion_that_repmgr_could_not_write_down_is_followed_beside_the_old_primary(
    queue: Queue, world: FakeWorld, journal: Journal
) -> None:
    """``standby_promote`` with success 0 comes once the node is out of recovery; only the metadata is wrong."""
    ticks(queue, world, 2)
    promote(world, 2, 2)
    ticks(queue, world, 2)
    assert world.leads_to(world.app_port) == "10.0.0.11:5432"
    journal.add_event("main", Event(2, "standby_promote", success=False), time.time(), "00000000000000000005-77")
    ticks(queue, world, 2)
    assert world.leads_to(world.app_port) == "10.0.0.12:5432"
    ticks(queue, world, 20)
    assert world.leads_to(world.app_port) == "10.0.0.12:5432"


class Flood(Journal):
    """There is always one more event, and it lies."""

    told = 0

    def waiting(self, cluster: str) -> list[Waiting]:
        self.told += 1
        if self.told <= 50:
            self.add_event(cluster, Event(1, "standby_promote"), time.time(), str(self.told))
        return super().waiting(cluster)


def test_a_promotion_that_no_event_has_told_of_is_followed_beside_a_flood_of_lies(
    tmp_path: Path, world: FakeWorld, loaded: Config
) -> None:
    journal = Flood(tmp_path / "journal.db")
    journal.told = 50
    queue = Queue(MAIN, journal, world, loaded)
    ticks(queue, world, 2)
    world.nodes[1].reachable = False
    promote(world, 2, 2)
    journal.told = 0
    looks_before: list[int] = []
    world.after("iptables-restore", lambda: looks_before.append(journal.told))
    ticks(queue, world, 1)
    assert looks_before[0] < 5
    assert world.leads_to(world.app_port) == "10.0.0.12:5432"
    journal.close()


def test_a_promotion_that_only_an_operator_tells_of_is_not_followed_beside_the_old_primary(
    queue: Queue, world: FakeWorld, journal: Journal
) -> None:
    ticks(queue, world, 2)
    promote(world, 2, 2)
    assert not run_now(MAIN, world, [PROMOTED], "replay", journal).ok
    ticks(queue, world, 3)
    assert world.leads_to(world.app_port) == "10.0.0.11:5432"
    assert world.changes == []


def test_what_the_hook_handles_itself_is_as_good_as_what_it_has_stored(
    queue: Queue, world: FakeWorld, journal: Journal
) -> None:
    ticks(queue, world, 2)
    promote(world, 2, 2)
    assert run_now(MAIN, world, [PROMOTED], "event", journal).ok
    assert world.leads_to(world.app_port) == "10.0.0.12:5432"


def test_a_chain_that_others_have_wiped_is_filled_again(queue: Queue, world: FakeWorld, journal: Journal) -> None:
    ticks(queue, world, 3)
    world.nat.restore("*nat\n:repmgr_dnat - [0:0]\nCOMMIT")
    ticks(queue, world, 2)
    assert world.leads_to(world.app_port) == world.leads_to(world.barman_port) == "10.0.0.11:5432"


def test_quiet_ticks_run_no_program(queue: Queue, world: FakeWorld) -> None:
    ticks(queue, world, 3)
    world.ran.clear()
    while world.now() < 60 - TICK:
        ticks(queue, world, 1)
    assert world.ran == []


# -- in a hurry --------------------------------------------------------------------------------------------------------


def waits(queue: Queue, world: FakeWorld, seconds: float) -> list[tuple[float, float]]:
    """When it looked in so many seconds, and how long it waited then."""
    end, made = world.now() + seconds, []
    while world.now() < end:
        made.append((world.now(), queue.work()))
        world.sleep(made[-1][1])
    return made


@pytest.mark.parametrize("name", ["repmgrd_upstream_disconnect", "standby_failure", "repmgrd_promote_error"])
def test_after_a_sign_of_trouble_it_looks_ten_times_a_second_and_not_for_ever(
    queue: Queue, world: FakeWorld, journal: Journal, name: str
) -> None:
    """The primary answers all the time: repmgr has seen it earlier than we, or was wrong."""
    ticks(queue, world, 2)
    journal.add_event("main", Event(2, name), time.time())
    begun = world.now()
    made = waits(queue, world, 100)
    quick = [moment - begun for moment, wait in made if wait < 1]
    assert quick[-1] == pytest.approx(60, abs=0.2)
    assert len(quick) == pytest.approx(600, abs=5)
    assert made[-1][1] == TICK
    assert world.changes == []


@pytest.mark.parametrize("name", ["repmgrd_start", "standby_register", "primary_register"])
def test_other_events_are_no_trouble(queue: Queue, world: FakeWorld, journal: Journal, name: str) -> None:
    ticks(queue, world, 2)
    journal.add_event("main", Event(2 if name == "standby_register" else 1, name), time.time())
    assert [wait for _, wait in waits(queue, world, 30)] == [TICK] * int(30 / TICK)


def test_the_hurry_is_over_when_another_primary_was_seen(queue: Queue, world: FakeWorld, journal: Journal) -> None:
    ticks(queue, world, 2)
    journal.add_event("main", Event(2, "repmgrd_upstream_disconnect"), time.time())
    begun = world.now()
    world.at(begun + 5, world.fail_over)
    made = waits(queue, world, 40)
    assert max(moment - begun for moment, wait in made if wait < 1) < 10
    assert world.leads_to(world.app_port) == "10.0.0.12:5432"
    assert min(moment for moment, what in world.changes) - begun < 8


def test_the_hurry_is_over_when_the_primary_is_back(queue: Queue, world: FakeWorld) -> None:
    ticks(queue, world, 2)
    begun = world.now()
    world.nodes[1].reachable = False
    world.at(begun + 8, lambda: setattr(world.nodes[1], "reachable", True))
    made = waits(queue, world, 40)
    assert max(moment - begun for moment, wait in made if wait < 1) == pytest.approx(8, abs=0.3)


# -- to and fro --------------------------------------------------------------------------------------------------------


def swing(world: FakeWorld, node: int) -> None:
    """repmgr promotes this node, and the other one is made a standby."""
    other = 3 - node
    world.nodes[node].timeline = world.nodes[other].timeline
    world.promote(node)
    world.nodes[other].in_recovery, world.nodes[other].timeline = True, world.nodes[node].timeline


def test_a_primary_that_swings_is_held_and_by_hand_it_is_followed_at_once(
    queue: Queue, world: FakeWorld, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    most = MAIN.cluster.role_changes.most
    ticks(queue, world, 2)
    for number in range(most):
        swing(world, 2 - number % 2)
        ticks(queue, world, 3)
        assert world.leads_to(world.app_port) == f"10.0.0.1{2 - number % 2}:5432"
    held, before = 2 - most % 2, list(world.changes)
    swing(world, held)
    with caplog.at_level(logging.WARNING):
        ticks(queue, world, 5)
    assert world.changes == before
    assert f"the primary has changed too often lately, now to node {held}" in caplog.text
    assert run_now(MAIN, world, [], "reconcile", journal).ok
    assert world.leads_to(world.app_port) == f"10.0.0.1{held}:5432"
    ticks(queue, world, 5)
    assert world.leads_to(world.app_port) == f"10.0.0.1{held}:5432"


def test_a_held_primary_is_followed_when_the_window_has_gone_by(
    queue: Queue, world: FakeWorld, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks(queue, world, 2)
    for number in range(MAIN.cluster.role_changes.most + 1):
        swing(world, 2 - number % 2)
        ticks(queue, world, 3)
    moment = time.time() + MAIN.cluster.role_changes.within
    monkeypatch.setattr(time, "time", lambda: moment)
    ticks(queue, world, 3)
    assert world.leads_to(world.app_port) == f"10.0.0.1{2 - number % 2}:5432"


# -- the dead ----------------------------------------------------------------------------------------------------------


def test_what_leads_to_a_zombie_is_closed_without_any_event(queue: Queue, world: FakeWorld, journal: Journal) -> None:
    system = world.nodes[1].system_identifier
    journal.remember("main", Memory(2, 2, system))
    world.lose(2)
    ticks(queue, world, 3)
    assert (world.leads_to(world.app_port), world.leads_to(world.barman_port)) == (None, None)
    assert len([what for what in world.what_changed() if what == "iptables-restore"]) == 1
    assert journal.memory("main") == Memory(2, 2, system), "a zombie is not remembered"


def test_a_zombie_that_comes_after_a_run_has_failed_does_not_wait_for_a_retry(
    queue: Queue, world: FakeWorld, journal: Journal
) -> None:
    journal.remember("main", Memory(2, 2, world.nodes[1].system_identifier))
    world.lose(1)
    world.lose(2)
    failed = journal.begin_run("main", "event", 20, [])
    journal.end_run(failed, False, True, "the primary is unknown", None, 0)
    ticks(queue, world, 3)
    world.nodes[1].reachable = True
    ticks(queue, world, 3)
    assert world.leads_to(world.app_port) is None


def test_rules_that_others_put_back_after_a_zombie_was_shut_out_are_closed_again(
    queue: Queue, world: FakeWorld, journal: Journal
) -> None:
    journal.remember("main", Memory(2, 2, world.nodes[1].system_identifier))
    world.lose(2)
    saved = world.nat.save()
    ticks(queue, world, 3)
    assert world.leads_to(world.app_port) is None
    failed = journal.begin_run("main", "retry", LOADED.service.retry.attempts, [])
    journal.end_run(failed, False, True, "the primary is unknown", None, 0)
    world.nat.chains = NatTable(saved).chains
    world.nat.generation += 1
    ticks(queue, world, 3)
    assert world.leads_to(world.app_port) is None


def test_a_slot_that_was_dropped_is_made_anew(queue: Queue, world: FakeWorld, journal: Journal) -> None:
    world.nodes[1].slots.clear()
    ticks(queue, world, 2)
    assert "barman" in world.nodes[1].slots
    assert [run.cause for run in journal.runs(9)] == ["drift"]


def test_what_cannot_be_mended_is_left_to_the_retries(queue: Queue, world: FakeWorld, journal: Journal) -> None:
    world.barman.health = "ruins"
    world.barman.streams_from = None
    ticks(queue, world, 30)
    causes = [run.cause for run in journal.runs(99)]
    assert causes[0] == "drift"
    assert set(causes[1:]) <= {"retry"}


# -- what was seen, and when -------------------------------------------------------------------------------------------


def seen(journal: Journal) -> list[tuple[int | None, int, bool]]:
    """What stands in the journal of the looks: the primary, its timeline, and whether a look before is known."""
    return [
        (row[0], row[1], row[2] is not None) for row in journal.read('select "primary", timeline, before from sight')
    ]


def test_a_look_that_sees_something_new_is_written_and_no_other(
    queue: Queue, world: FakeWorld, journal: Journal
) -> None:
    ticks(queue, world, 20)
    assert seen(journal) == [(1, 1, False)]
    world.lose(1)
    ticks(queue, world, 20)
    assert seen(journal) == [(1, 1, False), (None, 0, True)]
    promote(world, 2, 2)
    ticks(queue, world, 20)
    assert seen(journal) == [(1, 1, False), (None, 0, True), (2, 2, True)]
    ((verdict, nodes),) = journal.read("select verdict, nodes from sight where id = 2")
    assert verdict.startswith("the primary is unknown: no node is out of recovery")
    assert nodes == "node 1: connection timeout expired\nnode 2: standby, timeline 1"


def test_a_sight_knows_when_the_look_before_was(
    queue: Queue, world: FakeWorld, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000 + world.now())
    ticks(queue, world, 3)
    world.lose(1)
    ticks(queue, world, 1)
    ((at, before),) = journal.read('select at, before from sight where "primary" is null')
    silent = MAIN.cluster.postgres.answer_within
    assert (at - 1_800_000_000, at - before) == (3 * TICK + silent, TICK + silent), "when it was known"


def test_a_look_goes_on_when_it_cannot_be_written_down(
    queue: Queue, world: FakeWorld, journal: Journal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ticks(queue, world, 2)

    def full(name: str, sight: object) -> None:
        raise StepFailed("database or disk is full")

    monkeypatch.setattr(journal, "saw", full)
    world.fail_over()
    ticks(queue, world, 2)
    assert world.leads_to(world.app_port) == "10.0.0.12:5432"
    assert "database or disk is full" in caplog.text


def test_every_look_leaves_its_time(queue: Queue, world: FakeWorld, tmp_path: Path) -> None:
    assert last_beat(tmp_path, "main") is None
    ticks(queue, world, 1)
    place = tmp_path / "cluster-main.looked"
    for paused in (False, True):
        os.utime(place, (0, 0))
        if paused:
            queue._journal.pause("main", None, "")
        ticks(queue, world, 1)
        assert (last_beat(tmp_path, "main") == 0) == paused, "a paused worker does not look"
    place.unlink()
    place.mkdir()
    queue._journal.resume("main")
    assert queue.work() == TICK, "and it looks on if it cannot leave it"
