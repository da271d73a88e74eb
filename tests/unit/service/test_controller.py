"""The queue of one cluster: a real journal, a fake world with a clock of its own, and a wall clock that tests set."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.config import Config
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import command
from repmgr_hooks.journal import pauses
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.maintenance import Pause
from repmgr_hooks.journal.rows import StepRow
from repmgr_hooks.lock import exclusive
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.service import controller as module
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.foreground import run_now
from repmgr_hooks.service.recorder import summary_of
from repmgr_hooks.service.turns import REST
from repmgr_hooks.settings.backoff import Backoff
from repmgr_hooks.system.steps import Program, Rows, Sql
from tests.fake import Connection, FakeHost, Wall

LOADED = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml")
MAIN = LOADED.clusters["main"]
OPEN_BARMAN, SLOT, STREAM, SWITCH_WAL, OPEN_APP = MAIN.routes[0].do
PROMOTED, FOLLOWED, LIED = Event(2, "standby_promote"), Event(1, "standby_follow"), Event(1, "standby_promote")
NODE_2 = "10.0.0.12:5432"


def later(wall: Wall, host: FakeHost, seconds: float) -> None:
    """Time goes by, on the wall and on the clock that never jumps."""
    wall.time += seconds
    host.sleep(seconds)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """In memory where that is possible: a disk takes most of the time of these tests."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as made:
        yield Path(made)


@pytest.fixture
def loaded(loaded: Config) -> Config:
    return replace(loaded, service=replace(loaded.service, retry=Backoff(5, 300, 3), monitor_interval=0))


def failed_over(host: FakeHost | None = None) -> FakeHost:
    """Node 1 is lost and node 2 promoted; the application still hangs on node 1."""
    host = host or FakeHost()
    host.connections = [Connection(Flow("10.0.0.30", 40000, "10.0.0.20", 54322), "10.0.0.11")]
    host.fail_over()
    return host


def in_ruins() -> FakeHost:
    """The same, and Barman cannot work: every run fails, and says that it may be tried again."""
    host = failed_over()
    host.barman.health = "ruins"
    return host


def page(text: str = "dba", place: str = "[0].do[0]") -> Action:
    """A notification."""
    return Action(
        "command", command, command.Config(("/bin/page", text)), f"command {{run: [/bin/page, {text}]}}", place
    )


def told(host: FakeHost) -> list[str]:
    """What the notifications said, in order."""
    return [program.argv[1] for program in host.ran if program.argv[0] == "/bin/page"]


def routes(*texts: tuple[str, tuple[Action, ...]]) -> ManagedCluster:
    """The cluster with routes of its own."""
    return ManagedCluster(MAIN.cluster, tuple(Route(frozenset({name}), actions) for name, actions in texts))


def add(journal: Journal, *events: Event) -> list[int]:
    return [journal.add_event("main", event, time.time()) for event in events]


def all_is_well(host: FakeHost) -> bool:
    """Clients and Barman are with node 2, nothing is left with node 1."""
    return (
        host.leads_to(host.app_port) == host.leads_to(host.barman_port) == NODE_2
        and host.barman.streams_from == 2
        and "000000020000000000000005" in host.barman.archived
        and host.connections == []
    )


# -- one run for all that waits ----------------------------------------------------------------------------------------


def test_nothing_waits(journal: Journal, loaded: Config) -> None:
    host = failed_over()
    assert ClusterController(MAIN, journal, host, loaded).work() == REST
    assert (journal.runs(9), host.ran, host.changes) == ([], [], [])


def test_an_event_is_handled_and_all_of_it_is_written_down(journal: Journal, loaded: Config) -> None:
    host = failed_over()
    (event,) = add(journal, PROMOTED)
    assert ClusterController(MAIN, journal, host, loaded).work() == REST
    assert all_is_well(host)
    (run,) = journal.runs(9)
    assert (run.cause, run.attempt, run.ok, run.again, run.primary, run.timeline) == ("event", 1, True, False, 2, 2)
    assert run.message.startswith("done: ")
    assert [item.id for item in journal.events_of(run.id)] == [event]
    steps = journal.steps(run.id)
    assert [step.what for step in steps][:3] == [
        "route port barman to node 2 (10.0.0.12)",
        "reset connections of port 54321 to 10.0.0.11",
        "reset connections of port 54322 to 10.0.0.11",
    ]
    assert steps[0].action == "firewall {open: barman}"
    assert steps[-1].what == "route port app to node 2 (10.0.0.12)"
    assert not any(step.error for step in steps)


