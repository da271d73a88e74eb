"""The service in this process, with a fake world and without its signals (those are in ``tests/endtoend``)."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from repmgr_hooks import hook
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.lock import exclusive
from repmgr_hooks.service import worker as module
from repmgr_hooks.service.worker import Worker
from repmgr_hooks.system.steps import Rows, Sql
from tests.fake import FakeHost

CONFIG = (Path(__file__).resolve().parents[3] / "config/config.yaml").read_text()
PROMOTED = ["", "2", "standby_promote"]
NODE_2 = "10.0.0.12:5432"


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
    monkeypatch.setattr(module, "LocalHost", lambda conninfos, tell=None: made)
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
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


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
        serving.join(10)
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
        serving.join(10)
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


@pytest.mark.parametrize("broken", ["release_cut_off", "add_event", "prune"])
def test_a_journal_that_cannot_be_written_does_not_stop_a_failover(
    worker: WithoutSignals, state: Path, host: FakeHost, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """``queue.py`` says that a failover must not wait for the journal; the worker must live long enough for that."""
    journal = Broken(state / "journal.db")
    journal.broken = broken
    monkeypatch.setattr(module, "open_journal", lambda path: journal)
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
        end = time.monotonic() + 0.3
        while time.monotonic() < end and not (ended or healed(host)):
            time.sleep(0.01)
        time.sleep(0.05)
        assert ended == []
        assert healed(host)
    finally:
        worker.stop()
        serving.join(10)


def test_a_journal_that_cannot_be_opened_does_not_stop_a_failover(
    worker: WithoutSignals, state: Path, host: FakeHost
) -> None:
    """It may be somebody else's since a restore; the event stays in the spool, and the service ends, to begin anew."""
    (state / "journal.db").mkdir()
    hook.store(str(state / "spool"), PROMOTED)
    with pytest.raises(OperationFailed, match="the journal .* cannot be used"):
        worker.serve(once=True)
    assert healed(host)
    assert len(list((state / "spool").glob("0*"))) == 1


class Stuck(FakeHost):
    """A cluster whose nodes give no answer until they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.let_go = threading.Event(), threading.Event()

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        self.asked.set()
        self.let_go.wait(20)
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
    system = lambda conninfos, tell=None: stuck if "10.0.1.11" in conninfos.get(1, "") else host  # noqa: E731
    monkeypatch.setattr(module, "LocalHost", system)
    path = state.parent / "config.yaml"
    path.write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(state)) + SECOND)
    hook.store(str(state / "spool"), ["second", "2", "standby_promote"])
    worker = WithoutSignals(path)
    thread = threading.Thread(target=worker.serve)
    thread.start()
    try:
        assert stuck.asked.wait(10)
        hook.store(str(state / "spool"), ["main", *PROMOTED[1:]])
        hook.wake(str(state / "spool"))
        soon(lambda: healed(host))
        assert not stuck.let_go.is_set()
    finally:
        stuck.let_go.set()
        worker.stop()
        thread.join(20)
    assert not thread.is_alive()


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
