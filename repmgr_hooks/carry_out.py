"""Make actions true, in order: look, do what is missing, look again; within their limits, while the primary stays."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from repmgr_hooks import steps
from repmgr_hooks.config import Action
from repmgr_hooks.decide import Decided
from repmgr_hooks.errors import PrimaryChanged, StepFailed
from repmgr_hooks.judge import LOOK_EVERY, confirmed
from repmgr_hooks.run import Chosen, Done, Recorder, pause, stop_if_asked
from repmgr_hooks.steps import Step, World

log = logging.getLogger(__name__)

RETRY_EVERY = 2.0
LAST_TRY = 1.0


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
            _wait_while_primary(decided, world, recorder)


def _wait_while_primary(decided: Decided, world: World, recorder: Recorder) -> None:
    """Wait before another attempt, and look: the next failover may come meanwhile. Raises PrimaryChanged, Stopped."""
    end = world.now() + RETRY_EVERY
    while world.now() < end:
        pause(LOOK_EVERY, world, recorder)
        try:
            confirmed(decided, world)
        except PrimaryChanged:
            raise
        except StepFailed:
            log.debug("the primary is silent")


def _attempt(chosen: Chosen, decided: Decided, world: World, deadline: float | None, recorder: Recorder) -> Done:
    action = chosen.action
    if recorder.done_before(chosen):
        return Done(action)
    if deadline is not None:
        world = steps.Until(world, max(deadline, world.now() + LAST_TRY))
    decided = replace(confirmed(decided, world), event=chosen.event)
    missing = look(action, decided, world)
    for step in missing:
        take(step, chosen, world, recorder)
    if not missing:
        log.info("   as is  %s", action.title)
    elif action.handler.observe and (left := look(action, confirmed(decided, world), world)):
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
        if not step.may_fail:
            raise
        log.warning("%s: %s; going on without it", step.what, error)
    except Exception as failure:
        error = bug(chosen.action, failure)
        raise StepFailed(error) from failure
    finally:
        recorder.step(chosen.name, step.what, clock, world.now() - begun, error)


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
