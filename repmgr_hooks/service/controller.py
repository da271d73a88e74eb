"""What is done for one cluster, and when: one run for all events that are due, and when a failed run is tried again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from repmgr_hooks import clock
from repmgr_hooks.alerts.evaluator import AlertEvaluator, Listener, Nobody
from repmgr_hooks.cluster.decide import PrimaryDecision, last_known_of
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import as_remembered
from repmgr_hooks.config import Config
from repmgr_hooks.engine import dispatcher
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import RunObserver, RunResult
from repmgr_hooks.errors import LockTimeout, OperationFailed, Stopped
from repmgr_hooks.event import Event, RoleClaim
from repmgr_hooks.journal.heartbeat import Progress
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.last_seen import Publisher
from repmgr_hooks.journal.maintenance import Pause
from repmgr_hooks.journal.pauses import known, lasts
from repmgr_hooks.journal.rows import Due, Place, RunRow, Waiting
from repmgr_hooks.lock import LOCK_WAIT, exclusive, lock_name
from repmgr_hooks.log import about, hint
from repmgr_hooks.service import recorder
from repmgr_hooks.service.guard import SwitchoverGuard
from repmgr_hooks.service.monitor import Monitor
from repmgr_hooks.service.prober import NoProber, Prober
from repmgr_hooks.service.run_turns import RUNS
from repmgr_hooks.service.seen import Shown
from repmgr_hooks.service.turns import until_retry
from repmgr_hooks.service.wal_verifier import WalVerifier
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

JOURNAL_BROKEN, BUSY = 30.0, 5.0
SHOWN = 100
"""So many events of a run are named in each line of the log for a collector."""
NOBODY, NO_PROBER = Nobody(), NoProber()
T = TypeVar("T")


class ClusterController:
    """Runs what is due; every state that matters is in the journal, so a new one carries on where the last ended.

    While the journal cannot be used, what it said last is what counts, and the looks go on.
    """

    def __init__(
        self,
        managed: ManagedCluster,
        journal: Journal,
        host: Host,
        loaded: Config,
        listener: Listener = NOBODY,
        prober: Prober | NoProber = NO_PROBER,
        publisher: Publisher | None = None,
    ) -> None:
        self.name = managed.cluster.name
        self.stopping = threading.Event()
        self.pausing = threading.Event()
        """Set when a pause has begun: a run ends after the step that it is taking."""
        self.blind = threading.Event()
        """Set when events may have been lost: look after the cluster without them."""
        self.progress = Progress()
        self._managed, self._journal, self._host, self._config = managed, journal, host, loaded
        self._tick = loaded.service.monitor_interval
        self._monitor = Monitor(managed, host, self._tick, self.progress, len(loaded.clusters))
        self.stirred = self._monitor.stirred
        self._guard = SwitchoverGuard(managed.cluster, journal, self._monitor, host)
        self._alerts = AlertEvaluator(managed, host, loaded.service.retry.max_attempts, listener)
        self._prober, self._verifier = prober, WalVerifier(managed, journal, host, loaded)
        self._shown = Shown(managed, self._tick, self.progress, publisher, self._monitor.absence, loaded.state_dir)
        self.looked: PrimaryDecision | None = None
        """What the last look has decided, if it found nothing for a run to do."""
        self._owes_look = False
        """Events came in, and the cluster was not looked at without them since: they may be many, and all lie."""
        self._last_known = LastKnownPrimary()
        self._unwritten: LastKnownPrimary | None = None
        """What the journal could not be told yet."""
        self._pause: Pause | None = None
        self._pause_was_read = False
        self._last: tuple[RunRow, set[Place]] | None = None
        """The last run, and what it has notified, if the journal could not be told."""
        self._broken = False
        """Whether the journal could not be used just now."""
        self._say_again = self._take_again = host.now()
        self._begun = clock.wall()
        self._remind()

    def work(self) -> float:
        """Run all that is due, and return the seconds until something else may be."""
        with about(cluster=self.name, named=len(self._config.clusters) > 1):
            wait = self._work()
            return min(wait, JOURNAL_BROKEN) if self._broken else wait

    def glance(self) -> float:
        """Look at the nodes alone; return for how many seconds the rest may wait: 0 if anything is to be done."""
        due, known = self._due(), self._last_known
        idle = self._tick and not (due.pause or due.waiting or due.last)
        return self._tick if idle and self._shown.is_as_remembered(known, self._host) else 0.0

    def _work(self) -> float:
        self._broken = False
        try:
            self._guard.look()
            while not self.stopping.is_set():
                self.progress.expect()
                self.pausing.clear()
                due = self._due()
                self._prober.resting = due.pause is not None
                if pause := due.pause:
                    looks_again = self._shown.look_only(self._monitor, self._last_known, self._host)
                    self._host.close_idle()
                    return min(recorder.rest_of(self._journal, self.name, pause), looks_again, self._guard.due_in())
                waiting, failed = due.waiting, due.last
                if waiting and not self._owes_look:
                    self._run("event", waiting, failed)
                    self._monitor.look_now(any(item.event.meaning is RoleClaim.TROUBLE for item in waiting))
                    self._owes_look = self._tick > 0
                elif (wait := until_retry(failed, self._config.service.retry, self._begun)) <= 0:
                    self._run("retry", [], failed)
                    self._monitor.look_now()
                elif self._lost_events() or self._look_needs_run(failed, due.known):
                    self._run("drift", [], failed)
                    self._monitor.look_now()
                elif not waiting:
                    seen = (self._prober.failing(), self._monitor.obstacles, self._verifier.found)
                    self._alerts.note(self._monitor.warnings, failed, *seen)
                    return min(wait, self._monitor.due_in(), self._guard.due_in())
        except Stopped as error:
            log.info("%s: %s", self.name, error)
            if not self.stopping.is_set():
                recorder.release_cut_off(self._journal, self.name, self._config.state_dir)
        except LockTimeout as error:
            log.error("%s: %s", self.name, error)
            self._alerts.hindered("lock", error)
            return BUSY
        return 0.0

    def _lost_events(self) -> bool:
        """True if a run must see to it: what looks around by itself only looks at once."""
        if not self.blind.is_set():
            return False
        self.blind.clear()
        self._monitor.look_now(hurry=True)
        return not self._tick

    def _look_needs_run(self, failed: RunRow | None, known: LastKnownPrimary | None) -> bool:
        """Look, if it is time to; True if what is missing is nobody's yet."""
        self._owes_look = False
        if self._monitor.due_in() > 0:
            return False
        self._remind(known)
        if (drift := self._shown.look(self._monitor, self._last_known, self._host)) is None:
            self._alerts.saw(self._monitor.decision)
            return False
        if news := self._monitor.news:
            self._prober.heard(news, as_remembered(drift.decision, self._last_known))
            recorder.saw(self._journal, self.name, news)
        self._alerts.saw(drift.decision)
        self._verifier.look(drift.decision, drift.in_desired_state)
        self._shown.keep(drift, self._monitor, self._prober)
        if drift.in_desired_state:
            self._keep(drift.decision)
            self._agree(drift.decision)
        self.looked = None if (needs_run := drift.needs_run(failed)) else drift.decision
        return needs_run

    # -- the journal ---------------------------------------------------------------------------------------------------

    def _ask(self, question: Callable[[], T]) -> T | None:
        try:
            return question()
        except OperationFailed as error:
            self._cannot_use_journal(error)
            return None

    def _cannot_use_journal(self, error: OperationFailed) -> None:
        self._broken = True
        if (now := self._host.now()) >= self._say_again:
            self._say_again = now + JOURNAL_BROKEN
            log.error("%s: %s; going on without it", self.name, error)
            self._alerts.hindered("journal", error)
            if not self._tick:
                self.blind.set()

    def _due(self) -> Due:
        """Return what is to be done: the last run if it failed and trying again may help, and the events that wait.

        None wait for a while after they were handled, if that could not be noted.
        """
        due = self._ask(lambda: self._journal.due(self.name, self._managed.cluster.flap_limit.window))
        self._read_pause(due)
        pause = self._pause if self._pause and lasts(self._pause) else None
        self._broken |= (late := self._host.now() < self._take_again)
        last = self._last[0] if self._last else due and due.last
        failed = last if last and last.ok is False and last.again else None
        return Due(pause, due.waiting if due and not late else (), failed, due.known if due else None)

    def _read_pause(self, due: Due | None) -> None:
        """Read the pause alone if that is necessary: it may be something else in the journal that is broken."""
        try:
            self._pause, self._pause_was_read = due.pause if due else self._journal.paused(self.name), True
        except OperationFailed:
            if not self._pause_was_read:
                self._pause = known(self._config.state_dir, self.name)

    def _remind(self, known: LastKnownPrimary | None = None) -> None:
        try:
            if self._unwritten:
                self._last_known, known = self._unwritten, None
                self._journal.remember(self.name, self._unwritten)
                self._unwritten = None
            window = self._managed.cluster.flap_limit.window
            self._last_known = known or self._journal.last_known(self.name, window)
        except OperationFailed as error:
            self._cannot_use_journal(error)
        self._last_known = self._shown.absence.considered(self._last_known)

    def _keep(self, decision: PrimaryDecision | None) -> None:
        """Remember the primary with which all agrees; what cannot be written is written when that is possible."""
        primary = decision.primary_state if decision else None
        if primary is not None and last_known_of(primary) != self._last_known:
            self._unwritten = last_known_of(primary)
            self._remind()

    def _agree(self, decision: PrimaryDecision) -> None:
        """Keep which node's branch of the timeline all agrees with, Barman's archive too."""
        if (primary := decision.primary_state) and self._last_known.began.get(primary.timeline) != primary.node:
            self._ask(lambda: self._journal.agreed(self.name, last_known_of(primary)))

    def _notified_by(self, failed: RunRow) -> set[Place]:
        steps = self._ask(lambda: self._journal.steps(failed.id)) or []
        return {step.place for step in steps if not step.error} | (self._last[1] if self._last else set())

    def _begin(self, cause: str, attempt: int, covered: Sequence[Waiting]) -> int | None:
        run = self._ask(lambda: self._journal.begin_run(self.name, cause, attempt, [item.id for item in covered]))
        self._take_again = self._host.now() + (JOURNAL_BROKEN if run is None else 0)
        return run

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _run(self, cause: str, waiting: Sequence[Waiting], failed: RunRow | None) -> None:
        """One run for the events that wait and for what the failed run before was for."""
        covered = [*((self._ask(lambda: self._journal.events_of(failed.id)) if failed else None) or ()), *waiting]
        attempt = failed.attempt + 1 if failed and cause == "retry" else 1
        notified = self._notified_by(failed) if failed else set()
        what = recorder.summary_of([item.event for item in covered]) if covered else f"{cause}, without an event"
        log.info("%s: %s", self.name, what)
        self.looked, lock = None, self._config.state_dir / lock_name(self.name)
        urgent, stops = bool(covered) or self._monitor.sees_another(self._last_known), self._ends_run
        with RUNS.turn(urgent, lambda: stops() or self._due().interrupts, self.progress), exclusive(lock, LOCK_WAIT):
            self._remind()
            started, run = clock.wall(), self._begin(cause, attempt, covered)
            shows = (self._shown.waiting, stops, self._shown.show)
            observer = recorder.JournalRecorder(self._journal, self.name, run, notified, *shows)
            try:
                with about(run=run, events=[item.id for item in covered[-SHOWN:]]):
                    result = self._handle([item.event for item in covered], observer, cause == "drift" or bool(failed))
            finally:
                if observer.committed:
                    self._unwritten = observer.unwritten
            self._prober.primary = result.decision.primary if result.decision else self._prober.primary
            self._prober.kick()
            self._alerts.saw(result.decision)
            row = recorder.ended(run or 0, self.name, cause, attempt, started, result)
            self._last = None if run and recorder.end_run(self._journal, row) else (row, observer.notified)
        if not result.ok and result.again and attempt >= self._config.service.retry.max_attempts:
            log.error("%s: given up after %d attempts", self.name, attempt, extra=hint("repmgr-hooks status"))

    def _ends_run(self) -> bool:
        return self.stopping.is_set() or self.pausing.is_set()

    def _handle(self, events: list[Event], observer: RunObserver, everything: bool) -> RunResult:
        try:
            result = dispatcher.handle(
                self._managed,
                self._host,
                events,
                everything=everything,
                observer=observer,
                last_known=self._last_known,
                closed=self._monitor.closed,
                opened=self._monitor.opened,
            )
            if result.ok:
                self._keep(result.decision)
            return result
        except Stopped:
            raise
        except Exception as error:
            log.exception("%s: a bug in repmgr_hooks; please report it", self.name)
            return recorder.failed_by(error, self._managed)