def test_connections_are_kept_for_the_next_look_and_let_go_by_a_pause(journal: Journal, loaded: Config) -> None:
    """The node may be shut down then."""
    host = failed_over()
    add(journal, PROMOTED)
    queue = ClusterController(MAIN, journal, host, loaded)
    queue.work()
    assert host.rests == 0
    journal.pause("main", None, "")
    queue.work()
    assert host.rests == 1


def test_a_thousand_events_are_one_run(journal: Journal, loaded: Config, tmp_path: Path) -> None:
    host = failed_over()
    columns = "cluster, node, name, success, timestamp, received"
    with sqlite3.connect(tmp_path / "journal.db") as other:
        rows = [("main", 1 + number % 2, "standby_promote", 1, "", float(number)) for number in range(1000)]
        other.executemany(f"insert into event ({columns}) values (?, ?, ?, ?, ?, ?)", rows)
    other.close()
    assert ClusterController(MAIN, journal, host, loaded).work() == REST
    (run,) = journal.runs(9)
    assert run.ok
    assert len(journal.events_of(run.id)) == 1000
    assert journal.waiting("main") == []
    assert host.what_changed().count("switch WAL on 2") == 1


def test_events_of_another_cluster_are_left_alone(journal: Journal, loaded: Config) -> None:
    journal.add_event("other", PROMOTED, 5.0)
    host = failed_over()
    assert ClusterController(MAIN, journal, host, loaded).work() == REST
    assert (journal.runs(9), host.changes, len(journal.waiting("other"))) == ([], [], 1)


def test_an_event_that_comes_during_a_run_has_a_run_of_its_own(journal: Journal, loaded: Config) -> None:
    host = failed_over()
    add(journal, PROMOTED)
    host.after("switch WAL on 2", lambda: add(journal, FOLLOWED) and None)
    assert ClusterController(MAIN, journal, host, loaded).work() == REST
    assert [[item.event for item in journal.events_of(run.id)] for run in journal.runs(9)] == [[PROMOTED], [FOLLOWED]]


def test_a_lie_among_true_events_changes_nothing(journal: Journal, loaded: Config) -> None:
    host = failed_over()
    add(journal, LIED, PROMOTED, LIED)
    ClusterController(MAIN, journal, host, loaded).work()
    assert all_is_well(host)


def test_a_lie_alone_is_not_tried_again(journal: Journal, loaded: Config, wall: Wall) -> None:
    host = failed_over()
    host.nodes[1].reachable, host.nodes[1].in_recovery = True, True
    add(journal, LIED)
    assert ClusterController(MAIN, journal, host, loaded).work() == REST
    (run,) = journal.runs(9)
    assert (run.ok, run.again, host.changes) == (False, False, [])


def test_a_claim_about_a_silent_node_is_tried_again(journal: Journal, loaded: Config, wall: Wall) -> None:
    """It may be the new primary, and only the look has failed."""
    add(journal, LIED)
    assert ClusterController(MAIN, journal, failed_over(), loaded).work() == loaded.service.retry.after(1)


# -- again -------------------------------------------------------------------------------------------------------------


def test_a_failed_run_is_tried_again_when_its_time_has_come_and_not_before(
    journal: Journal, loaded: Config, wall: Wall
) -> None:
    host = in_ruins()
    (event,) = add(journal, PROMOTED)
    queue = ClusterController(MAIN, journal, host, loaded)
    assert queue.work() == 5
    later(wall, host, 4.5)
    assert queue.work() == pytest.approx(0.5)
    assert len(journal.runs(9)) == 1
    later(wall, host, 0.5)
    assert queue.work() == 10, "twice as long after the second failure"
    assert [(run.cause, run.attempt, run.ok) for run in journal.runs(9)] == [("event", 1, False), ("retry", 2, False)]
    later(wall, host, 10)
    host.barman.health = "good"
    assert queue.work() == REST
    last = journal.runs(1)[0]
    assert (last.cause, last.attempt, last.ok) == ("retry", 3, True)
    assert [item.id for item in journal.events_of(last.id)] == [event], "a run holds the events that it is for"
    assert all_is_well(host)


