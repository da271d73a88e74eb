"""The way of an event: select the routes, observe, decide, plan, apply, observe again.

Dry run, replay, boot and reconcile are this same way; what is done follows from the observed cluster, never from the
event. Beside it stand ``drift.py`` (a look without an event), ``fencing.py`` (while the primary is unknown),
``dry_run.py`` and ``simulation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from repmgr_hooks.cluster.decide import LastKnownPrimary, PrimaryDecision
from repmgr_hooks.cluster.primary import PrimaryFinder, cluster_state, contradicting
from repmgr_hooks.engine.dry_run import differences, dry_run_steps
from repmgr_hooks.engine.executor import plan_and_apply
from repmgr_hooks.engine.fencing import fence
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.engine.run import (
    RunObserver,
    RunResult,
    ScheduledAction,
    log_decision,
    log_result,
    observe_and_decide,
    summary,
)
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
    memory: LastKnownPrimary | None = None,
) -> RunResult:
    """Make what the events' routes ask for true; without an event, all that can be looked at; with ``everything`` both.

    Raises Stopped if the observer says so.
    """
    observer, begun = observer or RunObserver(), host.now()
    scheduled = select(managed.routes, events, everything)
    if not scheduled:
        return log_result(RunResult(True, f"no route for {', '.join(map(str, events)) or 'anything'}: nothing to do"))
    finder = PrimaryFinder(managed.cluster, memory or LastKnownPrimary())
    decision = observe_and_decide(finder, host, observer, wait=not dry_run)
    log_decision(decision)
    if decision.primary is None:
        return log_result(_only_fence(managed, decision, host, begun, None if dry_run else observer))
    if untrue := contradicting(events, decision):
        if not everything:
            return log_result(_contradicted(untrue, decision))
        scheduled = select(managed.routes, [event for event in events if not _claims_primary(event)], everything)
    decided = cluster_state(decision, finder)
    if dry_run:
        done = dry_run_steps(scheduled, decided, host)
    else:
        done = plan_and_apply(scheduled, decided, host, begun, observer)
    failed = any(item.error for item in done)
    message = f"{summary(done, host.now() - begun, dry_run)}; {decision}"
    return log_result(RunResult(not failed, message, decision, tuple(done), again=failed))


def _only_fence(
    managed: ManagedCluster, decision: PrimaryDecision, host: Host, begun: float, observer: RunObserver | None
) -> RunResult:
    """Unknown changes no route; but nothing may lead to a stale primary."""
    done = fence(managed, decision, host, observer)
    changed = summary(done, host.now() - begun, observer is None) if differences(done) else "nothing was changed"
    return RunResult(False, f"{decision}; {changed}", decision, tuple(done), again=True)


def _contradicted(event: Event, decision: PrimaryDecision) -> RunResult:
    """An event that the cluster contradicts changes nothing; if a node is silent, it may yet come true."""
    silent = any(not state.reachable for state in decision.states)
    return RunResult(False, f"{event} contradicts the cluster: {decision}; nothing was changed", again=silent)


def _claims_primary(event: Event) -> bool:
    return event.meaning is RoleClaim.PRIMARY


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
    if action.handler.observe:
        return [ScheduledAction(action, event) for event in events[-1:]] or (
            [ScheduledAction(action, None)] if everything else []
        )
    return [ScheduledAction(action, event) for event in {(event.name, event.node): event for event in events}.values()]
