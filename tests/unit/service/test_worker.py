"""The service in this process, with a fake world and without its signals (those are in ``tests/endtoend``)."""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks import config, hook
from repmgr_hooks.cli import main as cli
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event
from repmgr_hooks.journal import heartbeat, holds
from repmgr_hooks.journal.holds import Hold, Holder
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.lock import exclusive
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.service import exhaustion, intake, turns
from repmgr_hooks.service import worker as module
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.worker import Loop, Worker
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import Rows, Sql
from tests.fake import FakeHost

CONFIG = (Path(__file__).resolve().parents[3] / "config/config.yaml").read_text()
TWO_GATEWAYS = (Path(__file__).resolve().parents[3] / "config/two-gateways.yaml").read_text()
PROMOTED = ["", "2", "standby_promote"]
FILES = resource.RLIMIT_NOFILE
NODE_2 = "10.0.0.12:5432"
READINGS = 20
"""Of the configuration: twice what a service has more of at one moment than at another."""


class WithoutSignals(Worker):
    """Signals come to the main thread only."""

    def _listen(self) -> None:
        pass

    def stop(self) -> None:
        self._stopping.set()
        os.write(self._signal, b"x")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "state" / "spool").mkdir(parents=True)
    return tmp_path / "state"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """Node 1 is lost and node 2 promoted."""
    made = FakeHost()
    made.fail_over()
    monkeypatch.setattr(module, "LocalHost", lambda conninfos, *_: made)
    return made


@pytest.fixture
def worker(state: Path, host: FakeHost) -> WithoutSignals:
    """It looks at its events only."""
    return ticking(state, 0)


def ticking(state: Path, monitor_interval: int) -> WithoutSignals:
    path = state.parent / "config.yaml"
    path.write_text(
        CONFIG.replace("monitor_interval: 5", f"monitor_interval: {monitor_interval}").replace(
            "/var/lib/repmgr-hooks", str(state)
        )
    )
    return WithoutSignals(path)