def test_a_retry_outlives_the_program(journal: Journal, loaded: Config, wall: Wall) -> None:
    host = in_ruins()
    add(journal, PROMOTED)
    ClusterController(MAIN, journal, host, loaded).work()
    host.barman.health = "good"
    journal.release_cut_off()
    queue = ClusterController(MAIN, journal, host, loaded)
    assert queue.work() == 5
    later(wall, host, 5)
    assert queue.work() == REST
    assert all_is_well(host)


def test_it_is_given_up_after_so_many_attempts(
    journal: Journal, loaded: Config, wall: Wall, caplog: pytest.LogCaptureFixture
) -> None:
    host = in_ruins()
    add(journal, PROMOTED)
    queue = ClusterController(MAIN, journal, host, loaded)
    for wait in (5, 10, REST):
        assert "given up" not in caplog.text
        assert queue.work() == wait
        later(wall, host, wait)
    assert "main: given up after 3 attempts" in caplog.text
    assert queue.work() == REST
    assert len(journal.runs(9)) == 3


def given_up(journal: Journal, loaded: Config, wall: Wall, host: FakeHost) -> ClusterController:
    """A service that looks every 5 s, after three attempts and an hour in which it has looked."""
    queue = ClusterController(MAIN, journal, host, loaded)
    add(journal, PROMOTED)
    for _ in range(30):
        later(wall, host, min(queue.work(), 5))
    assert [run.attempt for run in journal.runs(9)] == [1, 2, 3], "what cannot be looked at is left to the retries"
    later(wall, host, 3600)
    assert queue.work() == 5
    assert len(journal.runs(9)) == 3
    return queue


@pytest.mark.parametrize("restarted", [False, True])
def test_what_was_given_up_is_tried_again_when_its_cause_has_gone(
    journal: Journal, loaded: Config, wall: Wall, restarted: bool
) -> None:
    """Barman is there again: no event tells so, and clients would wait for ever."""
    loaded = replace(loaded, service=replace(loaded.service, monitor_interval=5))
    host = in_ruins()
    queue = given_up(journal, loaded, wall, host)
    host.barman.health = "good"
    if restarted:
        queue = ClusterController(MAIN, journal, host, loaded)
    later(wall, host, 5)
    queue.work()
    assert all_is_well(host)
    assert [run.ok for run in journal.runs(9)] == [False, False, False, True]


def test_a_cause_that_comes_and_goes_is_waited_for_while_it_is_there(
    journal: Journal, loaded: Config, wall: Wall
) -> None:
    loaded = replace(loaded, service=replace(loaded.service, monitor_interval=5))
    host = in_ruins()
    queue = given_up(journal, loaded, wall, host)
    for _ in range(9):
        later(wall, host, 5)
        assert queue.work() == 5
    assert len(journal.runs(99)) == 3


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_new_event_is_handled_at_once_together_with_those_of_the_failed_run(
    journal: Journal, loaded: Config, wall: Wall, attempts: int
) -> None:
    """Also after the run was given up."""
    host = in_ruins()
    add(journal, PROMOTED)
    queue = ClusterController(MAIN, journal, host, loaded)
    for attempt in range(attempts):
        later(wall, host, 20 if attempt else 0)
        queue.work()
    host.barman.health = "good"
    add(journal, FOLLOWED)
    assert queue.work() == REST
    last = journal.runs(1)[0]
    assert (last.cause, last.attempt, last.ok) == ("event", 1, True)
    assert [item.event for item in journal.events_of(last.id)] == [PROMOTED, FOLLOWED]
    assert all_is_well(host)


def test_a_new_failure_is_counted_anew(journal: Journal, loaded: Config, wall: Wall) -> None:
    host = in_ruins()
    add(journal, PROMOTED)
    queue = ClusterController(MAIN, journal, host, loaded)
    assert queue.work() == 5
    later(wall, host, 5)
    assert queue.work() == 10
    add(journal, PROMOTED)
    assert queue.work() == 5


def test_a_clock_that_is_set_back_does_not_delay_a_retry(journal: Journal, loaded: Config, wall: Wall) -> None:
    host = in_ruins()
    add(journal, PROMOTED)
    queue = ClusterController(MAIN, journal, host, loaded)
    assert queue.work() == 5
    host.barman.health = "good"
    wall.time -= 3600
    wait = queue.work()
    if not all_is_well(host):
        assert wait <= 5
        later(wall, host, wait)
        queue.work()
    assert all_is_well(host)


