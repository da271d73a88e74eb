"""Of very many runs a few are made at once; none waits for long behind one that hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import clock
from repmgr_hooks.cluster.obstacles import Hindrance
from repmgr_hooks.config import Config
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Stopped
from repmgr_hooks.event import Event
from repmgr_hooks.journal.heartbeat import Progress
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.last_seen import Publisher
from repmgr_hooks.service import run_turns
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.monitor import MANY, Monitor
from repmgr_hooks.service.run_turns import RunTurns
from repmgr_hooks.service.seen import Shown
from repmgr_hooks.settings.backoff import Backoff
from repmgr_hooks.settings.cluster import Readers
from repmgr_hooks.system.steps import Rows, Sql
from tests.fake import FakeHost, NatTable, Wall
from tests.unit.service.test_controller import NODE_2, PROMOTED, add, all_is_well, in_ruins, later

SOON = 30.0
LONG = 600.0


class Run(threading.Thread):
    """A run that goes on until it is told to end."""

    def __init__(self, turns: RunTurns, begun: list[str], name: str, urgent: bool = False) -> None:
        super().__init__(name=name, daemon=True)
        self.turns, self.all_begun, self.urgent = turns, begun, urgent
        self.progress, self.stopping = Progress(), threading.Event()
        self.begins, self.ends = threading.Event(), threading.Event()

    def run(self) -> None:
        with suppress(Stopped), self.turns.turn(self.urgent, self.stopping.is_set, self.progress):
            self.all_begun.append(self.name)
            self.begins.set()
            self.ends.wait(SOON)


@contextmanager
def runs(turns: RunTurns, *names: str) -> Iterator[dict[str, Run]]:
    """Start these, one after the other; a name in capitals is urgent."""
    begun: list[str] = []
    started = {name: Run(turns, begun, name, name.isupper()) for name in names}
    try:
        for run in started.values():
            asked = turns._number
            run.start()
            while turns._number == asked:
                threading.Event().wait(0.001)
        yield started
    finally:
        for run in started.values():
            run.stopping.set()
            run.ends.set()
        for run in started.values():
            run.join(SOON)
            assert not run.is_alive()


def waits(run: Run) -> bool:
    return not run.begins.wait(0.2)


def test_so_many_are_made_at_once_and_who_waited_longest_is_next() -> None:
    with runs(RunTurns(2, LONG), "a", "b", "c", "d") as run:
        assert run["a"].begins.wait(SOON) and run["b"].begins.wait(SOON)
        assert waits(run["c"]) and waits(run["d"])
        run["b"].ends.set()
        assert run["c"].begins.wait(SOON) and waits(run["d"])


def test_a_run_that_is_urgent_waits_for_none() -> None:
    with runs(RunTurns(1, LONG), "a", "b", "EVENT", "OTHER") as run:
        assert run["EVENT"].begins.wait(SOON) and run["OTHER"].begins.wait(SOON)
        assert waits(run["b"]), "and behind these, too"
        run["a"].ends.set()
        assert waits(run["b"])


def test_one_that_gets_nowhere_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_turns, "MOST", LONG)
    with runs(RunTurns(1, 0.3), "a", "b", "c") as run:
        assert run["b"].begins.wait(SOON) and run["c"].begins.wait(SOON), "though none has ended"
        assert run["a"].all_begun == ["a", "b", "c"]


def test_one_that_gets_on_keeps_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with runs(RunTurns(1, LONG), "a") as run:
        turns = run["a"].turns
        turns._lease = 0.3
        run["a"].progress.last = clock.monotonic() + LONG  # as if there was progress all the time
        with runs(turns, "b") as next_one:
            assert waits(next_one["b"]) and waits(next_one["b"]) and waits(next_one["b"])
    monkeypatch.setattr(run_turns, "MOST", 0.3)
    with runs(RunTurns(1, LONG), "a", "b") as run:
        assert run["b"].begins.wait(SOON), "but not for ever"


def test_who_gives_way_makes_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_turns, "MOST", LONG)
    with runs(RunTurns(1, LONG), "a", "b", "c") as run:
        assert waits(run["b"])
        run["b"].stopping.set()
        run["b"].join(SOON)
        assert not run["b"].is_alive() and run["a"].all_begun == ["a"]
        run["a"].ends.set()
        assert run["c"].begins.wait(SOON)


def test_who_has_waited_for_long_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_turns, "MOST", LONG)
    monkeypatch.setattr(run_turns, "LONGEST", 0.3)
    with runs(RunTurns(1, LONG), "a", "b") as run:
        assert run["b"].begins.wait(SOON)


def test_a_turn_is_given_back_whatever_is_raised() -> None:
    turns = RunTurns(1, LONG)
    with pytest.raises(ValueError), turns.turn(False, bool, Progress()):
        raise ValueError
    with runs(turns, "a") as run:
        assert run["a"].begins.wait(SOON)


def test_one_that_gets_on_again_counts_again() -> None:
    """Or a hundred slow runs would all be under way after a while."""
    with runs(RunTurns(1, 0.3), "a", "b") as run:
        assert run["b"].begins.wait(SOON)
        run["a"].progress.last = run["b"].progress.last = clock.monotonic() + LONG
        run["b"].ends.set()
        with runs(run["a"].turns, "c") as more:
            assert waits(more["c"]) and waits(more["c"])


@pytest.fixture
def no_turns(monkeypatch: pytest.MonkeyPatch) -> RunTurns:
    """Nobody's turn comes."""
    turns = RunTurns(0, LONG)
    monkeypatch.setattr("repmgr_hooks.service.controller.RUNS", turns)
    return turns


