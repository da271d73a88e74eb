"""The way of an event: select the routes, observe, decide, plan, apply, observe again.

Dry run, replay, boot and reconcile are this same way; what is done follows from the observed cluster, never from the
event. Beside it stand ``drift.py`` (a look without an event), ``fencing.py`` (while the primary is unknown),
``dry_run.py`` and ``simulation.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from repmgr_hooks.cluster.decide import LastKnownPrimary, PrimaryDecision
from repmgr_hooks.cluster.notice import notice_of
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

    ``closed``: the ports that lead nowhere if no primary is known, for none has been for long.

    Raises Stopped if the observer says so.
    """
    observer, begun = observer or RunObserver(), host.now()
    scheduled = select(managed.routes, events, everything)
    if not scheduled:
        return log_result(RunResult(True, f"no route for {', '.join(map(str, events)) or 'anything'}: nothing to do"))
    finder = PrimaryFinder(managed.cluster, last_known or LastKnownPrimary())
    notices = [] if dry_run else [item for item in scheduled if _is_notice(item)]
    telling = Telling(host, observer)
    if notices:
        telling.begin(notices, managed.cluster, finder.decision(host), finder.last_known)
    if notices and len(notices) == len(scheduled):
        names = ", ".join(map(str, events))
        run = log_result(RunResult(True, f"no route for {names} but notifications", telling.decision))
    else:
        others = [item for item in scheduled if item not in notices]
        how = {"everything": everything, "dry_run": dry_run}
        run = _make_true(managed, finder, host, events, others, observer, begun, closed=closed, **how)
    return with_notices(run, telling, finder, host, observer) if notices else run


def _make_true(
    managed: ManagedCluster,
    finder: PrimaryFinder,
    host: Host,
    events: Sequence[Event],
    scheduled: list[ScheduledAction],
    observer: RunObserver,
    begun: float,
    *,
    everything: bool,
    dry_run: bool,
    closed: Sequence[str],
) -> RunResult:
    decision = observe_and_decide(finder, host, observer, wait=not dry_run and not closed)
    log_decision(decision)
    if decision.primary is None:
        return log_result(_only_fence(managed, decision, host, begun, None if dry_run else observer, closed))
    if untrue := contradicting(events, decision):
        if not everything:
            return log_result(_contradicted(untrue, decision))
        believed = [event for event in events if not _claims_primary(event)]
        wanted = select(managed.routes, believed, everything)
        scheduled = [item for item in wanted if dry_run or not _is_notice(item)]
    state = cluster_state(decision, finder)
    scheduled = [item for item in scheduled if item.action.when.applies(notice_of(replace(state, event=item.event)))]
    done = dry_run_steps(scheduled, state, host) if dry_run else plan_and_apply(scheduled, state, host, begun, observer)
    problem = next((problem for item in done for problem in item.problems), None)
    message = f"{summary(done, host.now() - begun, dry_run)}; {decision}"
    return log_result(RunResult(problem is None, message, decision, tuple(done), problem is not None, problem))


def _only_fence(
    managed: ManagedCluster,
    decision: PrimaryDecision,
    host: Host,
    begun: float,
    observer: RunObserver | None,
    closed: Sequence[str],
) -> RunResult:
    """Unknown changes no route; but nothing may lead to a stale primary."""
    done = fence(managed, decision, host, observer, closed)
    changed = summary(done, host.now() - begun, observer is None) if differences(done) else "nothing was changed"
    said = f"{decision}; {changed}"
    return RunResult(False, said, decision, tuple(done), again=True, problem=decision.problem)


def _contradicted(event: Event, decision: PrimaryDecision) -> RunResult:
    """An event that the cluster contradicts changes nothing; if a node is silent, it may yet come true."""
    silent = any(not state.reachable for state in decision.states)
    said = f"{event} contradicts the cluster: {decision}; nothing was changed"
    return RunResult(False, said, decision, again=silent, problem=Problem("contradiction", said))


def _is_notice(item: ScheduledAction) -> bool:
    return item.action.handler.observe is None


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
    events = [event for event in events if action.when.meant(event)]
    everything = everything and not action.when.needs_event
    if action.handler.observe:
        return [ScheduledAction(action, event) for event in events[-1:]] or (
            [ScheduledAction(action, None)] if everything else []
        )
    return [ScheduledAction(action, event) for event in {(event.name, event.node): event for event in events}.values()]
