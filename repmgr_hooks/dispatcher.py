"""The way of an event: select the routes, observe, decide, plan, apply, observe again.

Dry run, replay, boot and reconcile are this same way; what is done follows from the observed cluster, never from the
event.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from repmgr_hooks import cluster, steps
from repmgr_hooks.cluster import Decided, Verdict
from repmgr_hooks.config import Action, Managed, Route
from repmgr_hooks.errors import PrimaryChanged, StepFailed, Stopped
from repmgr_hooks.event import Event, Meaning
from repmgr_hooks.records import Memory
from repmgr_hooks.run import Chosen, Done, Recorder, Run
from repmgr_hooks.steps import Step, World

log = logging.getLogger(__name__)

LOOK_EVERY = 0.2
RETRY_EVERY = 2.0
LAST_TRY = 1.0


def handle(
    managed: Managed,
    world: World,
    events: Sequence[Event],
    *,
    dry_run: bool = False,
    recorder: Recorder | None = None,
    memory: Memory | None = None,
) -> Run:
    """Make all that the events' routes ask for true; without an event, all that can be looked at.

    Raises Stopped if the recorder says so.
    """
    recorder = recorder or Recorder()
    started = world.now()
    chosen = select(managed.routes, events)
    if not chosen:
        return told(Run(True, f"no route for {', '.join(map(str, events)) or 'anything'}: nothing to do"))
    judge = Judge(managed.cluster, memory or Memory())
    verdict = find_primary(judge, world, recorder, wait=not dry_run)
    for state in verdict.states:
        log.info("%s", state)
    if verdict.primary is None:
        return told(Run(False, f"the primary is unknown: {verdict.reason}; nothing was changed", verdict, again=True))
    if untrue := contradicting(events, verdict):
        why = f"{untrue} contradicts the cluster: node {verdict.primary} is the primary ({verdict.reason})"
        silent = any(not state.reachable for state in verdict.states)
        return told(Run(False, f"{why}; nothing was changed", verdict, again=silent))
    log.info("the primary is node %d, timeline %d: %s", verdict.primary, verdict.timeline, verdict.reason)
    states = {state.node: state for state in verdict.states}
    decided = Decided(managed.cluster, verdict.primary, verdict.timeline, states)
    done = preview(chosen, decided, world) if dry_run else carry_out(chosen, decided, world, started, recorder)
    failed = any(item.error for item in done)
    message = summary(done, world.now() - started, dry_run)
    return told(Run(not failed, message, verdict, tuple(done), again=failed))


def drift(managed: Managed, world: World, memory: Memory) -> tuple[Verdict, list[str]]:
    """Look without an event: who is the primary, and what is not as it should be."""
    verdict = Judge(managed.cluster, memory).verdict(world)
    if verdict.primary is None:
        return verdict, []
    decided = Decided(managed.cluster, verdict.primary, verdict.timeline, {s.node: s for s in verdict.states})
    cheap = [chosen for chosen in select(managed.routes, []) if chosen.action.on_tick]
    return verdict, differences(preview(cheap, decided, world))


def differences(done: Sequence[Done]) -> list[str]:
    """Return in words what a preview has found missing."""
    return [text for item in done for text in ([item.error] if item.error else [step.what for step in item.steps])]


def told(run: Run) -> Run:
    """Log how a run ended."""
    log.log(logging.INFO if run.ok else logging.ERROR, "%s", run.message)
    return run


def select(routes: Sequence[Route], events: Sequence[Event]) -> list[Chosen]:
    """Return the actions for the events; without one, those of every route that have something to look at."""
    if not events:
        return [Chosen(action, None) for route in routes for action in route.do if action.handler.observe]
    asked = ((route, [event for event in events if event.name in route.on]) for route in routes)
    return [chosen for route, matching in asked for action in route.do for chosen in _for_each(action, matching)]


def _for_each(action: Action, events: list[Event]) -> list[Chosen]:
    """What has a state is made true once, for the newest event; a notification is given for every node and event."""
    different = {(event.name, event.node): event for event in events}.values()
    return [Chosen(action, event) for event in (events[-1:] if action.handler.observe else different)]


@dataclass(frozen=True)
class Judge:
    """Decides for one cluster, with what is remembered of it."""

    settings: cluster.Cluster
    memory: Memory

    def verdict(self, world: World, nodes: Sequence[int] = ()) -> Verdict:
        """Observe the nodes (default: all) and decide."""
        expected = self.settings.system_identifier or self.memory.system_identifier
        states = cluster.observe(self.settings, world, nodes)
        return cluster.decide(states, expected, self.memory.primary, self.memory.timeline)


def find_primary(judge: Judge, world: World, recorder: Recorder, *, wait: bool) -> Verdict:
    """Observe and decide; while there is no primary, again, at most ``primary_wait`` seconds."""
    end = world.now() + (judge.settings.primary_wait if wait else 0)
    while True:
        verdict = judge.verdict(world)
        if verdict.primary is not None or world.now() >= end:
            return verdict
        pause(LOOK_EVERY, world, recorder)


def contradicting(events: Sequence[Event], verdict: Verdict) -> Event | None:
    """Return the last event that claims a primary, if the cluster has none that any of the events names."""
    claims = [event for event in events if event.meaning is Meaning.PRIMARY]
    return claims[-1] if claims and all(event.node != verdict.primary for event in claims) else None


def carry_out(
    chosen: Sequence[Chosen], decided: Decided, world: World, started: float, recorder: Recorder
) -> list[Done]:
    """Make the actions true in order.

    A failed action is tried again until the next one with a limit (``at_latest``) is due; then that one is done all
    the same. With no such action left, or when the primary has changed meanwhile, the rest is not reached.
    """
    done: list[Done] = []
    actions = [item.action for item in chosen]
    index = 0
    while index < len(chosen):
        gate = next((i for i in range(index + 1, len(actions)) if actions[i].at_latest is not None), None)
        deadline = started + (actions[gate].at_latest or 0) if gate is not None else None
        try:
            done.append(make_true(chosen[index], decided, world, deadline, recorder))
        except PrimaryChanged as error:
            log.error("%s", error)
            return done + [Done(action, error=str(error)) for action in actions[index:]]
        index += 1
        if done[-1].error:
            following = len(actions) if gate is None else gate
            done += [Done(action, error="not reached") for action in actions[index:following]]
            if gate is not None:
                log.error("%s although what comes before it failed", actions[gate].title)
            index = following
    return done


def make_true(chosen: Chosen, decided: Decided, world: World, deadline: float | None, recorder: Recorder) -> Done:
    """Look, do what is missing, look again; until the deadline, try anew after a failure."""
    said = ""
    while True:
        try:
            return _attempt(chosen, decided, world, deadline, recorder)
        except PrimaryChanged:
            raise
        except StepFailed as error:
            if str(error) != said:
                said = str(error)
                log.error("%s: %s", chosen.action.title, said)
            if deadline is None or world.now() + RETRY_EVERY >= deadline:
                return Done(chosen.action, error=said)
            pause(RETRY_EVERY, world, recorder)


def _attempt(chosen: Chosen, decided: Decided, world: World, deadline: float | None, recorder: Recorder) -> Done:
    action = chosen.action
    if recorder.done_before(chosen):
        return Done(action)
    if deadline is not None:
        world = steps.Until(world, max(deadline, world.now() + LAST_TRY))
    confirm_primary(decided, world)
    decided = replace(decided, event=chosen.event)
    missing = look(action, decided, world)
    for step in missing:
        take(step, chosen, world, recorder)
    if not missing:
        log.info("   as is  %s", action.title)
    elif action.handler.observe and (left := look(action, decided, world)):
        raise StepFailed("still missing afterwards: " + "; ".join(step.what for step in left))
    return Done(action, tuple(missing))


def take(step: Step, chosen: Chosen, world: World, recorder: Recorder) -> None:
    """Do one step, and tell. Raises StepFailed, or Stopped before it."""
    stop_if_asked(recorder)
    begun, clock, error = world.now(), time.time(), ""
    try:
        steps.apply(step, world)
        log.info("%6.2f s  %s", world.now() - begun, step.what)
    except StepFailed as failure:
        error = str(failure)
        raise
    except Exception as failure:
        error = bug(chosen.action, failure)
        raise StepFailed(error) from failure
    finally:
        recorder.step(chosen.name, step.what, clock, world.now() - begun, error)


def pause(seconds: float, world: World, recorder: Recorder) -> None:
    """Wait a little. Raises Stopped."""
    stop_if_asked(recorder)
    world.sleep(seconds)


def stop_if_asked(recorder: Recorder) -> None:
    """Raises Stopped if the run is to end here."""
    if recorder.stopping():
        raise Stopped("stopped before the next step; it will be taken up again")


def confirm_primary(decided: Decided, world: World) -> None:
    """Look once more before touching anything, at the nodes that answered when the run began.

    Raises PrimaryChanged, or StepFailed if the primary is silent.
    """
    nodes = [node for node, state in decided.states.items() if state.reachable]
    memory = Memory(decided.primary, decided.timeline, decided.states[decided.primary].system_identifier)
    verdict = Judge(decided.cluster, memory).verdict(world, nodes)
    state = next(state for state in verdict.states if state.node == decided.primary)
    if not state.reachable and verdict.primary is None:
        raise StepFailed(f"the primary does not answer ({state})")
    if (verdict.primary, verdict.timeline) != (decided.primary, decided.timeline):
        seen = "; ".join(str(state) for state in verdict.states)
        raise PrimaryChanged(f"the primary has changed meanwhile ({seen}); nothing more is done")


def look(action: Action, decided: Decided, world: World) -> list[Step]:
    """Return what is missing of an action. Raises StepFailed, also for a bug in the handler."""
    try:
        seen = action.handler.observe(action.config, decided, world) if action.handler.observe else None
        missing = list(action.handler.plan(action.config, decided, seen))
        if not all(isinstance(step, Step) for step in missing):
            raise TypeError(f"plan must return steps, not {missing}")
    except StepFailed:
        raise
    except Exception as error:
        raise StepFailed(bug(action, error)) from error
    return missing


def bug(action: Action, error: Exception) -> str:
    """Say that a handler is broken; a failover goes on as after any other failure."""
    log.debug("handler %s", action.name, exc_info=True)
    return f"a bug in the handler {action.name}: {error!r}"


def preview(chosen: Sequence[Chosen], decided: Decided, world: World) -> list[Done]:
    """Return the steps that each action lacks now, and change nothing."""
    done = []
    for item in chosen:
        try:
            missing = look(item.action, replace(decided, event=item.event), world)
            done.append(Done(item.action, tuple(missing)))
        except StepFailed as error:
            done.append(Done(item.action, error=str(error)))
    return done


def summary(done: Sequence[Done], seconds: float, dry_run: bool) -> str:
    """One line that says how a run ended."""
    failed = [item for item in done if item.error]
    taken = sum(len(item.steps) for item in done)
    if failed:
        return f"FAILED after {seconds:.1f} s: " + "; ".join(f"{item.action.title}: {item.error}" for item in failed)
    if not taken:
        return f"nothing to do: all is as it should be ({seconds:.1f} s)"
    return f"{'would take' if dry_run else 'done:'} {taken} step(s), {seconds:.1f} s"
