"""Notifications: each is given for its event at once, in a thread of its own, whatever the state of the cluster.

They do not delay a failover: nothing waits for them but the end of a run, and that only while nothing else is
to be done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import replace

from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.notice import Notice, notice
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.engine.asking import look
from repmgr_hooks.engine.executor import take_all
from repmgr_hooks.engine.run import ActionResult, RunObserver, RunResult, ScheduledAction
from repmgr_hooks.errors import OperationFailed, Problem, Stopped
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host
from repmgr_hooks.text import MOST, printable

log = logging.getLogger(__name__)

NOTICE_LOOK = 1.0
"""How often the nodes are looked at while notifications are waited for."""
NOTICE_LIMIT = 3600.0
"""The longest that the time-out of a program may be."""
AT_ONCE = 8
"""So many at the same time; the others wait for them."""


class Beside(RunObserver):
    """The observer of a run, without what it shows of one thing after the other."""

    def __init__(self, observer: RunObserver) -> None:
        super().__init__(stopping=observer.stopping)
        self.step = observer.step  # type: ignore[method-assign]
        self.done_before = observer.done_before  # type: ignore[method-assign]


class Telling:
    """The notifications of one run."""

    def __init__(self, host: Host, observer: RunObserver) -> None:
        self._host, self._observer = host, Beside(observer)
        self._room = threading.Semaphore(AT_ONCE)
        self._threads: list[threading.Thread] = []
        self.results: list[ActionResult] = []
        """Of those that have ended."""
        self.decision: PrimaryDecision | None = None
        """What was known when they were begun."""

    def begin(
        self,
        chosen: Sequence[ScheduledAction],
        cluster: Cluster,
        decision: PrimaryDecision,
        last_known: LastKnownPrimary,
    ) -> None:
        """Give those that apply."""
        self.decision = decision
        for item in chosen:
            given = notice(cluster, item.event, decision, last_known)
            if not item.action.when.applies(given):
                continue
            thread = threading.Thread(target=copy_context().run, args=(self._give, item, given), daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait for the next one to end; True when all have."""
        left = [thread for thread in self._threads if thread.is_alive()]
        if left:
            left[0].join(seconds)
        return not any(thread.is_alive() for thread in left)

    def _give(self, item: ScheduledAction, given: Notice) -> None:
        with self._room:
            try:
                if self._observer.done_before(item):
                    self.results.append(ActionResult(item.action, event=item.event))
                    return
                steps = look(item.action, given, self._host)
                failed = take_all(steps, item, self._host, self._observer)
                self.results.append(ActionResult(item.action, tuple(steps), tuple(failed), item.event))
            except (OperationFailed, Stopped) as error:
                log.error("%s: %s", item.action.title, error)
                self.results.append(ActionResult(item.action, (), (Problem.of(error),), item.event))


def with_notices(
    run: RunResult, telling: Telling, finder: PrimaryFinder, host: Host, observer: RunObserver
) -> RunResult:
    """Wait for the notifications of a run, and add how they ended; another primary is not kept waiting for that."""
    decision = run.decision
    with observer.waiting("notifications", NOTICE_LIMIT):
        while not telling.wait(NOTICE_LOOK):
            now = finder.decision(host)
            if now.primary is not None and decision and now.primary != decision.primary:
                log.warning("notifications go on while the new primary, node %d, is followed", now.primary)
                break
    results = list(telling.results)
    failed = [item.failure for item in results if item.error]
    message = "; ".join([run.message, *failed])
    return replace(
        run,
        ok=run.ok and not failed,
        message=printable(message, 2 * MOST),
        done=(*run.done, *results),
        again=run.again or bool(failed),
        problem=run.problem or next((problem for item in results for problem in item.problems), None),
    )
