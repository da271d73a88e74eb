"""The path of an event: select the routes, observe, decide, plan, apply, observe again.

Dry run, replay, boot and reconcile take the same path; what is done follows from the observed cluster, never from the
event. Beside it stand ``drift.py`` (a look without an event), ``fencing.py`` (while the primary is unknown),
``dry_run.py`` and ``simulation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision
from repmgr_hooks.cluster.gateways import stands_back
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.notice import notice_of
from repmgr_hooks.cluster.primary import PrimaryFinder, cluster_state, contradicting
from repmgr_hooks.engine.dry_run import differences, dry_run_steps
from repmgr_hooks.engine.elsewhere import concerning, works_on
from repmgr_hooks.engine.executor import plan_and_apply
from repmgr_hooks.engine.fencing import fence
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.engine.run import (
    ActionResult,
    RunObserver,
    RunResult,
    ScheduledAction,
    log_decision,
    log_result,
    observe_and_decide,
    summary,
)
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
) -> RunResult:
    """Make what the events' routes ask for true; without an event, all that can be looked at; with ``everything`` both.

    ``closed``: the ports to close if no primary is known, because none has been known for long.

    Raises Stopped if the observer says so.
    """
    finder = PrimaryFinder(managed.cluster, last_known or LastKnownPrimary())
    run = _Run(managed, events, everything, dry_run, closed, finder, host, observer or RunObserver(), host.now())
    scheduled = select(managed.routes, events, everything)
    if not scheduled:
        return log_result(RunResult(True, f"no route for {', '.join(map(str, events)) or 'anything'}: nothing to do"))
    notices = [] if dry_run else [item for item in scheduled if _is_notice(item)]
    others = [item for item in scheduled if item not in notices]
    notices = [item for item in notices if works_on(item.action, managed.cluster, host)]
    if not notices and others:
        return _make_true(run, others)
    telling, decision = Telling(host, run.observer), finder.decision(host)
    if not stands_back(managed.cluster, decision.primary, host):
        telling.begin(notices, managed.cluster, decision, finder.last_known)
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
    finder: PrimaryFinder
    host: Host
    observer: RunObserver
    begun: float


def _make_true(run: _Run, scheduled: list[ScheduledAction]) -> RunResult:
    decision = _observe(run)
    if decision.primary is None:
        return log_result(_only_fence(run, decision))
    if untrue := contradicting(run.events, decision):
        if not run.everything:
            return log_result(_contradicted(untrue, decision))
        scheduled = _select_without_claims(run)
    state = cluster_state(decision, run.finder)
    scheduled = concerning(_applying(scheduled, state), run.managed.cluster, run.host)
    done = _plan_and_apply(run, scheduled, state)
    return log_result(_summed_up(run, decision, done))


def _observe(run: _Run) -> PrimaryDecision:
    wait = not run.dry_run and not run.closed
    decision = observe_and_decide(run.finder, run.host, run.observer, wait=wait)
    log_decision(decision)
    return decision


def _select_without_claims(run: _Run) -> list[ScheduledAction]:
    """Select anew, without the events that the cluster contradicts."""
    believed = [event for event in run.events if event.meaning is not RoleClaim.PRIMARY]
    scheduled = select(run.managed.routes, believed, run.everything)
    return [item for item in scheduled if run.dry_run or not _is_notice(item)]


def _applying(scheduled: list[ScheduledAction], state: ClusterState) -> list[ScheduledAction]:
    """Leave out the actions whose ``when`` does not hold."""
    return [item for item in scheduled if item.action.when.applies(notice_of(replace(state, event=item.event)))]


def _plan_and_apply(run: _Run, scheduled: list[ScheduledAction], state: ClusterState) -> list[ActionResult]:
    """Do what is missing, and look again; in a dry run, return what would be done."""
    if run.dry_run:
        ours = [item for item in scheduled if works_on(item.action, state.cluster, run.host)]
        return dry_run_steps(ours, state, run.host)
    return plan_and_apply(scheduled, state, run.host, run.begun, run.observer)


def _summed_up(run: _Run, decision: PrimaryDecision, done: list[ActionResult]) -> RunResult:
    problem = next((problem for item in done for problem in item.problems), None)
    message = f"{summary(done, run.host.now() - run.begun, run.dry_run)}; {decision}"
    return RunResult(problem is None, message, decision, tuple(done), problem is not None, problem)


def _only_notices(events: Sequence[Event], telling: Telling) -> RunResult:
    names = ", ".join(map(str, events))
    return log_result(RunResult(True, f"no route for {names} but notifications", telling.decision))


def _only_fence(run: _Run, decision: PrimaryDecision) -> RunResult:
    """Unknown changes no route; but nothing may lead to a stale primary."""
    observer = None if run.dry_run else run.observer
    done = fence(run.managed, decision, run.host, observer, run.closed)
    changed = summary(done, run.host.now() - run.begun, observer is None)
    said = f"{decision}; {changed if differences(done) else 'nothing was changed'}"
    return RunResult(False, said, decision, tuple(done), again=True, problem=decision.problem)


def _contradicted(event: Event, decision: PrimaryDecision) -> RunResult:
    """An event that the cluster contradicts changes nothing; if a node is silent, it may yet come true."""
    silent = any(not state.reachable for state in decision.states)
    said = f"{event} contradicts the cluster: {decision}; nothing was changed"
    return RunResult(False, said, decision, again=silent, problem=Problem("contradiction", said))


def _is_notice(item: ScheduledAction) -> bool:
    return item.action.handler.observe is None


def select(routes: Sequence[Route], events: Sequence[Event], everything: bool = False) -> list[ScheduledAction]:
    """Return the actions for the events; without one, all that have something to look at; with ``everything`` both."""
    asked = ((route, [event for event in events if event.name in route.on]) for route in routes)
    return [
        chosen
        for route, matching in asked
        for action in route.do
        for chosen in _for_each(action, matching, everything or not events)
    ]


def _for_each(action: Action, events: list[Event], everything: bool) -> list[ScheduledAction]:
    """What has a state is made true once, for the newest event; a notification is given for every node and event."""
    events = [event for event in events if action.when.meant(event)]
    everything = everything and not action.when.needs_event
    if action.handler.observe:
        return [ScheduledAction(action, event) for event in events[-1:]] or (
            [ScheduledAction(action, None)] if everything else []
        )
    return [ScheduledAction(action, event) for event in {(event.name, event.node): event for event in events}.values()]
