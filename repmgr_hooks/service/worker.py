"""The service: takes events in, and makes one run after the other for each cluster; clusters work side by side."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
import time
from pathlib import Path
from types import FrameType

from repmgr_hooks import config
from repmgr_hooks.alerts.notifier import Notifier
from repmgr_hooks.errors import LockTimeout, OperationFailed, UsageError
from repmgr_hooks.hook import wake
from repmgr_hooks.journal.journal import Journal, open_journal
from repmgr_hooks.lock import as_owner, exclusive, lock_name
from repmgr_hooks.service.controller import JOURNAL_BROKEN, ClusterController, run_now
from repmgr_hooks.service.prober import Prober
from repmgr_hooks.service.spool import Spool, make_spool
from repmgr_hooks.system.host import LocalHost

log = logging.getLogger(__name__)

LOOK_ROUND = 20.0
PRUNE_EVERY = 3600.0
LOCK_WAIT = 80.0
"""Seconds for the worker that ``event`` has started, because repmgrd was there before the service: at boot, say.

systemd waits 90 s for us (systemd-system.conf(5), DefaultTimeoutStartSec).
"""
ONCE_LOCK_WAIT = 900.0
LOCK_POLL = 0.2
LAST_WORDS = 2.0
"""Seconds for what is still to be told: the next worker waits for this one, and tells the rest."""


class Worker:
    """One per state directory; the lock sees to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._config = config.load(path)
        self._signalled, self._signal = os.pipe()
        os.set_blocking(self._signal, False)
        self._stopping = threading.Event()
        self._reload = False
        self._loops: dict[str, Loop] = {}
        self._probers: dict[str, Prober] = {}
        self._next_prune = 0.0

    def serve(self, once: bool = False) -> None:
        """Work until SIGTERM; with ``once``, until the queue is empty. Raises OperationFailed, UsageError."""
        with contextlib.ExitStack() as stack:
            if not self._lock(stack, once):
                log.info("a worker is there already, and has been woken")
                return
            make_spool(self._config.state_dir / "spool")
            with as_owner(self._config.state_dir):
                spool = Spool(self._config.state_dir)
            try:
                journal = open_journal(self._config.state_dir / "journal.db")
            except OperationFailed as error:
                log.error("%s; going on without it", error)
                self._work_without_journal()
                time.sleep(0 if once else JOURNAL_BROKEN)
                raise
            self._notifier = Notifier(journal, LocalHost({}))
            self._listen()
            try:
                self._work(spool, journal, once)
            finally:
                self._stop_loops()
                self._notifier.close(LAST_WORDS)
                spool.close()
                journal.close()

    def _work_without_journal(self) -> None:
        """Make it so, whatever the events said, as ``boot`` does; the next start may find the journal mended."""
        for name, managed in self._config.clusters.items():
            with contextlib.suppress(OperationFailed), exclusive(self._config.state_dir / lock_name(name), 0.0):
                run_now(managed, LocalHost(managed.cluster.conninfos()), [], "boot", None)

    def _lock(self, stack: contextlib.ExitStack, once: bool) -> bool:
        """Become the one worker; False if one is there that has heard us. Raises Busy."""
        lock = self._config.state_dir / "worker.lock"
        end = time.monotonic() + ONCE_LOCK_WAIT
        while True:
            try:
                stack.enter_context(exclusive(lock, 0.0))
                return True
            except LockTimeout:
                if not once:
                    log.info("another worker is there; waiting for its end, %.0f s at most", LOCK_WAIT)
                    stack.enter_context(exclusive(lock, LOCK_WAIT))
                    return True
                if wake(str(self._config.state_dir / "spool")):
                    return False
                if time.monotonic() >= end:
                    raise
                time.sleep(LOCK_POLL)

    def _listen(self) -> None:
        signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            self._reload = True
        else:
            self._stopping.set()

    def _work(self, spool: Spool, journal: Journal, once: bool) -> None:
        self._take_in(spool, journal)
        self._start_loops(journal)
        notify("READY=1")
        knocked = False
        while not self._stopping.is_set():
            if self._reload:
                self._read_config_again(journal)
            taken = self._take_in(spool, journal)
            if taken or knocked:
                self._wake_loops()
            if once and all(loop.idle() for loop in self._loops.values()):
                spool.deafen()
                if not self._take_in(spool, journal):
                    return
                self._wake_loops()
            notify("WATCHDOG=1")
            knocked = spool.wait(0.1 if once else LOOK_ROUND, self._signalled)

    def _take_in(self, spool: Spool, journal: Journal) -> bool:
        """Take events in, and prune; True if the queues should look. A journal that fails stops nothing."""
        try:
            taken = spool.take_in(journal, self._config.clusters)
            self._prune(journal)
        except OperationFailed as error:
            log.error("%s; the events stay in the spool, and every cluster is looked after without them", error)
            for loop in self._loops.values():
                loop.blind.set()
            return True
        return taken > 0

    def _busy(self, name: str) -> bool:
        try:
            with exclusive(self._config.state_dir / lock_name(name), 0.0):
                return False
        except OperationFailed:
            return True

    def _wake_loops(self) -> None:
        for loop in self._loops.values():
            loop.wake()

    def _prune(self, journal: Journal) -> None:
        if time.monotonic() > self._next_prune:
            self._next_prune = time.monotonic() + PRUNE_EVERY
            journal.prune(self._config.service.retention_days)

    def _read_config_again(self, journal: Journal) -> None:
        self._reload = False
        try:
            loaded = config.load(self._path)
        except UsageError as error:
            log.error("the configuration is wrong, the old one stays in force: %s", error)
            return
        if loaded.state_dir != self._config.state_dir:
            log.error("'state_dir' has changed: restart the service for that; the old configuration stays in force")
            return
        log.info("the configuration has been read again")
        self._stop_loops()
        self._config = loaded
        self._start_loops(journal)

    def _start_loops(self, journal: Journal) -> None:
        try:
            if released := journal.release_cut_off([name for name in self._config.clusters if self._busy(name)]):
                log.warning("%d event(s) of a run that was cut off are taken up again", released)
        except OperationFailed as error:
            log.error("%s", error)
        notifier = self._notifier
        notifier.use(self._config.service.alerts, self._config.clusters)
        # A host of its own: what a client waits for is nothing that a look should wait for.
        self._probers = {
            name: Prober(managed, LocalHost(managed.cluster.conninfos()), journal)
            for name, managed in self._config.clusters.items()
        }
        self._loops = {
            name: Loop(
                ClusterController(
                    managed,
                    journal,
                    LocalHost(managed.cluster.conninfos(), notifier.tell),
                    self._config,
                    notifier,
                    self._probers[name],
                )
            )
            for name, managed in self._config.clusters.items()
        }
        for thread in (*self._loops.values(), *self._probers.values()):
            thread.start()

    def _stop_loops(self) -> None:
        for prober in self._probers.values():
            prober.stop()
        for loop in self._loops.values():
            loop.stop()
        for loop in self._loops.values():
            while loop.is_alive():
                notify("WATCHDOG=1")
                loop.join(LOOK_ROUND)


