"""Clocks are set, and the time of an event is the name of a file that others write: neither may move the primary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.config import Config
from repmgr_hooks.event import Event
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.reports import failover
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.spool import Spool
from tests.fake import FakeHost, Wall

SYSTEM = FakeHost().nodes[1].system_identifier
NODE_1, NODE_2 = LastKnownPrimary(1, 1, SYSTEM), LastKnownPrimary(2, 2, SYSTEM)
PROMOTE_3, REJOIN_3 = Event(3, "repmgrd_failover_promote"), Event(3, "node_rejoin")
DAY = 86400.0
YEARS = 5000 * DAY


def told(journal: Journal, event: Event, at: float, by_hand: bool = False) -> None:
    journal.add_event("main", event, at, by_hand=by_hand)


def promoted(journal: Journal) -> set[int]:
    return set(journal.last_known("main").promoted)


# -- what an event proves ends with the next change of the primary -----------------------------------------------------


@pytest.mark.parametrize("ahead", [0.0, 1.0, DAY, YEARS])
def test_whatever_its_time_says(journal: Journal, wall: Wall, ahead: float) -> None:
    journal.remember("main", NODE_1)
    told(journal, PROMOTE_3, wall.time + ahead)
    assert promoted(journal) == {3}
    journal.remember("main", NODE_2)
    assert promoted(journal) == set()
    wall.time += ahead + 1
    assert promoted(journal) == set()


def test_no_event_comes_later_than_now(journal: Journal, wall: Wall, loaded: Config, tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    spool = Spool(tmp_path)
    (tmp_path / "spool" / "09999999999999999999-1").write_text("main\n1\nrepmgrd_failover_promote\n")
    assert spool.take_in(journal, loaded.clusters) == 1
    spool.close()
    assert journal.last_event("main") == (wall.time, Event(1, "repmgrd_failover_promote"))


@pytest.mark.parametrize("back", [1.0, 3600.0, DAY, YEARS])
def test_a_clock_that_is_set_back_hides_no_promotion(journal: Journal, wall: Wall, back: float) -> None:
    journal.remember("main", NODE_1)
    wall.time -= back
    told(journal, PROMOTE_3, wall.time)
    assert promoted(journal) == {3}
    wall.time += YEARS
    assert promoted(journal) == {3}, "it was taken in under this primary, and stays so"
    journal.remember("main", NODE_2)
    assert promoted(journal) == set()


def test_an_event_that_is_taken_in_after_the_change_is_of_before(journal: Journal, wall: Wall) -> None:
    journal.remember("main", NODE_1)
    wall.time += 10
    spooled = wall.time
    wall.time += 10
    journal.remember("main", NODE_2)
    told(journal, PROMOTE_3, spooled)
    assert promoted(journal) == set()


def test_several_in_the_spool_at_once_end_together(journal: Journal, wall: Wall) -> None:
    journal.remember("main", NODE_1)
    for event in (Event(2, "standby_promote"), PROMOTE_3):
        told(journal, event, wall.time + 5)
    assert promoted(journal) == {2, 3}
    journal.remember("main", NODE_2)
    assert promoted(journal) == set()


@pytest.mark.parametrize("ahead", [0.0, YEARS])
def test_what_was_told_before_all_was_forgotten(journal: Journal, wall: Wall, ahead: float) -> None:
    journal.remember("main", NODE_1)
    told(journal, PROMOTE_3, wall.time + ahead)
    journal.forget("main")
    told(journal, PROMOTE_3, wall.time + ahead)
    journal.remember("main", NODE_1)
    assert promoted(journal) == set()


def test_what_is_told_before_a_primary_is_known(journal: Journal, wall: Wall) -> None:
    told(journal, PROMOTE_3, wall.time + YEARS)
    assert promoted(journal) == {3}
    journal.remember("main", NODE_1)
    assert promoted(journal) == set()


# -- a later event that denies it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [1.0, -3600.0], ids=["as it should be", "the clock was set back"])
def test_a_rejoin_ends_what_a_promotion_proved(journal: Journal, wall: Wall, later: float) -> None:
    journal.remember("main", NODE_1)
    told(journal, PROMOTE_3, wall.time)
    wall.time += later
    told(journal, REJOIN_3, wall.time)
    assert promoted(journal) == set()
    wall.time += later
    told(journal, PROMOTE_3, wall.time)
    assert promoted(journal) == {3}


def test_a_rejoin_of_before_the_change_denies_nothing(journal: Journal, wall: Wall) -> None:
    journal.remember("main", NODE_1)
    wall.time += 10
    spooled = wall.time
    wall.time += 10
    journal.remember("main", NODE_2)
    told(journal, PROMOTE_3, wall.time)
    told(journal, REJOIN_3, spooled)
    assert promoted(journal) == {3}


def test_a_flood_of_promotions_holds_no_look_up(journal: Journal, wall: Wall) -> None:
    """Each look reads what repmgr has promoted; it took minutes when every claim was compared with every event."""
    journal.remember("main", NODE_1)
    columns = "cluster, node, name, success, timestamp, received, role"
    insert = f"insert into event ({columns}) values (?, ?, ?, ?, ?, ?, ?)"
    some = [("main", 1 + number % 3, "standby_promote", True, "", wall.time, 1) for number in range(1_000)]
    for _ in range(20):  # the journal gives up one that takes long
        journal.change(lambda db: db.executemany(insert, some))
    assert promoted(journal) == {1, 2, 3}


def test_what_is_replayed_by_hand_denies_nothing(journal: Journal, wall: Wall) -> None:
    journal.remember("main", NODE_1)
    told(journal, PROMOTE_3, wall.time)
    told(journal, REJOIN_3, wall.time + 1, by_hand=True)
    assert promoted(journal) == {3}


# -- how often the primary has changed ---------------------------------------------------------------------------------


@pytest.mark.parametrize("set_by", [-DAY, -600.0, -60.0, 60.0, DAY, YEARS])
def test_changes_hold_a_primary_for_twice_the_window_at_most(journal: Journal, wall: Wall, set_by: float) -> None:
    for last_known in (NODE_1, NODE_2, LastKnownPrimary(1, 3, SYSTEM), LastKnownPrimary(2, 4, SYSTEM)):
        journal.remember("main", last_known)
    assert journal.last_known("main", 600).changes == 3
    wall.time += set_by
    assert journal.last_known("main", 600).changes == (3 if abs(set_by) < 600 else 0)
    wall.time += 1200
    assert journal.last_known("main", 600).changes == 0


# -- the whole way -----------------------------------------------------------------------------------------------------


@pytest.fixture
def host(wall: Wall) -> FakeHost:
    wall.host = FakeHost()
    return wall.host


def worked(controller: ClusterController) -> None:
    controller._monitor.look_now()
    controller.work()


def promote_by_hand(host: FakeHost, number: int) -> None:
    """No event, and no word of it in repmgr's metadata."""
    host.nodes[number].in_recovery = False
    host.nodes[number].timeline = max(node.timeline for node in host.nodes.values()) + 1