@pytest.mark.parametrize("jump", [-3600, -86400 * 365, 3600])
def test_a_clock_that_jumps_makes_no_long_wait(journal: Journal, loaded: Config, wall: Wall, jump: float) -> None:
    add(journal, PROMOTED)
    ClusterController(MAIN, journal, in_ruins(), loaded).work()
    wall.time += jump
    assert ClusterController(MAIN, journal, in_ruins(), loaded).work() <= 10, "a program that has just been started"


# -- notifications -----------------------------------------------------------------------------------------------------


def test_a_notification_that_was_given_is_not_given_again_on_a_retry(
    journal: Journal, loaded: Config, wall: Wall
) -> None:
    host = in_ruins()
    host.programs["/bin/page"] = lambda program: ""
    main = routes(("standby_promote", (page(), OPEN_BARMAN, SLOT, STREAM, SWITCH_WAL)))
    add(journal, PROMOTED)
    queue = ClusterController(main, journal, host, loaded)
    queue.work()
    for wait in (5, 10):
        later(wall, host, wait)
        queue.work()
    assert told(host) == ["dba"]
    last = journal.runs(1)[0]
    assert last.attempt == 3
    assert journal.steps(last.id)[0].what == "done before"


def test_a_notification_that_could_not_be_given_is_given_on_a_retry(
    journal: Journal, loaded: Config, wall: Wall
) -> None:
    host = failed_over()
    add(journal, PROMOTED)
    queue = ClusterController(routes(("standby_promote", (page(),))), journal, host, loaded)
    assert queue.work() == 5
    host.programs["/bin/page"] = lambda program: ""
    later(wall, host, 5)
    assert queue.work() == REST
    assert told(host) == ["dba", "dba"]
    assert journal.runs(1)[0].ok


def test_a_notification_is_given_for_each_new_event(journal: Journal, loaded: Config) -> None:
    host = failed_over()
    host.programs["/bin/page"] = lambda program: ""
    queue = ClusterController(routes(("standby_promote", (page(),))), journal, host, loaded)
    for _ in range(3):
        add(journal, PROMOTED)
        queue.work()
    assert told(host) == ["dba"] * 3


def test_a_new_event_does_not_repeat_the_notifications_of_older_ones(journal: Journal, loaded: Config) -> None:
    host = in_ruins()
    host.programs["/bin/page"] = lambda program: ""
    main = routes(("standby_promote", (page(), OPEN_BARMAN, STREAM)), ("standby_follow", (SLOT,)))
    queue = ClusterController(main, journal, host, loaded)
    add(journal, PROMOTED)
    queue.work()
    add(journal, FOLLOWED)
    queue.work()
    assert told(host) == ["dba"]


def test_the_same_notification_in_two_routes_is_two(journal: Journal, loaded: Config, wall: Wall) -> None:
    """The first can be given, the second fails: it is owed still."""
    host = failed_over()
    given: list[str] = []

    def second_fails(program: Program) -> str:
        given.append(program.env["REPMGR_HOOKS_EVENT"])
        if len(given) == 2:
            raise OperationFailed("the pager is busy")
        return ""

    host.programs["/bin/page"] = second_fails
    main = routes(("standby_promote", (page(),)), ("standby_follow", (page(place="[1].do[0]"),)))
    add(journal, PROMOTED, FOLLOWED)
    queue = ClusterController(main, journal, host, loaded)
    assert queue.work() == 5
    later(wall, host, 5)
    queue.work()
    assert given == ["standby_promote", "standby_follow", "standby_follow"]


# -- pause -------------------------------------------------------------------------------------------------------------


def test_while_paused_nothing_is_done_and_afterwards_everything(journal: Journal, loaded: Config, wall: Wall) -> None:
    host = failed_over()
    journal.pause("main", None, "new disks")
    queue = ClusterController(MAIN, journal, host, loaded)
    add(journal, PROMOTED, FOLLOWED)
    assert queue.work() == REST
    assert (host.ran, host.changes, journal.runs(9), len(journal.waiting("main"))) == ([], [], [], 2)
    journal.resume("main")
    assert queue.work() == REST
    assert all_is_well(host)
    assert journal.waiting("main") == []


