"""The service: takes events in, and makes one run after the other for each cluster; clusters work side by side."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Collection
from functools import partial
from pathlib import Path
from types import FrameType

from repmgr_hooks import clock, config
from repmgr_hooks.alerts.notifier import Notifier
from repmgr_hooks.errors import LockTimeout, OperationFailed, UsageError
from repmgr_hooks.hook import wake
from repmgr_hooks.journal.journal import Journal, open_journal
from repmgr_hooks.journal.last_seen import Publisher
from repmgr_hooks.journal.pauses import paused_among
from repmgr_hooks.lock import WORKER_LOCK, exclusive
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.exhaustion import SHORT_OF, still_exhausted
from repmgr_hooks.service.former_keeper import FormerPrimaryKeeper
from repmgr_hooks.service.hold_keeper import HoldKeeper
from repmgr_hooks.service.intake import Intake
from repmgr_hooks.service.loop import Loop
from repmgr_hooks.service.prober import Prober
from repmgr_hooks.service.recorder import release_cut_off
from repmgr_hooks.service.seen import forget_removed
from repmgr_hooks.service.systemd import notify
from repmgr_hooks.service.turns import turns_of, visits_everywhere
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.answers import Answers
from repmgr_hooks.system.host import LOGINS, LocalHost

log = logging.getLogger(__name__)

LOOK_ROUND = 20.0
STOP_ROUND = 5.0
STOP_LIMIT = 130.0
"""Seconds for the steps that are being taken; systemd waits longer (TimeoutStopSec)."""
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
        self._ending: list[Loop] = []
        self._probers: dict[str, Prober] = {}
        self._keepers: list[HoldKeeper] = []
        self._formers: list[FormerPrimaryKeeper] = []
        self._intake = Intake(self._config.state_dir)
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        self._shown = Path(runtime) if runtime else None
        """Where others may read what is seen: systemd's RuntimeDirectory, in memory."""
        self._next_prune = 0.0
        self._next_lost = 0.0
        """When to look at the clusters again because events are lost: a run that is to end must come to rest."""

    def serve(self, once: bool = False) -> None:
        """Work until SIGTERM; with ``once``, until the queue is empty.

        Raises UsageError, LockTimeout, and OperationFailed for what only a new start can put right.
        """
        with contextlib.ExitStack() as stack:
            if not self._lock(stack, once):
                log.info("a worker is already running, and has been woken")
                return
            self._intake.open()
            journal = open_journal(self._config.state_dir / "journal.db", later=True)
            self._notifier = Notifier(journal, LocalHost({}))
            self._listen()
            try:
                self._start_loops(journal)
                notify("READY=1")
                self._work(journal, once)
            finally:
                self._stop_loops()
                self._notifier.close(LAST_WORDS)
                self._intake.close()
                journal.close()

    def _lock(self, stack: contextlib.ExitStack, once: bool) -> bool:
        """Become the one worker; False if one is there that has heard us. Raises LockTimeout."""
        lock = self._config.state_dir / WORKER_LOCK
        end = clock.monotonic() + ONCE_LOCK_WAIT
        while True:
            try:
                stack.enter_context(exclusive(lock, 0.0))
                return True
            except LockTimeout:
                if not once:
                    log.info("another worker is running; waiting for its end, %.0f s at most", LOCK_WAIT)
                    stack.enter_context(exclusive(lock, LOCK_WAIT))
                    return True
                if wake(str(self._config.state_dir / "spool")):
                    return False
                if clock.monotonic() >= end:
                    raise
                clock.sleep(LOCK_POLL)

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

    def _work(self, journal: Journal, once: bool) -> None:
        knocked, short_since = False, None
        while not self._stopping.is_set():
            if self._reload or config.is_out_of_date(self._config):
                self._read_config_again(journal)
            if knocked:
                for name in paused_among(self._loops, journal, self._config.state_dir):
                    self._loops[name].pause()
            taken = self._take_in(journal)
            if taken:
                self._wake_loops(self._concerned(journal))
            elif knocked:
                self._wake_loops(self._loops)
            if once and not taken and all(loop.idle() for loop in self._loops.values()):
                self._intake.deafen()
                if not self._take_in(journal):
                    return
                self._wake_loops(self._loops)
            if self._all_get_on():
                notify("WATCHDOG=1")
            short_since = still_exhausted(short_since)
            wait = 0.0 if taken else 0.1 if once else LOOK_ROUND if short_since is None else SHORT_OF
            knocked = self._intake.wait(wait, self._signalled)

    def _take_in(self, journal: Journal) -> bool:
        """Take some events in, and prune; True if the queues should look. What fails stops nothing."""
        taken = self._intake.take_in(journal, self._config.clusters)
        if taken.lost and clock.monotonic() >= self._next_lost:
            self._next_lost = clock.monotonic() + LOOK_ROUND
            for loop in self._loops.values():
                loop.lost_events()
            self._tell("spool", taken.lost)
        with contextlib.suppress(OperationFailed):  # the queues say so
            self._prune(journal)
        return taken.any

    def _all_get_on(self) -> bool:
        """False if the loop of a cluster stands still; systemd ends us then, for its watchdog is not fed.

        Raises OperationFailed if one has ended, which none does by itself.
        """
        stuck = [name for name, loop in self._loops.items() if loop.stands_still()]
        for name in stuck:
            self._tell(
                "standstill", f"the worker of cluster {name} makes no progress; waiting for systemd to restart it"
            )
        if ended := [name for name, loop in self._loops.items() if not loop.is_alive()]:
            raise OperationFailed(f"the worker of cluster {ended[0]} has ended; systemd starts it anew")
        return not stuck

    def _tell(self, condition: str, what: str) -> None:
        log.error("%s", what)
        for name in self._config.clusters:
            self._notifier.tell(Alert(name, condition, "critical", what, momentary=True))

    def _concerned(self, journal: Journal) -> Collection[str]:
        """Return the clusters for which events wait; all, if that is not known."""
        try:
            return journal.awaited()
        except OperationFailed:
            return self._loops

    def _wake_loops(self, names: Collection[str]) -> None:
        for name in names:
            if loop := self._loops.get(name):
                loop.wake()

    def _prune(self, journal: Journal) -> None:
        if clock.monotonic() > self._next_prune:
            self._next_prune = clock.monotonic() + PRUNE_EVERY
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
        self._config = loaded
        self._start_loops(journal)

    def _start_loops(self, journal: Journal) -> None:
        """Start a loop for each cluster; one that is there already ends first, and no other cluster waits for that."""
        notifier, before, answers = self._notifier, self._loops, Answers()
        notifier.use(self._config.service.alerts, self._config.clusters)
        for loop in before.values():
            loop.stop()
        self._ending = [loop for loop in (*self._ending, *before.values()) if loop.is_alive()]
        self._loops = {}
        self._stop_helpers(self._config.clusters)
        forget_removed(self._config, self._shown)
        starting: list[threading.Thread] = []
        count, everywhere = len(self._config.clusters), visits_everywhere(self._config.clusters.values())
        for number, (name, managed) in enumerate(self._config.clusters.items()):
            noticed = partial(self._stirs, name)
            host = LocalHost(managed.cluster.conninfos(), notifier.tell, noticed, LOGINS, answers)
            # A host of its own: what a client waits for is nothing that a look should wait for.
            client = LocalHost(managed.cluster.conninfos())
            first = turns_of(number, count)
            prober = self._probers[name] = Prober(
                managed, client, journal, client.close_idle, first.clients, everywhere
            )
            self._keepers.append(HoldKeeper(managed, journal, notifier.tell, lambda: LocalHost({})))
            publisher = Publisher(self._shown, name) if self._shown else None
            controller = ClusterController(managed, journal, host, self._config, notifier, prober, publisher)
            if managed.cluster.former_primary:
                keeper = FormerPrimaryKeeper(managed, journal, self._config, controller, notifier.tell)
                self._formers.append(keeper)
                starting.append(keeper)
            release = partial(release_cut_off, journal, name, self._config.state_dir)
            close = partial(self._close, name, host)
            self._loops[name] = Loop(controller, before.get(name), release, close, first)
            starting += [self._keepers[-1], self._loops[name], prober]
        # Not before all are there: they would keep this thread from making the others.
        for thread in starting:
            thread.start()

    def _stirs(self, name: str) -> None:
        if loop := self._loops.get(name):
            loop.stirs()

    def _close(self, name: str, host: LocalHost) -> None:
        """Let go of what a loop has worked with. It may have been in a look when its cluster was taken out."""
        host.close_idle()
        if name not in self._config.clusters or not self._config.service.monitor_interval:
            forget_removed(self._config, self._shown)

    def _stop_helpers(self, clusters: Collection[str] | None = None) -> None:
        """Stop all; but of a cluster that is not among ``clusters`` any more, nobody else would take back a hold."""
        left = [keeper for keeper in self._keepers if clusters is not None and keeper.cluster not in clusters]
        helpers: list[Prober | HoldKeeper | FormerPrimaryKeeper]
        helpers = [*self._probers.values(), *self._keepers, *self._formers]
        for helper in helpers:
            if helper not in left:
                helper.stop()
        self._probers, self._keepers, self._formers = {}, left, []

    def _stop_loops(self) -> None:
        """Raises OperationFailed if one does not end in time."""
        self._stop_helpers()
        loops = [*self._loops.values(), *self._ending]
        for loop in loops:
            loop.stop()
        end = clock.monotonic() + STOP_LIMIT
        while left := [loop for loop in loops if loop.is_alive()]:
            if clock.monotonic() > end:
                raise OperationFailed(f"the worker of cluster {left[0].name} does not end within {STOP_LIMIT:.0f} s")
            notify("WATCHDOG=1")
            left[0].join(STOP_ROUND)
