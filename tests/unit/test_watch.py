"""Looking without an event: what was lost, done by hand or undone by others is seen and mended."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.config import Config
from repmgr_hooks.journal import Journal
from repmgr_hooks.queue import Queue
from tests.fake import FakeWorld

LOADED = config.load(Path(__file__).resolve().parents[2] / "config/config.yaml")
MAIN = LOADED.clusters["main"]
TICK = LOADED.service.tick


@pytest.fixture
def loaded(tmp_path: Path) -> Config:
    return replace(LOADED, service=replace(LOADED.service, state_dir=str(tmp_path)))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld()


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