def test_a_promotion_by_mistake_is_not_followed_for_an_event_of_the_future(
    journal: Journal, wall: Wall, host: FakeHost, loaded: Config
) -> None:
    main = loaded.clusters["main"]
    controller = ClusterController(main, journal, host, loaded)
    worked(controller)
    told(journal, Event(1, "standby_promote"), wall() + YEARS)
    host.fail_over()
    worked(controller)
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"
    host.nodes[1].reachable, host.nodes[1].registered = True, (2,)
    promote_by_hand(host, 1)
    worked(controller)
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"


def test_a_promotion_without_metadata_is_followed_after_the_clock_was_set_back(
    journal: Journal, wall: Wall, host: FakeHost, loaded: Config
) -> None:
    controller = ClusterController(loaded.clusters["main"], journal, host, loaded)
    worked(controller)
    journal.remember("main", NODE_1)
    wall.time -= DAY
    promote_by_hand(host, 2)
    told(journal, Event(2, "standby_promote", False), wall())
    worked(controller)
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"


# -- pauses and retries ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("set_by", [-YEARS, -DAY, -1800.0, -1.0, 1.0, YEARS])
def test_a_pause_lasts_twice_as_long_as_it_should_at_most(
    journal: Journal, wall: Wall, host: FakeHost, loaded: Config, set_by: float
) -> None:
    controller = ClusterController(loaded.clusters["main"], journal, host, loaded)
    journal.pause("main", wall() + 3600, "new disks")
    wall.time += set_by
    passed = 0.0
    while journal.paused("main"):
        wait = controller.work()
        assert 0 < wait <= 3600
        wall.time += wait
        passed += wait
    assert passed <= 7200
    assert passed > 0 or set_by > 3600, "a clock that is corrected by a second ends no pause"


@pytest.mark.parametrize("set_by", [-YEARS, -DAY, -3.0, 3.0, YEARS])
def test_a_failed_run_is_tried_again_in_time(
    journal: Journal, wall: Wall, host: FakeHost, loaded: Config, set_by: float
) -> None:
    retry = loaded.service.retry
    host.fail_over()
    host.barman.health = "ruins"
    controller = ClusterController(
        loaded.clusters["main"], journal, host, replace(loaded, service=replace(loaded.service, monitor_interval=0))
    )
    told(journal, Event(2, "standby_promote"), wall())
    controller.work()
    for attempt in (1, 2):
        assert journal.runs(1)[0].attempt >= attempt
        wall.time += set_by
        wait = controller.work()
        assert wait <= retry.after(journal.runs(1)[0].attempt)
        wall.time += wait
        controller.work()


def test_the_last_change_of_the_primary_is_the_one_that_was_found_last(journal: Journal, wall: Wall) -> None:
    for last_known in (NODE_1, NODE_2, LastKnownPrimary(1, 3, SYSTEM)):
        journal.remember("main", last_known)
        wall.time -= DAY
    assert failover.find(journal, "last", ["main"]).node == 1


@pytest.mark.parametrize("set_by", [-YEARS, YEARS])
def test_the_newest_rows_outlive_a_clock_that_is_set(journal: Journal, wall: Wall, set_by: float) -> None:
    journal.remember("main", NODE_1)
    told(journal, PROMOTE_3, wall.time)
    (waiting,) = journal.waiting("main")
    journal.end_run(journal.begin_run("main", "event", 1, [waiting.id]), True, False, "", 1, 1)
    journal.end_run(journal.begin_run("main", "event", 1, []), True, False, "", 1, 1)
    wall.time += set_by
    journal.prune(90)
    assert journal.last_known("main") == NODE_1
    assert promoted(journal) == {3}