def test_a_pause_ends_by_itself(journal: Journal, loaded: Config, wall: Wall) -> None:
    host = failed_over()
    journal.pause("main", wall.time + 90, "")
    queue = ClusterController(MAIN, journal, host, loaded)
    add(journal, PROMOTED)
    assert queue.work() == 90
    later(wall, host, 90)
    assert queue.work() == REST
    assert all_is_well(host)


def test_a_pause_holds_retries_too(journal: Journal, loaded: Config, wall: Wall) -> None:
    host = in_ruins()
    add(journal, PROMOTED)
    queue = ClusterController(MAIN, journal, host, loaded)
    queue.work()
    journal.pause("main", None, "")
    later(wall, host, 3600)
    assert queue.work() == REST
    assert len(journal.runs(9)) == 1


class Typed(FakeHost):
    """Somebody types something while a run waits, at a moment of the fake clock."""

    def __init__(self) -> None:
        super().__init__()
        self.types: Callable[[], object] | None = None

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.types and self.now() > 20:
            types, self.types = self.types, None
            types()


def test_a_pause_ends_the_run_that_is_under_way_and_its_events_wait(
    journal: Journal, loaded: Config, wall: Wall
) -> None:
    """Without it the app port would be opened by its limit, while a DBA looks around."""
    host = Typed()
    failed_over(host)
    host.barman.health = "ruins"
    queue = ClusterController(MAIN, journal, host, loaded)

    def pause() -> None:
        journal.pause("main", None, "hands off")
        queue.pausing.set()

    host.types = pause
    add(journal, PROMOTED)
    assert [queue.work(), queue.work()] == [0.0, REST]
    assert (host.types, host.leads_to(host.app_port), host.now() < 30) == (None, None, True)
    (run,) = journal.runs(9)
    assert (run.ok, run.message, [item.event for item in journal.waiting("main")]) == (False, "cut off", [PROMOTED])
    journal.resume("main")
    host.barman.health = "good"
    assert queue.work() == REST
    assert all_is_well(host)


def test_a_pause_that_was_taken_back_ends_no_run(journal: Journal, loaded: Config, wall: Wall) -> None:
    host = failed_over()
    queue = ClusterController(MAIN, journal, host, loaded)
    queue.pausing.set()
    add(journal, PROMOTED)
    assert queue.work() == REST
    assert all_is_well(host)


def test_the_pause_of_another_cluster_does_not_count(journal: Journal, loaded: Config) -> None:
    host = failed_over()
    journal.pause("other", None, "")
    add(journal, PROMOTED)
    ClusterController(MAIN, journal, host, loaded).work()
    assert all_is_well(host)


# -- cut off -----------------------------------------------------------------------------------------------------------


class Counted(FakeHost):
    """A world that raises ``error`` instead of its call number ``at``."""

    def __init__(self, at: int = -1, error: type[BaseException] = KeyboardInterrupt) -> None:
        super().__init__()
        self.calls, self.at_call, self.error = 0, at, error

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.at_call:
            raise self.error

    def run(self, program: Program, limit: float) -> str:
        self._count()
        return super().run(program, limit)

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        self._count()
        return super().fetch_each(queries, limit)

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        self._count()
        super().reset_clients(flows)


def calls_of_a_promotion() -> int:
    """How often the outside is used in a whole promotion."""
    host = Counted()
    failed_over(host)
    assert module.dispatcher.handle(MAIN, host, [PROMOTED]).ok
    return host.calls


def carry_on(path: Path, host: FakeHost, loaded: Config) -> None:
    """What a new program does, and what must be true then."""
    journal = Journal(path)
    assert journal.release_cut_off() == 1
    assert ClusterController(MAIN, journal, host, loaded).work() == REST
    assert all_is_well(host)
    assert journal.waiting("main") == []
    last = journal.runs(1)[0]
    assert last.ok
    assert [item.event for item in journal.events_of(last.id)] == [PROMOTED]
    assert all(run.ended is not None for run in journal.runs(9))
    journal.close()


