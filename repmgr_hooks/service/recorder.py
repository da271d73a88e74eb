"""Writes down what a run does; a journal that cannot be used stops none."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import PrimaryDecision, last_known_of
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import ActionResult, RunObserver, RunResult, ScheduledAction, Show
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.event import NAMED, Event
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.maintenance import Pause
from repmgr_hooks.journal.rows import Failed, Observation, Place, RunRow, StepRow
from repmgr_hooks.lock import is_free, lock_name
from repmgr_hooks.service.turns import REST
from repmgr_hooks.system.steps import Step

log = logging.getLogger(__name__)


class JournalRecorder(RunObserver):
    """Writes every step into the journal, if it has the run (``run``); if that fails, the run goes on all the same."""

    def __init__(
        self,
        journal: Journal,
        name: str,
        run: int | None,
        notified: set[Place],
        waiting: Show,
        stopping: Callable[[], bool] = lambda: False,
        show: Callable[[PrimaryDecision], None] = lambda decision: None,
    ) -> None:
        super().__init__(waiting, stopping)
        self._journal, self._name, self._run, self._show = journal, name, run, show
        self.notified = notified
        """The notifications that this run, or an attempt before it, has given."""
        self.unwritten: LastKnownPrimary | None = None

    def looked(self, decision: PrimaryDecision) -> None:
        """Show it to others."""
        self._show(decision)

    def commit(self, last_known: LastKnownPrimary) -> None:
        """Write it down before the first step: a worker that dies in the middle must not go back."""
        super().commit(last_known)
        try:
            self._journal.remember(self._name, last_known)
        except OperationFailed as failure:
            self.unwritten = last_known
            log.error("%s", failure)

    def step(
        self, chosen: ScheduledAction, step: Step, started: float, duration: float, problem: Problem | None
    ) -> None:
        """Write it down."""
        wrong = (problem.message, problem.code, problem.hint) if problem else ()
        kind, target, node = step.kind, step.target, step.node
        self._add(StepRow(chosen.place, kind, target, node, step.what, started, duration, *wrong))

    def _add(self, row: StepRow) -> None:
        if not row.error:
            self.notified.add(row.place)
        if self._run is None:
            return
        try:
            self._journal.add_step(self._run, row)
        except OperationFailed as failure:
            log.error("%s", failure)

    def done_before(self, chosen: ScheduledAction) -> bool:
        """True for a notification that an earlier attempt has given for the same event."""
        if chosen.action.handler.observe or chosen.place not in self.notified:
            return False
        self._add(StepRow(chosen.place, "done_before", "", None, "done before", clock.wall(), 0.0))
        return True


def remember(journal: Journal, name: str, decision: PrimaryDecision | None, known: LastKnownPrimary) -> None:
    """Keep which primary all agrees with; if that fails, say so."""
    primary = decision.primary_state if decision else None
    if primary is None or last_known_of(primary) == known:
        return
    try:
        journal.remember(name, last_known_of(primary))
    except OperationFailed as failure:
        log.error("%s", failure)


def saw(journal: Journal, name: str, news: Observation) -> None:
    """Keep what a look has seen; if that fails, say so."""
    try:
        journal.saw(name, news)
    except OperationFailed as failure:
        log.error("%s", failure)


def end_run(journal: Journal, row: RunRow) -> bool:
    """Close a run in the journal; if that fails, say so, and return False."""
    try:
        how = (row.message, row.primary, row.timeline or 0, row.code, row.hint, row.left)
        journal.end_run(row.id, bool(row.ok), row.again, *how)
        return True
    except OperationFailed as failure:
        log.error("%s", failure)
        return False


def release_cut_off(journal: Journal, name: str, state_dir: Path) -> None:
    """Let the events of a run that was cut off wait again. Of runs by hand, one may still be under way."""
    try:
        busy = [] if is_free(state_dir / lock_name(name)) else [name]
        if released := journal.release_cut_off(busy, name):
            log.warning("%s: %d event(s) of a run that was cut off are taken up again", name, released)
    except OperationFailed as error:
        log.error("%s; what a run that was cut off was for is seen without its events", error)


def rest_of(journal: Journal, name: str, pause: Pause) -> float:
    """Return the seconds that are left of a pause. One that is yet to begin begins now: the clock was set back."""
    if pause.until is None:
        return REST
    if (now := clock.wall()) >= pause.since:
        return max(pause.until - now, 0.0)
    seconds = pause.until - pause.since
    try:
        journal.pause(name, now + seconds, pause.reason)
    except OperationFailed as failure:
        log.error("%s", failure)
    return seconds


def ended(run: int, cluster: str, cause: str, attempt: int, started: float, result: RunResult) -> RunRow:
    """Return a run that ends now, as the journal keeps it."""
    decision = result.decision
    primary, timeline = (decision.primary, decision.timeline) if decision else (None, 0)
    left = tuple(Failed(item.place, item.problems[0].code) for item in result.done if item.problems)
    why = (result.problem.code, result.problem.hint) if result.problem else ("", "")
    how = (result.ok, result.again, primary, timeline, result.message, *why, left)
    return RunRow(run, cluster, cause, attempt, started, clock.wall(), *how)


def summary_of(events: Sequence[Event]) -> str:
    """Name the events of a run, few or many."""
    if len(events) <= NAMED:
        return ", ".join(str(event) for event in events) or "reconcile"
    return f"{len(events)} events, the last of them {events[-1]}"


def failed_by(bug: Exception, managed: ManagedCluster) -> RunResult:
    """Return how a run has ended that a bug of ours has ended."""
    problem = Problem("bug", f"a bug in repmgr_hooks: {bug!r}", "please report it, with the log")
    done = tuple(ActionResult(action, problems=(problem,)) for action in managed.actions)
    return RunResult(False, problem.message, done=done, again=True, problem=problem)