class Loop(threading.Thread):
    """Runs the queue of one cluster whenever something is due."""

    def __init__(self, queue: ClusterController) -> None:
        super().__init__(name=queue.name)
        self._queue = queue
        self._woken = threading.Event()
        self._resting = threading.Event()
        self.blind = threading.Event()
        """Set when the journal cannot be written: look after the cluster without it."""

    def wake(self) -> None:
        """Look at the queue now."""
        self._resting.clear()
        self._woken.set()

    def stop(self) -> None:
        """End after the current step."""
        self._queue.stopping.set()
        self._woken.set()

    def idle(self) -> bool:
        """True when nothing runs and nothing waits (a retry later on does not count)."""
        return self._resting.is_set() and not self._woken.is_set()

    def run(self) -> None:
        """Work until stopped."""
        while not self._queue.stopping.is_set():
            self._woken.clear()
            try:
                if self.blind.is_set():
                    self.blind.clear()
                    self._queue.without_journal()
                wait = self._queue.work()
            except Exception:
                log.exception("%s: a bug in repmgr_hooks; please report it", self.name)
                wait = LOOK_ROUND
            if not self._woken.is_set():
                self._resting.set()
            self._woken.wait(wait)
            self._resting.clear()


def notify(state: str) -> None:
    """Tell systemd (sd_notify(3)); nothing happens without it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel, contextlib.suppress(OSError):
            channel.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