@pytest.mark.parametrize("call", range(1, calls_of_a_promotion() + 1))
def test_cut_off_at_any_use_of_the_outside_and_carried_on(tmp_path: Path, loaded: Config, call: int) -> None:
    host = Counted(call, KeyboardInterrupt)
    failed_over(host)
    path = tmp_path / "journal.db"
    journal = Journal(path)
    add(journal, PROMOTED)
    with pytest.raises(KeyboardInterrupt):
        ClusterController(MAIN, journal, host, loaded).work()
    journal.close()
    carry_on(path, host, loaded)


def test_there_are_many_places_where_it_can_be_cut_off() -> None:
    assert calls_of_a_promotion() > 20


class StoppedAfter(Journal):
    """A journal that lets the queue stop after so many steps, as SIGTERM does."""

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__(path)
        self.left, self.stop = steps, lambda: None

    def add_step(self, run: int, step: StepRow) -> None:
        super().add_step(run, step)
        self.left -= 1
        if not self.left:
            self.stop()


@pytest.mark.parametrize("steps", range(1, 8))
def test_stopped_between_any_two_steps_and_carried_on(tmp_path: Path, loaded: Config, steps: int) -> None:
    host = failed_over()
    path = tmp_path / "journal.db"
    journal = StoppedAfter(path, steps)
    queue = ClusterController(MAIN, journal, host, loaded)
    journal.stop = queue.stopping.set
    add(journal, PROMOTED)
    assert queue.work() == 0
    assert len(journal.steps(1)) == steps
    assert journal.runs(9)[0].ended is None
    journal.close()
    carry_on(path, host, loaded)


def test_one_that_is_to_stop_begins_nothing(journal: Journal, loaded: Config) -> None:
    host = failed_over()
    add(journal, PROMOTED)
    queue = ClusterController(MAIN, journal, host, loaded)
    queue.stopping.set()
    assert queue.work() == 0
    assert (host.ran, journal.runs(9), len(journal.waiting("main"))) == ([], [], 1)


def test_one_that_waits_for_a_primary_can_be_stopped(journal: Journal, loaded: Config) -> None:
    host = FakeHost()
    host.lose(1)
    queue = ClusterController(MAIN, journal, host, loaded)
    host.at(3, queue.stopping.set)
    add(journal, PROMOTED)
    assert queue.work() == 0
    assert host.now() < 6
    assert journal.release_cut_off() == 1


def test_a_bug_in_mid_run_does_not_lose_the_event(journal: Journal, loaded: Config, wall: Wall) -> None:
    """The worker's loop survives it (``Loop.run``) and calls ``work`` again."""
    host = Counted(1, ZeroDivisionError)
    failed_over(host)
    add(journal, PROMOTED)
    queue = ClusterController(MAIN, journal, host, loaded)
    with suppress(ZeroDivisionError):
        queue.work()
    assert not all_is_well(host)
    later(wall, host, 600)
    queue.work()
    assert all_is_well(host)


# -- a broken journal --------------------------------------------------------------------------------------------------


class Broken(Journal):
    """A journal in which some methods fail from a moment on."""

    broken: tuple[str, ...] = ()

    def __getattribute__(self, name: str) -> object:
        if name in object.__getattribute__(self, "broken"):
            raise OperationFailed("the journal cannot be used: disk I/O error")
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    "broken",
    [("add_step",), ("end_run",), ("add_step", "end_run"), ("begin_run",), ("due",), ("last_known",)],
    ids=" ".join,
)
def test_a_broken_journal_does_not_stop_a_failover(tmp_path: Path, loaded: Config, broken: tuple[str, ...]) -> None:
    host = failed_over()
    journal = Broken(tmp_path / "journal.db")
    add(journal, PROMOTED)
    journal.broken = broken
    ClusterController(MAIN, journal, host, loaded).work()
    assert all_is_well(host)