def soon(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def serving(worker: WithoutSignals) -> Iterator[threading.Thread]:
    """The service runs meanwhile."""
    thread = threading.Thread(target=worker.serve)
    thread.start()
    try:
        yield thread
    finally:
        worker.stop()
        thread.join(60)
    assert not thread.is_alive()


def healed(host: FakeHost) -> bool:
    return host.leads_to(host.app_port) == NODE_2


def test_once_it_empties_the_spool_and_ends(worker: WithoutSignals, state: Path, host: FakeHost) -> None:
    for _ in range(5):
        hook.store(str(state / "spool"), PROMOTED)
    worker.serve(once=True)
    assert healed(host)
    assert list((state / "spool").iterdir()) == []
    journal = Journal(state / "journal.db")
    assert [run.ok for run in journal.runs(9)] == [True]
    assert len(journal.events_of(1)) == 5
    journal.close()


def test_once_with_nothing_to_do_it_ends(worker: WithoutSignals, host: FakeHost) -> None:
    vars(host).update(vars(FakeHost()))
    worker.serve(once=True)
    assert host.changes == []


def test_once_it_also_sees_what_no_event_has_told(state: Path, host: FakeHost) -> None:
    ticking(state, 5).serve(once=True)
    assert healed(host)


def test_a_knock_is_heard_at_once(worker: WithoutSignals, state: Path, host: FakeHost) -> None:
    serving = threading.Thread(target=worker.serve)
    serving.start()
    try:
        soon(lambda: hook.wake(str(state / "spool")))
        hook.store(str(state / "spool"), PROMOTED)
        assert hook.wake(str(state / "spool"))
        soon(lambda: healed(host))
    finally:
        worker.stop()
        serving.join(60)
    assert not serving.is_alive()


def test_what_waited_during_a_pause_is_handled_when_resume_knocks(
    worker: WithoutSignals, state: Path, host: FakeHost
) -> None:
    journal = Journal(state / "journal.db")
    journal.pause("main", None, "")
    journal.add_event("main", Event(2, "standby_promote"), time.time())
    serving = threading.Thread(target=worker.serve)
    serving.start()
    try:
        soon(lambda: hook.wake(str(state / "spool")))
        time.sleep(0.2)
        assert host.changes == []
        journal.resume("main")
        assert hook.wake(str(state / "spool"))
        soon(lambda: healed(host))
    finally:
        worker.stop()
        serving.join(60)
        journal.close()


def test_there_is_one_worker_for_a_state_directory(
    worker: WithoutSignals, state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOCK_WAIT", 0.1)
    with (
        exclusive(state / "worker.lock", 0),
        pytest.raises(OperationFailed, match="another process holds .*worker.lock"),
    ):
        worker.serve()
    assert host.changes == []


def test_what_a_killed_worker_left_is_carried_on(worker: WithoutSignals, state: Path, host: FakeHost) -> None:
    journal = Journal(state / "journal.db")
    event = journal.add_event("main", Event(2, "standby_promote"), time.time())
    journal.begin_run("main", "event", 1, [event])
    journal.close()
    worker.serve(once=True)
    assert healed(host)


class Broken(Journal):
    """A journal with one method that fails, as on a full disk."""

    broken = ""

    def __getattribute__(self, name: str) -> object:
        if name == object.__getattribute__(self, "broken"):
            raise OperationFailed("the journal cannot be used: database or disk is full")
        return super().__getattribute__(name)


@pytest.mark.parametrize("broken", ["release_cut_off", "add_events", "prune"])
def test_a_journal_that_cannot_be_written_does_not_stop_a_failover(
    worker: WithoutSignals, state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A failover must not wait for the journal, and the worker must live long enough for that."""
    journal = Broken(state / "journal.db")
    journal.broken = broken
    monkeypatch.setattr(module, "open_journal", lambda path, later: journal)
    hook.store(str(state / "spool"), PROMOTED)
    ended: list[BaseException] = []

    def serve() -> None:
        try:
            worker.serve()
        except OperationFailed as error:
            ended.append(error)

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end and not (ended or healed(host)):
            time.sleep(0.01)
        time.sleep(0.05)
        assert ended == []
        assert healed(host)
    finally:
        worker.stop()
        serving.join(60)


def test_a_journal_that_cannot_be_opened_does_not_stop_a_failover(
    worker: WithoutSignals, state: Path, host: FakeHost
) -> None:
    """It may be a newer version's; the event stays in the spool until the journal can take it."""
    newer = sqlite3.connect(state / "journal.db")
    newer.execute("pragma user_version = 999")
    newer.close()
    hook.store(str(state / "spool"), PROMOTED)
    with serving(worker):
        soon(lambda: healed(host))
        assert len(list((state / "spool").glob("0*"))) == 1
        (state / "journal.db").unlink()
        assert hook.wake(str(state / "spool"))
        soon(lambda: not list((state / "spool").glob("0*")))


class Stuck(FakeHost):
    """A cluster whose nodes give no answer until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let_go = threading.Event(), threading.Event()

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        self.asked.set()
        self.let_go.wait(60)
        return super().fetch_each(queries, limit)


SECOND = """
  second:
    nodes: {1: {host: 10.0.1.11}, 2: {host: 10.0.1.12}}
    gateway: {address: 10.0.1.20, ports: {app: 54322}, chains: {dnat: second_dnat, snat: second_snat}}
    routes: [{on: [standby_promote], do: [firewall: {open: app}]}]
"""


def test_trouble_in_one_cluster_does_not_delay_another(
    state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck()
    system = lambda conninfos, *_: stuck if "10.0.1.11" in conninfos.get(1, "") else host  # noqa: E731
    monkeypatch.setattr(module, "LocalHost", system)
    path = state.parent / "config.yaml"
    path.write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(state)) + SECOND)
    hook.store(str(state / "spool"), ["second", "2", "standby_promote"])
    worker = WithoutSignals(path)
    thread = threading.Thread(target=worker.serve)
    thread.start()
    try:
        assert stuck.asked.wait(60)
        hook.store(str(state / "spool"), ["main", *PROMOTED[1:]])
        hook.wake(str(state / "spool"))
        soon(lambda: healed(host))
        assert not stuck.let_go.is_set()
    finally:
        stuck.let_go.set()
        worker.stop()
        thread.join(60)
    assert not thread.is_alive()


def test_a_pause_that_is_typed_during_a_run_ends_it(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = Stuck()
    stuck.fail_over()
    monkeypatch.setattr(module, "LocalHost", lambda conninfos, *_: stuck)
    hook.store(str(state / "spool"), PROMOTED)
    worker = ticking(state, 0)
    with serving(worker):
        assert stuck.asked.wait(60)
        argv = ("--config", str(state.parent / "config.yaml"), "pause", "--reason", "hands off")
        assert cli.run(argv) == 0
        soon(worker._loops["main"]._queue.pausing.is_set)
        stuck.let_go.set()
        soon(lambda: not worker._loops["main"]._queue.pausing.is_set())
    assert stuck.changes == []
    journal = Journal(state / "journal.db")
    assert [item.event.name for item in journal.waiting("main")] == ["standby_promote"]
    journal.close()


def with_a_second(state: Path) -> WithoutSignals:
    """A service with two clusters, the second of which nobody looks at before an event comes."""
    path = state.parent / "config.yaml"
    path.write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(state)) + SECOND)
    return WithoutSignals(path)


def test_clusters_are_looked_at_one_after_the_other_and_events_wait_for_none(
    state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred at once kept each other from the nodes, and all from the journal."""
    second = Stuck()
    system = lambda conninfos, *more: second if "10.0.1.11" in str(conninfos) else host  # noqa: E731
    monkeypatch.setattr(module, "LocalHost", system)
    monkeypatch.setattr(turns, "NODES_EVERY", 3600.0)
    second.let_go.set()
    with serving(with_a_second(state)):
        soon(lambda: healed(host))
        assert not second.asked.is_set()
        hook.store(str(state / "spool"), ["second", "2", "standby_promote"])
        hook.wake(str(state / "spool"))
        assert second.asked.wait(60)


def test_an_event_wakes_its_own_cluster_only(state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred the others would each ask the journal, and the one that fails over would wait for that.

    A knock that comes when its event has been taken in already wakes all, later.
    """
    monkeypatch.setattr(turns, "NODES_EVERY", 3600.0)
    worker, woken = with_a_second(state), list[list[str]]()
    wake = worker._wake_loops
    monkeypatch.setattr(worker, "_wake_loops", lambda names: (woken.append(sorted(names)), wake(names)))
    with serving(worker):
        soon(lambda: len(worker._loops) == 2)
        hook.store(str(state / "spool"), ["main", *PROMOTED[1:]])
        hook.wake(str(state / "spool"))
        journal = Journal(state / "journal.db")
        soon(lambda: any(run.cause == "event" for run in journal.runs(9)))
        journal.close()
        soon(lambda: woken)  # the cluster may be quicker than the worker that wakes it
        assert "second" not in woken[0], "and none, if it has found the event by itself by then"


@pytest.mark.parametrize("interval", [5, 0], ids=["taken out", "not looked at any more"])
def test_a_look_that_ends_when_its_cluster_has_been_taken_out_is_forgotten(
    state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch, interval: int
) -> None:
    """Its nodes are gone, so a look takes long; keepalived would wait for the next one, and give the address away."""
    second = Stuck()
    system = lambda conninfos, *more: second if "10.0.1.11" in str(conninfos) else host  # noqa: E731
    monkeypatch.setattr(module, "LocalHost", system)
    worker = with_a_second(state)
    path, looked = state.parent / "config.yaml", state / "cluster-second.looked"
    with serving(worker):
        try:
            assert second.asked.wait(60)
            before = worker._loops
            ending = before["second"]
            text = path.read_text().replace("monitor_interval: 5", f"monitor_interval: {interval}")
            path.write_text(text.replace(SECOND, "") if interval else text)
            worker._reload = True
            assert hook.wake(str(state / "spool"))
            soon(lambda: worker._loops is not before and any(loop.is_alive() for loop in worker._loops.values()))
        finally:
            second.let_go.set()
        ending.join(60)
        assert not ending.is_alive()
        assert not looked.exists()


def test_systemd_is_told_that_it_is_ready_and_alive(
    worker: WithoutSignals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        worker.serve(once=True)
        assert systemd.recv(100) == b"READY=1"
        assert systemd.recv(100) == b"WATCHDOG=1"


# -- floods ------------------------------------------------------------------------------------------------------------


def test_a_failover_is_followed_while_the_spool_is_never_empty(state: Path, host: FakeHost) -> None:
    """Whoever may write events can write them faster than they can be taken in."""
    spool, over = str(state / "spool"), threading.Event()

    def flood() -> None:
        number = 0
        while not over.is_set():
            number += 1
            (state / "spool" / f"{number:020d}-1").write_text("\n1\nstandby_promote\n")

    for number in range(2000):
        (state / "spool" / f"{number:020d}-2").write_text("\n1\nstandby_promote\n")
    flooding = threading.Thread(target=flood)
    worker = ticking(state, 5)
    flooding.start()
    try:
        with serving(worker):
            soon(lambda: healed(host))
            assert hook.wake(spool)
    finally:
        over.set()
        flooding.join(60)


def test_of_too_many_events_the_oldest_are_dropped_and_the_cluster_is_looked_at(
    worker: WithoutSignals, state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(intake, "MOST", 10)
    monkeypatch.setattr(intake, "PER_SECOND", 0)
    for number in range(1000):
        (state / "spool" / f"{number:020d}-1").write_text("\n2\nrepmgrd_start\n")
    worker._intake = intake.Intake(state)
    worker.serve(once=True)
    assert "990 event(s) more than can be taken in were dropped unread" in caplog.text
    assert healed(host), "by a look: no event says so"
    journal = Journal(state / "journal.db")
    names = [name for (name,) in journal.read("select spooled from event order by id")]
    assert names == [f"{number:020d}-1" for number in range(990, 1000)]
    journal.close()


# -- a state directory that cannot be used -----------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["no spool", "no state directory", "a file in its place"])
def test_without_spool_and_journal_a_failover_is_followed(
    state: Path, host: FakeHost, broken: str, caplog: Any
) -> None:
    worker = ticking(state, 5)
    if broken == "no spool":
        (state / "spool").rmdir()
        (state / "spool").touch()
    else:
        shutil.rmtree(state)
    if broken == "a file in its place":
        state.touch()
    with serving(worker):
        soon(lambda: healed(host))
    if broken == "a file in its place":
        for said in (
            "no lock can be taken",
            "the spool .* cannot be",
            "is not a directory|the journal .* cannot be used",
        ):
            assert re.search(said, caplog.text), said


def test_a_run_that_is_to_end_ends_although_the_spool_was_exchanged(
    state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root starts it for an event; it would look again for ever, and keep the service waiting."""

    def refused(*_: object) -> int:
        raise OperationFailed("the spool cannot be used: it is a link")

    monkeypatch.setattr(intake.Spool, "take_in", refused)
    ending = threading.Thread(target=lambda: ticking(state, 5).serve(once=True), daemon=True)
    ending.start()
    ending.join(60)
    assert not ending.is_alive()
    assert healed(host)


def test_a_spool_that_comes_back_is_listened_at_again(
    worker: WithoutSignals, state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_ROUND", 0.05)
    monkeypatch.setattr(intake, "OPEN_AGAIN", 0.05)
    with serving(worker):
        soon(lambda: hook.wake(str(state / "spool")))
        (state / "spool").rename(state / "away")  # to empty it would be a race with who makes the FIFO anew
        shutil.rmtree(state / "away")
        time.sleep(0.2)
        (state / "spool").mkdir(exist_ok=True)
        soon(lambda: hook.wake(str(state / "spool")))
        hook.store(str(state / "spool"), PROMOTED)
        soon(lambda: list((state / "spool").glob("0*")) == [])


# -- nothing stands still unseen ---------------------------------------------------------------------------------------


@pytest.fixture
def beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What systemd would hear."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(0.5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield systemd


def beaten(systemd: socket.socket) -> bool:
    """Whether a beat comes, of those that are sent from now on."""
    systemd.setblocking(False)
    with suppress(BlockingIOError):
        while True:
            systemd.recv(100)
    systemd.settimeout(0.5)
    try:
        return systemd.recv(100) == b"WATCHDOG=1"
    except TimeoutError:
        return False


def test_a_loop_that_stands_still_is_seen_by_the_watchdog(
    state: Path, monkeypatch: pytest.MonkeyPatch, beats: socket.socket, caplog: Any
) -> None:
    stuck = Stuck()
    monkeypatch.setattr(module, "LocalHost", lambda conninfos, *_: stuck)
    monkeypatch.setattr(module, "LOOK_ROUND", 0.05)
    worker = ticking(state, 5)
    with serving(worker):
        assert stuck.asked.wait(60)
        soon(lambda: beaten(beats))
        monkeypatch.setattr(heartbeat, "ALLOWED", -1.0)
        worker._loops["main"]._queue.progress.expect()
        soon(lambda: "the worker of cluster main makes no progress" in caplog.text)
        soon(lambda: not beaten(beats))
        monkeypatch.undo()
        stuck.let_go.set()


@pytest.mark.parametrize("error", [SystemExit(0), GeneratorExit(), MemoryError(), ZeroDivisionError()])
def test_no_exception_ends_a_loop(
    worker: WithoutSignals, state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    raised: list[int] = []

    def broken(self: ClusterController) -> float:
        raised.append(1)
        if len(raised) == 1:
            raise error
        return work(self)

    work = ClusterController.work
    monkeypatch.setattr(ClusterController, "work", broken)
    with serving(worker):
        soon(lambda: bool(raised))
        hook.store(str(state / "spool"), PROMOTED)
        soon(lambda: hook.wake(str(state / "spool")))
        soon(lambda: healed(host))


def test_a_loop_that_has_ended_ends_the_service(
    worker: WithoutSignals, monkeypatch: pytest.MonkeyPatch, host: FakeHost
) -> None:
    monkeypatch.setattr(module, "LOOK_ROUND", 0.05)
    monkeypatch.setattr(Loop, "run", lambda self: None)
    with pytest.raises(OperationFailed, match="the worker of cluster main has ended; systemd starts it anew"):
        worker.serve()


def test_a_loop_that_does_not_end_does_not_keep_the_service_from_ending(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck()
    monkeypatch.setattr(module, "LocalHost", lambda conninfos, *_: stuck)
    monkeypatch.setattr(module, "STOP_LIMIT", 0.2)
    monkeypatch.setattr(module, "STOP_ROUND", 0.05)
    worker = ticking(state, 5)
    threading.Thread(target=lambda: stuck.asked.wait(60) and worker.stop()).start()
    with pytest.raises(OperationFailed, match="the worker of cluster main does not end"):
        worker.serve()
    stuck.let_go.set()


@pytest.mark.parametrize("short", ["SPARE_FILES", "SPARE_MEMORY"])
def test_a_service_that_has_run_out_of_something_ends(
    worker: WithoutSignals, host: FakeHost, monkeypatch: pytest.MonkeyPatch, short: str
) -> None:
    """What it would do now cannot work: it starts programs, and connects."""
    for each in (module, exhaustion):
        monkeypatch.setattr(each, "SHORT_OF", 0.05)
    monkeypatch.setattr(exhaustion, short, 2**50 if short == "SPARE_MEMORY" else resource.getrlimit(FILES)[0])
    with pytest.raises(OperationFailed, match="this process cannot go on .*; systemd starts it anew"):
        worker.serve()


def test_a_configuration_that_is_read_again_leaves_nothing_behind(
    worker: WithoutSignals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LocalHost", LocalHost)
    monkeypatch.setattr(module, "LOOK_ROUND", 0.05)

    def read_again() -> None:
        worker._reload = True
        soon(lambda: not worker._reload and worker._loops.get("main") is not None)

    def held() -> tuple[int, int]:
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    with serving(worker):
        soon(lambda: bool(worker._loops))
        read_again()
        soon(lambda: len(worker._loops) == 1)
        before = held()
        for _ in range(READINGS):
            read_again()
        # What looks and probes have in hand comes and goes, and one thread begins with the first of them.
        soon(lambda: all(now - then < READINGS // 2 for now, then in zip(held(), before, strict=True)))


def test_the_address_that_says_which_barman_is_ours_comes_late(
    state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the network of a gateway is slower than the service."""
    monkeypatch.setattr(module, "LOOK_ROUND", 0.05)
    own: list[str] = []
    monkeypatch.setattr(config, "route_to", lambda address: Route(address in own))
    path = state.parent / "config.yaml"
    path.write_text(TWO_GATEWAYS.replace("/var/lib/repmgr-hooks", str(state)))
    worker = WithoutSignals(path)

    def slot() -> str | None:
        barman = worker._config.clusters["main"].cluster.barman
        return barman.slot_name if barman else None

    with serving(worker):
        soon(lambda: bool(worker._loops))
        assert slot() == ""
        own.append("10.0.0.22")
        soon(lambda: slot() == "barman_2")


def test_a_hold_of_a_cluster_that_is_taken_out_of_the_configuration_ends_all_the_same(
    state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_ROUND", 0.05)
    path = state.parent / "config.yaml"
    one = CONFIG.replace("/var/lib/repmgr-hooks", str(state))
    path.write_text(one + SECOND)
    worker = WithoutSignals(path)
    with serving(worker):
        soon(lambda: len(worker._loops) == 2)
        cluster = worker._config.clusters["second"].cluster
        path.write_text(one)
        worker._reload = True
        soon(lambda: len(worker._loops) == 1)
        gone = Holder(2**22, 1, "a boot before this one")
        holds.write(cluster, Hold("second", gone, 0.0, 0.0, 30.0, (), 1, 1, "a switchover to node 2"))
        soon(lambda: holds.read(cluster) is None)


@pytest.mark.slow
def test_a_configuration_that_is_read_again_and_again_while_a_step_is_taken(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the loop that takes the step, and the newest, are left; and the step is waited for at the end."""
    stuck = Stuck()
    monkeypatch.setattr(module, "LocalHost", lambda conninfos, *_: stuck)
    monkeypatch.setattr(module, "LOOK_ROUND", 0.05)
    path = state.parent / "config.yaml"
    path.write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(state)))
    worker = WithoutSignals(path)
    with serving(worker):
        assert stuck.asked.wait(60)
        first = worker._loops["main"]
        for _ in range(20):
            worker._reload = True
            soon(lambda: not worker._reload)
        soon(lambda: sum(thread.name == "main" for thread in threading.enumerate()) == 2)
        worker._stopping.set()
        time.sleep(0.5)
        assert first.is_alive()
        stuck.let_go.set()
    assert not first.is_alive()


def test_when_the_configuration_is_read_again_no_cluster_waits_for_the_step_of_another(
    state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Stuck()
    system = lambda conninfos, *_: stuck if "10.0.1.11" in conninfos.get(1, "") else host  # noqa: E731
    monkeypatch.setattr(module, "LocalHost", system)
    monkeypatch.setattr(module, "LOOK_ROUND", 0.05)
    path = state.parent / "config.yaml"
    path.write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(state)) + SECOND)
    host.nodes[2].reachable = False
    worker = WithoutSignals(path)
    with serving(worker):
        assert stuck.asked.wait(60)
        before = worker._loops
        soon(lambda: before["main"].idle())
        host.nodes[2].reachable = True
        worker._reload = True
        soon(lambda: healed(host))
        assert before["second"].is_alive()
        stuck.let_go.set()
        soon(lambda: not before["second"].is_alive())