def in_thread(queue: ClusterController) -> threading.Thread:
    working = threading.Thread(target=queue.work, daemon=True)
    working.start()
    return working


def changed(host: FakeHost) -> bool:
    return any(program.argv[0] == "iptables-restore" for program in host.ran)


def waiting_drift(
    loaded: Config, journal: Journal, host: FakeHost, turns: RunTurns
) -> tuple[ClusterController, threading.Thread]:
    """Whose ports have lost their rules, and which waits for the turn of its run."""
    main = loaded.clusters["main"]
    assert handle(main, host, []).ok
    host.nat = NatTable()
    host.ran.clear()
    queue = ClusterController(main, journal, host, loaded)
    working = in_thread(queue)
    while not turns._waiting and working.is_alive():
        working.join(0.01)
    assert working.is_alive() and not changed(host), "it waits"
    return queue, working


def test_an_event_does_not_wait_behind_its_own_clusters_drift(
    loaded: Config, journal: Journal, no_turns: RunTurns
) -> None:
    host = FakeHost()
    queue, working = waiting_drift(loaded, journal, host, no_turns)
    host.fail_over()
    journal.add_event("main", Event(2, "standby_promote"), 1.0)
    working.join(SOON)
    assert not working.is_alive() and not changed(host)
    queue.work()  # as its loop does at once
    assert host.leads_to(host.app_port) == NODE_2


def test_a_pause_counts_for_a_run_that_waits(loaded: Config, journal: Journal, no_turns: RunTurns) -> None:
    host = FakeHost()
    _, working = waiting_drift(loaded, journal, host, no_turns)
    journal.pause("main", None, "")
    working.join(SOON)
    assert not working.is_alive() and not changed(host)


def test_a_stop_ends_a_run_that_waits(loaded: Config, journal: Journal, no_turns: RunTurns) -> None:
    host = FakeHost()
    queue, working = waiting_drift(loaded, journal, host, no_turns)
    queue.stopping.set()
    working.join(SOON)
    assert not working.is_alive() and not changed(host) and journal.runs(9) == []


def test_another_primary_that_a_look_has_found_waits_for_no_turn(
    loaded: Config, journal: Journal, no_turns: RunTurns
) -> None:
    """Its event may be lost."""
    host, main = FakeHost(), loaded.clusters["main"]
    assert handle(main, host, []).ok
    queue = ClusterController(main, journal, host, loaded)
    queue.work()
    host.fail_over()
    host.sleep(loaded.service.monitor_interval)
    working = in_thread(queue)
    working.join(SOON)
    assert not working.is_alive() and host.leads_to(host.app_port) == NODE_2


def test_a_retry_of_an_event_waits_for_no_turn(
    loaded: Config, journal: Journal, no_turns: RunTurns, wall: Wall
) -> None:
    host = in_ruins()
    add(journal, PROMOTED)
    retry = replace(loaded.service, retry=Backoff(5, 300, 3), monitor_interval=0)
    queue = ClusterController(loaded.clusters["main"], journal, host, replace(loaded, service=retry))
    queue.work()
    host.barman.health = "good"
    later(wall, host, 5)
    working = in_thread(queue)
    working.join(SOON)
    assert not working.is_alive() and all_is_well(host)
    assert [run.cause for run in journal.runs(9)] == ["event", "retry"]


@pytest.fixture
def others(monkeypatch: pytest.MonkeyPatch) -> RunTurns:
    """Runs for other clusters, none as yet."""
    turns = RunTurns(0, LONG)
    monkeypatch.setattr("repmgr_hooks.service.seen.RUNS", turns)
    monkeypatch.setattr("repmgr_hooks.service.monitor.RUNS", turns)
    return turns


class Asked(FakeHost):
    """Counts how often its nodes are asked."""

    questions = 0
    bug = False

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        self.questions += 1
        if self.bug:
            raise ZeroDivisionError
        return super().fetch_each(queries, limit)


