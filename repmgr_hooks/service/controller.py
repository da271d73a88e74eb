"""The queue of one cluster: which events are due, one run for all of them, and when to try a failed run again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from repmgr_hooks.alerts.evaluator import AlertEvaluator, Listener, Nobody
from repmgr_hooks.cluster.decide import LastKnownPrimary, PrimaryDecision, memory_of
from repmgr_hooks.config import Config
from repmgr_hooks.engine import dispatcher
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import ActionResult, RunObserver, RunResult, ScheduledAction, Show, shown_to_nobody
from repmgr_hooks.errors import LockTimeout, OperationFailed, Stopped
from repmgr_hooks.event import NAMED, Event, RoleClaim
from repmgr_hooks.journal.heartbeat import write_heartbeat
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import Observation, RunRow, StepRow, Waiting
from repmgr_hooks.lock import exclusive, lock_name
from repmgr_hooks.log import about
from repmgr_hooks.service.monitor import Monitor
from repmgr_hooks.settings.backoff import left
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

REST = 3600.0
JOURNAL_BROKEN = 30.0
BUSY = 5.0
LOCK_WAIT = 100.0
NOBODY = Nobody()


class ClusterController:
    """Runs what is due; every state that matters is in the journal, so a new one carries on where the last ended."""

    def __init__(
        self, managed: ManagedCluster, journal: Journal, host: Host, loaded: Config, listener: Listener = NOBODY
    ) -> None:
        self.name = managed.cluster.name
        self.stopping = threading.Event()
        self._managed, self._journal, self._host, self._config = managed, journal, host, loaded
        self._monitor = Monitor(managed, host, loaded.service.monitor_interval)
        self._alerts = AlertEvaluator(managed, host, loaded.service.retry.max_attempts, listener)
        self._memory = LastKnownPrimary()
        """As it was last read, for the time when the journal cannot be."""
        self._unwritten: LastKnownPrimary | None = None
        """What the journal could not be told yet."""
        with suppress(OperationFailed):
            self._remind()

    def work(self) -> float:
        """Run all that is due, and return the seconds until something else may be."""
        with about(cluster=self.name, named=len(self._config.clusters) > 1):
            return self._work()

    def _work(self) -> float:
        try:
            while not self.stopping.is_set():
                if pause := self._journal.paused(self.name):
                    self._host.close_idle()
                    return REST if pause.until is None else max(pause.until - time.time(), 0.0)
                waiting, failed = self._journal.waiting(self.name), self._failed()
                if waiting:
                    self._run("event", waiting, failed)
                    self._monitor.look_now(any(item.event.meaning is RoleClaim.TROUBLE for item in waiting))
                elif (wait := self._until_retry(failed)) <= 0:
                    self._run("retry", [], failed)
                    self._monitor.look_now()
                elif self._sees_work(failed):
                    self._run("drift", [], failed)
                    self._monitor.look_now()
                else:
                    self._alerts.note(self._monitor.warnings, failed)
                    return min(wait, self._monitor.due_in())
        except Stopped as error:
            log.info("%s: %s", self.name, error)
        except LockTimeout as error:
            log.error("%s: %s", self.name, error)
            return BUSY
        except OperationFailed as error:
            log.error("%s: %s", self.name, error)
            self._alerts.journal_is_broken(error)
            self.without_journal()
            return JOURNAL_BROKEN
        return 0.0

    def _sees_work(self, failed: RunRow | None) -> bool:
        if self._monitor.due_in() > 0:
            return False
        self._remind()
        sees_work = self._monitor.sees_work(self._memory, failed)
        write_heartbeat(self._config.state_dir, self.name)
        if self._monitor.news:
            saw(self._journal, self.name, self._monitor.news)
        self._alerts.saw(self._monitor.decision)
        if self._monitor.content:
            remember(self._journal, self.name, self._monitor.decision, self._memory)
            agreed(self._journal, self.name, self._monitor.decision, self._memory)
        return sees_work

    def _remind(self) -> None:
        if self._unwritten:
            self._memory = self._unwritten
            self._journal.remember(self.name, self._unwritten)
            self._unwritten = None
        self._memory = self._journal.memory(self.name, self._managed.cluster.flap_limit.window)

    def _failed(self) -> RunRow | None:
        """Return the last run if it failed and trying again may help."""
        last = self._journal.runs(1, self.name)
        return last[0] if last and last[0].ok is False and last[0].again else None

    def _until_retry(self, failed: RunRow | None) -> float:
        retry = self._config.service.retry
        if failed is None or failed.ended is None or failed.attempt >= retry.max_attempts:
            return REST
        return left(failed.ended, retry.after(failed.attempt), time.time())

    def _run(self, cause: str, waiting: Sequence[Waiting], failed: RunRow | None) -> None:
        """One run for the events that wait and for what the failed run before was for."""
        covered = [*(self._journal.events_of(failed.id) if failed else []), *waiting]
        attempt = failed.attempt + 1 if failed and cause == "retry" else 1
        steps_before = self._journal.steps(failed.id) if failed else []
        notified = {step.action for step in steps_before if not step.error}
        what = summary_of([item.event for item in covered]) if covered else f"{cause}, without an event"
        log.info("%s: %s", self.name, what)
        with exclusive(self._config.state_dir / lock_name(self.name), LOCK_WAIT):
            self._remind()
            run = self._journal.begin_run(self.name, cause, attempt, [item.id for item in covered])
            observer = JournalRecorder(self._journal, self.name, run, self.stopping.is_set, notified)
            everything = cause == "drift" or failed is not None
            with about(run=run, events=[item.id for item in covered]):
                result = self._handle([item.event for item in covered], observer, everything)
            self._alerts.saw(result.decision)
            self._unwritten = observer.unwritten
            end_run(self._journal, run, result)
        if not result.ok and result.again and attempt >= self._config.service.retry.max_attempts:
            log.error("%s: given up after %d attempts; see 'repmgr-hooks status'", self.name, attempt)

    def _handle(self, events: list[Event], observer: RunObserver, everything: bool) -> RunResult:
        try:
            result = dispatcher.handle(
                self._managed, self._host, events, everything=everything, observer=observer, memory=self._memory
            )
            if result.ok:
                remember(self._journal, self.name, result.decision, self._memory)
            return result
        except Stopped:
            raise
        except Exception as error:
            log.exception("%s: a bug in repmgr_hooks; please report it", self.name)
            bug = f"a bug in repmgr_hooks: {error!r}"
            return RunResult(
                False, bug, done=tuple(ActionResult(action, error=bug) for action in self._managed.actions), again=True
            )

    def without_journal(self) -> None:
        """The journal cannot be used, and a failover must not wait for that: make it so, whatever the events said."""
        try:
            with exclusive(self._config.state_dir / lock_name(self.name), LOCK_WAIT):
                observer = RunObserver()
                dispatcher.handle(self._managed, self._host, [], observer=observer, memory=self._memory)
                self._unwritten = observer.committed or self._unwritten
                self._memory = self._unwritten or self._memory
        except OperationFailed as error:
            log.error("%s: %s", self.name, error)


class JournalRecorder(RunObserver):
    """Writes every step into the journal; if that fails, the run goes on all the same."""

    def __init__(self, journal: Journal, name: str, run: int, stopping: Callable[[], bool], notified: set[str]) -> None:
        self._journal, self._name, self._run, self._notified = journal, name, run, notified
        self.stopping = stopping  # type: ignore[method-assign]
        self.unwritten: LastKnownPrimary | None = None

    def commit(self, memory: LastKnownPrimary) -> None:
        """Write it down before the first step: a worker that dies in the middle must not go back."""
        super().commit(memory)
        try:
            self._journal.remember(self._name, memory)
        except OperationFailed as failure:
            self.unwritten = memory
            log.error("%s", failure)

    def step(self, action: str, what: str, started: float, duration: float, error: str) -> None:
        """Write it down."""
        try:
            self._journal.add_step(self._run, StepRow(action, what, started, duration, error))
        except OperationFailed as failure:
            log.error("%s", failure)

    def done_before(self, chosen: ScheduledAction) -> bool:
        """True for a notification that an earlier attempt has given for the same event."""
        if chosen.action.handler.observe or chosen.name not in self._notified:
            return False
        self.step(chosen.name, "done before", time.time(), 0.0, "")
        return True


def run_now(
    managed: ManagedCluster,
    host: Host,
    events: list[Event],
    cause: str,
    journal: Journal | None,
    waiting: Show = shown_to_nobody,
) -> RunResult:
    """One run in the foreground, journalled if there is a journal. The caller holds the cluster's lock."""
    unwritten = RunObserver()
    unwritten.waiting = waiting
    if journal is None:
        return dispatcher.handle(managed, host, events, observer=unwritten)
    name = managed.cluster.name
    memory = LastKnownPrimary()
    try:
        memory = journal.memory(name)
        numbers = [journal.add_event(name, event, time.time(), by_hand=cause != "event") for event in events]
        run = journal.begin_run(name, cause, 1, numbers)
        memory = journal.memory(name)
    except OperationFailed as error:
        log.error("%s; going on without it", error)
        return dispatcher.handle(managed, host, events, observer=unwritten, memory=memory)
    observer = JournalRecorder(journal, name, run, lambda: False, set())
    observer.waiting = waiting
    with about(run=run, events=numbers):
        result = dispatcher.handle(managed, host, events, observer=observer, memory=memory)
    if result.ok:
        remember(journal, name, result.decision, memory)
    end_run(journal, run, result)
    return result


