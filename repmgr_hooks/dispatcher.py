"""The way of an event: select the routes, observe, decide, plan, apply, observe again.

Dry run, replay, boot and reconcile are this same way; what is done follows from the observed cluster, never from the
event.
"""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks import cluster, steps
from repmgr_hooks.cluster import Decided, Verdict
from repmgr_hooks.config import Action, Managed, Route
from repmgr_hooks.errors import PrimaryChanged, StepFailed
from repmgr_hooks.event import Event, Meaning
from repmgr_hooks.steps import Step, World

log = logging.getLogger(__name__)

LOOK_EVERY = 0.2
RETRY_EVERY = 2.0
LOCK_WAIT = 600.0


@dataclass(frozen=True)
class Done:
    """How one action ended: the steps that were taken (or, in a dry run, would be), and the error, if any."""

    action: Action
    steps: tuple[Step, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class Run:
    """The result of a run. ``ok`` is False if something failed or the primary is unknown."""

    ok: bool
    verdict: Verdict | None = None
    done: tuple[Done, ...] = ()


def handle(managed: Managed, world: World, event: Event | None, *, dry_run: bool = False) -> Run:
    """Make all that the event's routes ask for true; without an event, all that can be looked at."""
    started = world.now()
    actions = select(managed.routes, event)
    if not actions:
        log.info("no route for %s: nothing to do", event)
        return Run(True)
    verdict = find_primary(managed.cluster, world, event, wait=not dry_run)
    for state in verdict.states:
        log.info("%s", state)
    if verdict.primary is None or (event and contradicts(event, verdict)):
        log.error("%s; nothing was changed", explain(event, verdict))
        return Run(False, verdict)
    log.info("the primary is node %d, timeline %d: %s", verdict.primary, verdict.timeline, verdict.reason)
    states = {state.node: state for state in verdict.states}
    decided = Decided(managed.cluster, verdict.primary, verdict.timeline, states, event)
    done = preview(actions, decided, world) if dry_run else carry_out(actions, decided, world, started)
    ok = not any(item.error for item in done)
    log.log(logging.INFO if ok else logging.ERROR, "%s", summary(done, world.now() - started, dry_run))
    return Run(ok, verdict, tuple(done))


def select(routes: Sequence[Route], event: Event | None) -> list[Action]:
    """Return the actions for an event; without one, those of every route that have something to look at."""
    if event:
        return [action for route in routes if event.name in route.on for action in route.do]
    return [action for route in routes for action in route.do if action.handler.observe]


def find_primary(settings: cluster.Cluster, world: World, event: Event | None, *, wait: bool) -> Verdict:
    """Observe and decide; while there is no primary, again, at most ``primary_wait`` seconds."""
    end = world.now() + (settings.primary_wait if wait else 0)
    while True:
        verdict = cluster.decide(cluster.observe(settings, world), settings.system_identifier)
        if verdict.primary is not None or world.now() >= end:
            return verdict
        world.sleep(LOOK_EVERY)


def contradicts(event: Event, verdict: Verdict) -> bool:
    """True if the event claims a primary that the cluster does not have: an old event, or an untrue one."""
    return event.meaning is Meaning.PRIMARY and event.node != verdict.primary


def explain(event: Event | None, verdict: Verdict) -> str:
    """Say why nothing can be done."""
    if verdict.primary is None:
        return f"the primary is unknown: {verdict.reason}"
    return f"{event} contradicts the cluster: node {verdict.primary} is the primary ({verdict.reason})"


def carry_out(actions: Sequence[Action], decided: Decided, world: World, started: float) -> list[Done]:
    """Make the actions true in order.

    A failed action is tried again until the next one with a limit (``at_latest``) is due; then that one is done all
    the same. With no such action left, or when the primary has changed meanwhile, the rest is not reached.
    """
    done: list[Done] = []
    index = 0
    while index < len(actions):
        gate = next((i for i in range(index + 1, len(actions)) if actions[i].at_latest is not None), None)
        deadline = started + (actions[gate].at_latest or 0) if gate is not None else None
        try:
            done.append(make_true(actions[index], decided, world, deadline))
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


def make_true(action: Action, decided: Decided, world: World, deadline: float | None) -> Done:
    """Look, do what is missing, look again; until the deadline, try anew after a failure."""
    said = ""
    while True:
        try:
            return _attempt(action, decided, world, deadline)
        except PrimaryChanged:
            raise
        except StepFailed as error:
            if str(error) != said:
                said = str(error)
                log.error("%s: %s", action.title, said)
            if deadline is None or world.now() + RETRY_EVERY >= deadline:
                return Done(action, error=str(error))
            world.sleep(RETRY_EVERY)


def _attempt(action: Action, decided: Decided, world: World, deadline: float | None) -> Done:
    confirm_primary(decided, world)
    missing = look(action, decided, world)
    for step in missing:
        begun = world.now()
        steps.apply(step, world, step.limit if deadline is None else max(deadline - begun, 1.0))
        log.info("%6.2f s  %s", world.now() - begun, step.what)
    if not missing:
        log.info("   as is  %s", action.title)
    elif action.handler.observe and (left := look(action, decided, world)):
        raise StepFailed("still missing afterwards: " + "; ".join(step.what for step in left))
    return Done(action, tuple(missing))


def confirm_primary(decided: Decided, world: World) -> None:
    """Look at the primary once more before touching anything. Raises PrimaryChanged, or StepFailed if it is silent."""
    (state,) = cluster.observe(decided.cluster, world, [decided.primary])
    if not state.reachable:
        raise StepFailed(f"the primary does not answer ({state})")
    if not state.is_primary or state.timeline != decided.timeline:
        raise PrimaryChanged(f"the primary has changed meanwhile ({state}); nothing more is done")


def look(action: Action, decided: Decided, world: World) -> list[Step]:
    """Return what is missing of an action. Raises StepFailed, also for a bug in the handler."""
    try:
        seen = action.handler.observe(action.config, decided, world) if action.handler.observe else None
        return list(action.handler.plan(action.config, decided, seen))
    except StepFailed:
        raise
    except Exception as error:
        log.debug("handler %s", action.name, exc_info=True)
        raise StepFailed(f"a bug in the handler: {error!r}") from error


def preview(actions: Sequence[Action], decided: Decided, world: World) -> list[Done]:
    """Return the steps that each action lacks now, and change nothing."""
    done = []
    for action in actions:
        try:
            done.append(Done(action, tuple(look(action, decided, world))))
        except StepFailed as error:
            done.append(Done(action, error=str(error)))
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


@contextmanager
def one_at_a_time(lock_file: Path, world: World) -> Iterator[None]:
    """Hold the lock of a cluster. Raises StepFailed when another run keeps it for longer than LOCK_WAIT seconds."""
    end = world.now() + LOCK_WAIT
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        handle = lock_file.open("a")
    except OSError as error:
        raise StepFailed(f"the state directory cannot be written: {error}; mend it or correct 'state_dir'") from None
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if world.now() >= end:
                    raise StepFailed(f"another run holds {lock_file} for {LOCK_WAIT:.0f} s") from None
                world.sleep(LOOK_EVERY)
        yield