def at_work(managed: ManagedCluster, journal: Journal, loaded: Config) -> tuple[ClusterController, Asked]:
    """One of many clusters, in which a look has found nothing wrong."""
    clusters = {"main": managed, **{f"c{number}": managed for number in range(MANY)}}
    host, loaded = Asked(), replace(loaded, clusters=clusters)
    loaded = replace(loaded, service=replace(loaded.service, monitor_interval=loaded.service.monitor_interval or 5))
    host.addresses |= {"10.0.0.21"}
    assert handle(managed, host, []).ok
    queue = ClusterController(managed, journal, host, loaded)
    queue.work()
    assert queue.looked
    host.ran.clear()
    return queue, host


@pytest.fixture
def well(loaded: Config, journal: Journal, others: RunTurns) -> tuple[ClusterController, Asked]:
    """Such a cluster, and then others have something to do."""
    found = at_work(loaded.clusters["main"], journal, loaded)
    assert not others.are_taken
    others._waiting.append(1)
    return found


def looks(queue: ClusterController, host: FakeHost, seconds: float = 5.0) -> bool:
    """Let time go by; True if the rules, which somebody has taken away, are looked at."""
    generation = host.nat.generation
    host.nat = NatTable()
    host.nat.generation = generation + 1
    host.ran.clear()
    host.sleep(seconds)
    queue.work()
    return changed(host)


def test_a_cluster_that_is_well_reads_no_rules_while_others_change_them(
    well: tuple[ClusterController, Asked], loaded: Config
) -> None:
    """A hundred clusters read all rules again after each change of one."""
    queue, host = well
    path, asked = loaded.state_dir / "cluster-main.looked", host.questions
    path.unlink()
    assert not looks(queue, host) and path.exists() and host.questions > asked, "but it looks at the nodes"
    assert queue.work() == 5, "as often as ever"
    assert not looks(queue, host) and not looks(queue, host)
    assert looks(queue, host), "and at everything after 20 s"


def test_it_reads_them_as_ever_when_the_others_are_done(
    well: tuple[ClusterController, Asked], others: RunTurns
) -> None:
    queue, host = well
    assert not looks(queue, host)
    others._waiting.clear()
    assert looks(queue, host)


def test_a_run_that_gets_nowhere_puts_no_look_off(well: tuple[ClusterController, Asked], others: RunTurns) -> None:
    queue, host = well
    others._waiting.clear()
    others._holding[1] = clock.monotonic() + LONG, Progress()
    assert not looks(queue, host), "it gets on"
    others._lease = 0.0
    assert looks(queue, host)


def test_a_failover_is_seen_as_ever_while_others_have_theirs(well: tuple[ClusterController, Asked]) -> None:
    queue, host = well
    host.fail_over()
    host.sleep(5)
    queue.work()
    assert host.leads_to(host.app_port) == NODE_2


def test_what_has_happened_to_a_cluster_is_looked_at_in_any_case(well: tuple[ClusterController, Asked]) -> None:
    queue, host = well
    queue.stirred.set()
    assert looks(queue, host, 0.2), "a node has ended a connection"


def test_after_an_event_everything_is_looked_at(well: tuple[ClusterController, Asked], journal: Journal) -> None:
    queue, host = well
    add(journal, Event(2, "standby_follow"))
    assert looks(queue, host, 0.0)


def test_who_is_in_a_hurry_stays_in_it(well: tuple[ClusterController, Asked], journal: Journal) -> None:
    queue, host = well
    add(journal, Event(2, "repmgrd_failover_promote"))
    queue._monitor.look_now(hurry=True)
    queue.work()
    host.sleep(0.1)
    assert queue.work() == pytest.approx(0.1) and looks(queue, host, 0.1)


def test_what_is_not_well_is_looked_at_each_time(
    loaded: Config, journal: Journal, others: RunTurns, wall: Wall
) -> None:
    loaded = replace(loaded, service=replace(loaded.service, retry=Backoff(300, 300, 3)))
    queue, host = at_work(loaded.clusters["main"], journal, loaded)
    host.barman.health = "ruins"
    host.nodes[1].slots.clear()
    later(wall, host, 5)
    queue.work()
    assert journal.runs(9)[0].ok is False
    later(wall, host, 5)
    queue.work()  # nothing is new in what is asked for
    others._waiting.append(1)
    host.ran.clear()
    assert looks(queue, host)