def remember(journal: Journal, name: str, decision: PrimaryDecision | None, known: LastKnownPrimary) -> None:
    """Keep which primary all agrees with; if that fails, say so."""
    primary = decision.primary_state if decision else None
    if primary is None or memory_of(primary) == known:
        return
    try:
        journal.remember(name, memory_of(primary))
    except OperationFailed as failure:
        log.error("%s", failure)


def agreed(journal: Journal, name: str, decision: PrimaryDecision | None, known: LastKnownPrimary) -> None:
    """Keep which node's branch of the timeline all agrees with, Barman too; if that fails, say so."""
    primary = decision.primary_state if decision else None
    if primary is None or known.began.get(primary.timeline) == primary.node:
        return
    try:
        journal.agreed(name, memory_of(primary))
    except OperationFailed as failure:
        log.error("%s", failure)


def saw(journal: Journal, name: str, news: Observation) -> None:
    """Keep what a look has seen; if that fails, say so."""
    try:
        journal.saw(name, news)
    except OperationFailed as failure:
        log.error("%s", failure)


def end_run(journal: Journal, run: int, result: RunResult) -> None:
    """Close a run in the journal; if that fails, say so."""
    decision = result.decision
    try:
        primary, timeline = (decision.primary, decision.timeline) if decision else (None, 0)
        left = [item.action.title for item in result.done if item.error]
        journal.end_run(run, result.ok, result.again, result.message, primary, timeline, left)
    except OperationFailed as failure:
        log.error("%s", failure)


def summary_of(events: Sequence[Event]) -> str:
    """Name the events of a run, few or many."""
    if len(events) <= NAMED:
        return ", ".join(str(event) for event in events) or "reconcile"
    return f"{len(events)} events, the last of them {events[-1]}"
