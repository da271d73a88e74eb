"""The path of an event: select the routes, observe, decide, plan, apply, observe again.

Dry run, replay, boot and reconcile take the same path; what is done follows from the observed cluster, never from the
event. ``selection.py`` selects, ``asking.py`` asks the handlers, ``executor.py`` applies and looks again, and
``telling.py`` gives notifications. Beside it stand ``drift.py`` (a look without an event), ``fencing.py`` (while the
primary is unknown), ``dry_run.py`` and ``simulation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision
from repmgr_hooks.cluster.gateways import stands_back
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder, cluster_state, contradicting
from repmgr_hooks.engine.dry_run import differences, dry_run_steps
from repmgr_hooks.engine.elsewhere import concerning, works_on
from repmgr_hooks.engine.executor import plan_and_apply
from repmgr_hooks.engine.fencing import fence, leave_silent
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import (
    NOTHING_OPENED,
    ActionResult,
    Opened,
    RunObserver,
    RunResult,
    ScheduledAction,
    log_decision,
    log_result,
    observe_and_decide,
    summary,
)
from repmgr_hooks.engine.selection import applying, notices_and_others, select
from repmgr_hooks.engine.telling import Telling, with_notices
from repmgr_hooks.errors import Problem
from repmgr_hooks.event import Event, RoleClaim
from repmgr_hooks.system.steps import Host


def handle(
    managed: ManagedCluster,
    host: Host,
    events: Sequence[Event],
    *,
    everything: bool = False,
    dry_run: bool = False,
    observer: RunObserver | None = None,
    last_known: LastKnownPrimary | None = None,
    closed: Sequence[str] = (),
    opened: Opened = NOTHING_OPENED,
) -> RunResult:
    """Make what the events' routes ask for true; without an event, all that can be looked at; with ``everything`` both.

    ``closed``: the ports to close if no primary is known, because none has been known for long. ``opened``: those
    that wait for nothing, for they were open under this primary already.

    Raises Stopped if the observer says so.
    """
    finder = PrimaryFinder(managed.cluster, last_known or LastKnownPrimary())
    run = _Run(
        managed, events, everything, dry_run, closed, opened, finder, host, observer or RunObserver(), host.now()
    )
    scheduled = select(managed.routes, events, everything)
    if not scheduled:
        return log_result(RunResult(True, f"no route for {', '.join(map(str, events)) or 'anything'}: nothing to do"))
    notices, others = _notices_and_others(run, scheduled)
    notices = [item for item in notices if works_on(item.action, managed.cluster, host)]
    if others and not notices:
        return _make_true(run, others)
    telling = _begin_telling(run, notices)
    result = _make_true(run, others) if others else _only_notices(events, telling)
    return with_notices(result, telling, finder, host, run.observer)


@dataclass(frozen=True)
class _Run:
    """What a run is for, as ``handle`` was asked, and what it works with; ``begun`` on the host's clock."""

    managed: ManagedCluster
    events: Sequence[Event]
    everything: bool
    dry_run: bool
    closed: Sequence[str]
    opened: Opened
    finder: PrimaryFinder
    host: Host
    observer: RunObserver
    begun: float


def _notices_and_others(
    run: _Run, scheduled: list[ScheduledAction]
) -> tuple[list[ScheduledAction], list[ScheduledAction]]:
    """A dry run gives no notification, and shows what one would do as it shows any other action."""
    return ([], scheduled) if run.dry_run else notices_and_others(scheduled)


def _begin_telling(run: _Run, notices: list[ScheduledAction]) -> Telling:
    """Give the notifications, unless another gateway with the same address does."""
    telling, decision = Telling(run.host, run.observer), run.finder.decision(run.host)
    if not stands_back(run.managed.cluster, decision.primary, run.host):
        telling.begin(notices, run.managed.cluster, decision, run.finder.last_known)
    return telling


def _make_true(run: _Run, scheduled: list[ScheduledAction]) -> RunResult:
    """Observe, decide, plan, apply; without a primary, or with an event that is not true, much less."""
    before: list[ActionResult] = []
    decision = _observe_and_decide(run, before)
    if decision.primary is None:
        return log_result(_only_fence(run, decision, before))
    if untrue := contradicting(run.events, decision):
        if not run.everything:
            return log_result(_contradicted(untrue, decision))
        scheduled = _select_without_claims(run)
    state = cluster_state(decision, run.finder)
    scheduled = concerning(applying(scheduled, state), run.managed.cluster, run.host)
    done = _plan_and_apply(run, scheduled, state)
    return log_result(_summed_up(run, decision, done))


def _observe_and_decide(run: _Run, before: list[ActionResult]) -> PrimaryDecision:
    """Wait for a primary; ``before`` is filled with what is done first, for it must not wait as long."""
    wait = not run.dry_run and not run.closed

    def first(decision: PrimaryDecision) -> None:
        before.extend(leave_silent(run.managed, decision, run.host, run.observer))

    decision = observe_and_decide(run.finder, run.host, run.observer, wait=wait, first=first)
    log_decision(decision)
    return decision


def _select_without_claims(run: _Run) -> list[ScheduledAction]:
    """Select anew, without the events that the cluster contradicts."""
    believed = [event for event in run.events if event.meaning is not RoleClaim.PRIMARY]
    _, others = _notices_and_others(run, select(run.managed.routes, believed, run.everything))
    return others


def _plan_and_apply(run: _Run, scheduled: list[ScheduledAction], state: ClusterState) -> list[ActionResult]:
    """Do what is missing, and look again; in a dry run, return what would be done."""
    if run.dry_run:
        ours = [item for item in scheduled if works_on(item.action, state.cluster, run.host)]
        return dry_run_steps(ours, state, run.host)
    again = run.opened.again(scheduled, state)
    done = plan_and_apply([*again, *scheduled], state, run.host, run.begun, run.observer)
    return [item for number, item in enumerate(done) if number >= len(again) or item.steps or item.problems]


def _summed_up(run: _Run, decision: PrimaryDecision, done: list[ActionResult]) -> RunResult:
    problem = next((problem for item in done for problem in item.problems), None)
    message = f"{summary(done, run.host.now() - run.begun, run.dry_run)}; {decision}"
    return RunResult(problem is None, message, decision, tuple(done), problem is not None, problem)


def _only_notices(events: Sequence[Event], telling: Telling) -> RunResult:
    names = ", ".join(map(str, events))
    return log_result(RunResult(True, f"no route for {names} but notifications", telling.decision))


def _only_fence(run: _Run, decision: PrimaryDecision, before: Sequence[ActionResult]) -> RunResult:
    """Unknown changes no route; but nothing may lead to a stale primary."""
    observer = None if run.dry_run else run.observer
    done = [*before, *fence(run.managed, decision, run.host, observer, run.closed)]
    changed = summary(done, run.host.now() - run.begun, observer is None)
    said = f"{decision}; {changed if differences(done) else 'nothing was changed'}"
    return RunResult(False, said, decision, tuple(done), again=True, problem=decision.problem)


def _contradicted(event: Event, decision: PrimaryDecision) -> RunResult:
    """An event that the cluster contradicts changes nothing; if a node is silent, it may yet come true."""
    silent = any(not (state.reachable or state.stranger) for state in decision.states)
    said = f"{event} contradicts the cluster: {decision}; nothing was changed"
    return RunResult(False, said, decision, again=silent, problem=Problem("contradiction", said))