@pytest.mark.parametrize("broken", [("add_step", "end_run"), ("add_step", "end_run", "due")])
def test_a_journal_that_breaks_in_mid_run_does_not_stop_a_failover(
    tmp_path: Path, loaded: Config, broken: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    host = failed_over()
    journal = Broken(tmp_path / "journal.db")
    host.after("create slot", lambda: setattr(journal, "broken", broken))
    add(journal, PROMOTED)
    ClusterController(MAIN, journal, host, loaded).work()
    assert all_is_well(host)
    assert host.what_changed().count("switch WAL on 2") == 1
    assert "disk I/O error" in caplog.text


def test_a_journal_that_is_removed_in_mid_run_does_not_stop_a_failover(
    journal: Journal, loaded: Config, tmp_path: Path
) -> None:
    def remove() -> None:
        for file in tmp_path.glob("journal.db*"):
            file.unlink()

    host = failed_over()
    host.after("create slot", remove)
    add(journal, PROMOTED)
    ClusterController(MAIN, journal, host, loaded).work()
    assert all_is_well(host)


def test_a_broken_journal_is_looked_at_again_soon(tmp_path: Path, loaded: Config) -> None:
    journal = Broken(tmp_path / "journal.db")
    journal.broken = ("due",)
    assert ClusterController(MAIN, journal, failed_over(), loaded).work() == module.JOURNAL_BROKEN < 60


def test_a_journal_that_can_only_be_read_is_no_reason_to_handle_an_event_over_and_over(
    tmp_path: Path, loaded: Config
) -> None:
    host = failed_over()
    journal = Broken(tmp_path / "journal.db")
    add(journal, PROMOTED)
    journal.broken = ("change",)
    queue = ClusterController(MAIN, journal, host, loaded)
    for _ in range(5):
        queue.work()
    assert all_is_well(host)
    assert host.what_changed().count("switch WAL on 2") == 1
    journal.broken = ()
    host.sleep(module.JOURNAL_BROKEN)
    queue.work()
    assert journal.waiting("main") == []


def test_without_a_journal_a_failed_run_is_tried_again_and_a_notification_given_once(
    tmp_path: Path, loaded: Config, wall: Wall
) -> None:
    host = in_ruins()
    host.programs["/bin/page"] = lambda program: ""
    journal = Broken(tmp_path / "journal.db")
    add(journal, PROMOTED)
    journal.broken = ("change",)
    main = routes(("standby_promote", (page(), OPEN_BARMAN, SLOT, STREAM, SWITCH_WAL)))
    queue = ClusterController(main, journal, host, loaded)
    assert queue.work() == 5
    host.barman.health = "good"
    later(wall, host, 5)
    queue.work()
    assert host.barman.streams_from == 2
    assert told(host) == ["dba"]


def test_a_failover_without_a_journal_is_seen_as_soon_as_with_one(tmp_path: Path, loaded: Config) -> None:
    host = FakeHost()
    journal = Broken(tmp_path / "journal.db")
    queue = ClusterController(MAIN, journal, host, replace(loaded, service=replace(loaded.service, monitor_interval=5)))
    queue.work()
    journal.broken = ("change", "ask")
    assert queue.work() <= 5
    host.sleep(5)
    host.fail_over()
    queue.work()
    assert host.leads_to(host.app_port) == NODE_2


class Recovering(Broken):
    """It works again when a run begins, once that is wanted."""

    recovers = False

    def begin_run(self, cluster: str, cause: str, attempt: int, events: Iterable[int]) -> int:
        if self.recovers:
            self.broken = ()
        return super().begin_run(cluster, cause, attempt, events)


def test_what_could_not_be_written_does_not_come_after_what_is_newer(tmp_path: Path, loaded: Config) -> None:
    """Else the timeline of a stale primary would be remembered."""
    host = failed_over()
    journal = Recovering(tmp_path / "journal.db")
    journal.remember("main", LastKnownPrimary(1, 1, host.nodes[1].system_identifier))
    add(journal, PROMOTED)
    journal.broken = ("change",)
    controller = ClusterController(MAIN, journal, host, loaded)
    controller.work()
    host.nodes[1].reachable, host.nodes[2].reachable = True, False
    host.nodes[1].timeline = 2
    host.promote(1)
    host.nodes[1].registered = (1,)
    journal.recovers, host.barman.health = True, "ruins"
    controller.blind.set()
    controller.work()
    host.sleep(module.JOURNAL_BROKEN)
    controller.work()
    controller.work()
    assert (journal.last_known("main").primary, journal.last_known("main").timeline) == (1, 3)


# -- a pause that cannot be read ---------------------------------------------------------------------------------------


def test_a_pause_that_cannot_be_read_any_more_is_as_it_was(tmp_path: Path, loaded: Config, wall: Wall) -> None:
    host = failed_over()
    journal = Broken(tmp_path / "journal.db")
    journal.pause("main", wall.time + 90, "")
    queue = ClusterController(MAIN, journal, host, loaded)
    queue.work()
    journal.broken = ("due", "paused")
    assert queue.work() <= module.JOURNAL_BROKEN
    assert host.changes == []
    later(wall, host, 91)
    queue.work()
    assert host.leads_to(host.app_port) == NODE_2, "it is over"


def test_a_pause_is_heeded_while_only_the_rest_of_the_journal_cannot_be_read(tmp_path: Path, loaded: Config) -> None:
    journal = Journal(tmp_path / "journal.db")
    queue = ClusterController(MAIN, journal, host := FakeHost(), loaded)
    queue.work()
    journal.change(lambda db: db.execute("drop table event"))
    journal.pause("main", None, "new disks")
    failed_over(host)
    before = list(host.changes)
    assert queue.work() <= module.JOURNAL_BROKEN
    assert host.changes == before
    journal.resume("main")
    queue.work()
    assert host.leads_to(host.app_port) == NODE_2


def test_a_pause_is_known_to_a_service_that_has_never_read_the_journal(
    tmp_path: Path, loaded: Config, wall: Wall
) -> None:
    host = failed_over()
    journal = Broken(tmp_path / "journal.db")
    journal.broken = ("due", "paused")
    pauses.keep(tmp_path, "main", Pause(None, "new disks", wall.time))
    ClusterController(MAIN, journal, host, loaded).work()
    assert host.changes == []
    pauses.keep(tmp_path, "main", None)
    ClusterController(MAIN, journal, host, loaded).work()
    assert host.leads_to(host.app_port) == NODE_2


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"until": "x", "reason": "", "since": 1}', "\xff", "[" * 9999])
def test_a_file_that_tells_of_no_pause(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cluster-main.paused").write_text(text, encoding="latin-1")
    assert pauses.known(tmp_path, "main") is None
    assert "whether main is paused cannot be read" in caplog.text


# -- one at a time -----------------------------------------------------------------------------------------------------


def test_nothing_is_done_while_another_program_holds_the_cluster(
    journal: Journal, loaded: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", 0.1)
    host = failed_over()
    add(journal, PROMOTED)
    with exclusive(loaded.state_dir / "cluster-main.lock", 0):
        ClusterController(MAIN, journal, host, loaded).work()
        assert host.changes == []


def test_nothing_is_done_while_another_program_holds_the_cluster_and_the_journal_is_broken(
    tmp_path: Path, loaded: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", 0.1)
    host = failed_over()
    journal = Broken(tmp_path / "journal.db")
    journal.broken = ("due",)
    with exclusive(loaded.state_dir / "cluster-main.lock", 0):
        ClusterController(MAIN, journal, host, loaded).work()
        assert host.changes == []


def test_the_lock_is_free_between_runs_and_an_operators_run_is_written_down_too(
    journal: Journal, loaded: Config
) -> None:
    host = failed_over()
    add(journal, PROMOTED)
    ClusterController(MAIN, journal, host, loaded).work()
    with exclusive(loaded.state_dir / "cluster-main.lock", 0):
        assert run_now(MAIN, host, [], "reconcile", journal).ok
        assert run_now(MAIN, host, [PROMOTED], "replay", journal).ok
    by_event, reconcile, replay = journal.runs(9)
    assert [run.cause for run in (by_event, reconcile, replay)] == ["event", "reconcile", "replay"]
    assert journal.events_of(reconcile.id) == []
    assert [item.event for item in journal.events_of(replay.id)] == [PROMOTED]
    assert journal.waiting("main") == []


def test_an_operators_run_works_without_a_journal() -> None:
    host = failed_over()
    assert run_now(MAIN, host, [PROMOTED], "replay", None).ok
    assert all_is_well(host)


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "reconcile"),
        ([PROMOTED], "standby_promote of node 2"),
        ([PROMOTED, FOLLOWED], "standby_promote of node 2, standby_follow of node 1"),
        (
            [PROMOTED] * 3 + [FOLLOWED] * 3,
            ", ".join(["standby_promote of node 2"] * 3 + ["standby_follow of node 1"] * 3),
        ),
        ([PROMOTED] * 6 + [FOLLOWED], "7 events, the last of them standby_follow of node 1"),
        ([PROMOTED] * 40 + [FOLLOWED], "41 events, the last of them standby_follow of node 1"),
    ],
)
def test_how_events_are_named(events: list[Event], said: str) -> None:
    assert summary_of(events) == said
