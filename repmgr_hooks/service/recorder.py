"""Writes down what a run does; a journal that cannot be used stops none."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from repmgr_hooks.cluster.decide import LastKnownPrimary, PrimaryDecision, memory_of
from repmgr_hooks.engine.run import RunObserver, RunResult, ScheduledAction, Show
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import Observation, RunRow, StepRow

log = logging.getLogger(__name__)


class JournalRecorder(RunObserver):
    """Writes every step into the journal, if it has the run (``run``); if that fails, the run goes on all the same."""

    def __init__(
        self,
        journal: Journal,
        name: str,
        run: int | None,
        notified: set[str],
        waiting: Show,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(waiting, stopping)
        self._journal, self._name, self._run = journal, name, run
        self.notified = notified
        """The notifications that this run, or an attempt before it, has given."""
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
        if not error:
            self.notified.add(action)
        if self._run is None:
            return
        try:
            self._journal.add_step(self._run, StepRow(action, what, started, duration, error))
        except OperationFailed as failure:
            log.error("%s", failure)

    def done_before(self, chosen: ScheduledAction) -> bool:
        """True for a notification that an earlier attempt has given for the same event."""
        if chosen.action.handler.observe or chosen.name not in self.notified:
            return False
        self.step(chosen.name, "done before", time.time(), 0.0, "")
        return True


def remember(journal: Journal, name: str, decision: PrimaryDecision | None, known: LastKnownPrimary) -> None:
    """Keep which primary all agrees with; if that fails, say so."""
    primary = decision.primary_state if decision else None
    if primary is None or memory_of(primary) == known:
        return
    try:
        journal.remember(name, memory_of(primary))
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
        journal.end_run(row.id, bool(row.ok), row.again, row.message, row.primary, row.timeline or 0, row.left)
        return True
    except OperationFailed as failure:
        log.error("%s", failure)
        return False


def ended(run: int, cluster: str, cause: str, attempt: int, started: float, result: RunResult) -> RunRow:
    """Return a run that ends now, as the journal keeps it."""
    decision = result.decision
    primary, timeline = (decision.primary, decision.timeline) if decision else (None, 0)
    left = tuple(item.action.title for item in result.done if item.error)
    how = (result.ok, result.again, primary, timeline, result.message, left)
    return RunRow(run, cluster, cause, attempt, started, time.time(), *how)