@pytest.mark.parametrize("why", ["two gateways", "readers", "few clusters"])
def test_who_is_looked_at_each_time(loaded: Config, journal: Journal, others: RunTurns, why: str) -> None:
    """Another gateway would take it for gone; readers follow what the last look has found."""
    cluster = loaded.clusters["main"].cluster
    if why == "two gateways":
        cluster = replace(cluster, gateway=replace(cluster.gateway, hosts=("10.0.0.21", "10.0.0.22")))
    elif why == "readers":
        cluster = replace(cluster, readers={"app": Readers(1000, "primary")})
    queue, host = at_work(replace(loaded.clusters["main"], cluster=cluster), journal, loaded)
    if why == "few clusters":
        queue._monitor = Monitor(queue._managed, host, 5, queue.progress, MANY)
        queue.work()
    others._waiting.append(1)
    assert looks(queue, host)


def test_what_is_odd_about_a_node_is_looked_at_each_time(well: tuple[ClusterController, Asked]) -> None:
    queue, host = well
    host.nodes[2].reachable = False
    host.sleep(5)
    queue.work()
    assert queue._monitor.decision and queue._monitor.decision.notes
    host.nodes[2].reachable = True
    assert looks(queue, host), "also when it is over"


def test_a_loss_elsewhere_is_looked_for_at_the_next_look(
    well: tuple[ClusterController, Asked], others: RunTurns, loaded: Config, journal: Journal
) -> None:
    """A firewall was loaded again: all chains are gone."""
    queue, host = well
    assert not looks(queue, host)
    other, others_host = at_work(loaded.clusters["main"], journal, loaded)
    assert looks(other, others_host, 20) and others.losses == 1
    assert looks(queue, host) and others.losses == 1
    assert not looks(queue, host), "once"


def test_a_loss_is_one_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred clusters that have lost theirs have not all looked at everything a hundred times."""
    turns = RunTurns()
    for _ in range(3):
        turns.lost()
    assert turns.losses == 1
    monkeypatch.setattr(run_turns, "ONE_LOSS", 0.0)
    turns.lost()
    assert turns.losses == 2


def test_a_failover_is_no_such_loss(well: tuple[ClusterController, Asked], others: RunTurns) -> None:
    queue, host = well
    host.sleep(20)
    queue.work()
    assert others.losses == 0, "nor is a look that finds nothing"
    host.fail_over()
    host.sleep(20)
    queue.work()
    assert host.leads_to(host.app_port) == NODE_2 and others.losses == 0


def test_what_stays_wrong_is_one_loss(
    loaded: Config, journal: Journal, others: RunTurns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_turns, "ONE_LOSS", 0.0)
    loaded = replace(loaded, service=replace(loaded.service, retry=Backoff(300, 300, 3)))
    queue, host = at_work(loaded.clusters["main"], journal, loaded)
    host.barman.health = "ruins"
    for _ in range(3):
        host.nodes[1].slots.clear()
        host.sleep(5)
        queue.work()
    assert others.losses == 1


def test_what_stands_against_a_failover_is_looked_at_each_time(well: tuple[ClusterController, Asked]) -> None:
    queue, host = well
    queue._monitor._against = {Hindrance.PAUSED: host.now()}
    assert looks(queue, host)


def test_what_is_for_metrics_alone_does_not_go_before_a_run_because_others_had_theirs(
    well: tuple[ClusterController, Asked],
) -> None:
    queue, host = well
    around = queue._shown._around
    around.look(host)
    for _ in range(3):
        assert not looks(queue, host)
    host.sleep(4)
    assert not around.put_off(host)


def test_everything_is_looked_at_every_20_s_whatever_the_interval(
    loaded: Config, journal: Journal, others: RunTurns
) -> None:
    loaded = replace(loaded, service=replace(loaded.service, monitor_interval=15))
    queue, host = at_work(loaded.clusters["main"], journal, loaded)
    others._waiting.append(1)
    assert not looks(queue, host, 15)
    assert queue.work() == 5
    assert looks(queue, host, 5)


def test_a_look_that_was_cut_short_is_made_again(well: tuple[ClusterController, Asked]) -> None:
    queue, host = well
    host.sleep(20)
    host.bug = True
    with pytest.raises(ZeroDivisionError):
        queue.work()
    host.bug = False
    assert looks(queue, host, 1)


def test_after_a_pause_everything_is_looked_at(
    loaded: Config, journal: Journal, others: RunTurns, tmp_path: Path
) -> None:
    queue, host = at_work(loaded.clusters["main"], journal, loaded)
    queue._shown = Shown(
        queue._managed, 5, queue.progress, Publisher(tmp_path, "main"), queue._monitor.absence, tmp_path
    )
    others._waiting.append(1)
    journal.pause("main", None, "")
    queue.work()
    journal.resume("main")
    assert looks(queue, host, 1)


def test_alerts_know_that_the_primary_was_seen(well: tuple[ClusterController, Asked], wall: Wall) -> None:
    """Or one that has just gone would have been unknown for 20 s already."""
    queue, host = well
    wall.time += 5
    assert not looks(queue, host)
    assert queue._alerts._known_at == host.now() and queue._monitor._looked == wall.time
