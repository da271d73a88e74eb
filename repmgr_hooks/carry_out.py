"""Make actions true, in order: look, do what is missing, look again; within their limits, while the primary stays."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from repmgr_hooks import steps
from repmgr_hooks.decide import Decided, memory_of
from repmgr_hooks.errors import PrimaryChanged, StepFailed
from repmgr_hooks.judge import LOOK_EVERY, confirmed
from repmgr_hooks.routes import Action
from repmgr_hooks.run import Chosen, Done, Recorder, pause, stop_if_asked
from repmgr_hooks.steps import Step, World
from repmgr_hooks.text import MOST, one_line, printable

log = logging.getLogger(__name__)

RETRY_EVERY = 2.0
LAST_TRY = 1.0


def carry_out(
    chosen: Sequence[Chosen], decided: Decided, world: World, started: float, recorder: Recorder
) -> list[Done]:
    """Make the actions true in order.

    What fails is tried again until the next action with a limit (``at_latest``) is due; then that one is done all the
    same. With no such action left, or when the primary has changed meanwhile, the rest is not reached.

    Nothing waits for an action that is a ``helper``: it fails alone, and if it has something to look at, comes last.
    """
    done: list[Done] = []
    world = steps.Sparing(world).as_world()
    last = [item for item in chosen if item.action.helper and item.action.handler.observe]
    first = [item for item in chosen if item not in last]
    parts = [*split_at_limits(first), *([item] for item in last)]
    for part, following in zip(parts, [*parts[1:], []], strict=True):
        at_latest = following[0].action.at_latest if following else None
        if done and done[-1].error and part[0].action.at_latest is not None:
            log.error("%s although what comes before it failed", part[0].action.title)
        taken: list[Done] = []
        try:
            deadline = None if at_latest is None else started + at_latest
            done += make_true(part, taken, decided, world, deadline, recorder)
        except PrimaryChanged as error:
            log.error("%s", error)
            done += taken
            return done + [Done(item.action, error=str(error)) for item in [*first, *last][len(done) :]]
    return done


def split_at_limits(chosen: Sequence[Chosen]) -> list[list[Chosen]]:
    """Return the actions in parts; each but the first begins with one that has a limit."""
    parts: list[list[Chosen]] = [[]]
    for item in chosen:
        if item.action.at_latest is not None and parts[-1]:
            parts.append([])
        parts[-1].append(item)
    return parts


def make_true(
    part: Sequence[Chosen],
    taken: list[Done],
    decided: Decided,
    world: World,
    deadline: float | None,
    recorder: Recorder,
) -> list[Done]:
    """Look, do what is missing, look again; until the deadline, try all anew after a failure.

    All, for the failure may come from what has been undone meanwhile; but a notification is given once. ``taken`` is
    filled with how each action ended that others need not wait for any more.
    """
    said = ""
    while True:
        index = 0
        try:
            for index, item in enumerate(part):
                if index == len(taken):
                    taken.append(_attempt_or_helper(item, decided, world, deadline, recorder))
                elif item.action.handler.observe:
                    again = _attempt_or_helper(item, decided, world, deadline, recorder, again=True)
                    taken[index] = replace(again, steps=taken[index].steps + again.steps)
            return taken
        except PrimaryChanged:
            raise
        except StepFailed as error:
            if str(error) != said:
                said = str(error)
                log.error("%s: %s", part[index].action.title, said)
            if deadline is None or world.now() + RETRY_EVERY >= deadline:
                left = [Done(item.action, error="not reached") for item in part[index + 1 :]]
                return [*taken[:index], Done(part[index].action, error=said), *left]
            with recorder.waiting(f"to try again: {said}", deadline - world.now()):
                _wait_while_primary(decided, world, recorder)


def _wait_while_primary(decided: Decided, world: World, recorder: Recorder) -> None:
    """Wait before another attempt, and look: the next failover may come meanwhile. Raises PrimaryChanged, Stopped."""
    end = world.now() + RETRY_EVERY
    while world.now() < end:
        pause(LOOK_EVERY, world, recorder)
        try:
            _confirmed(decided, world, recorder)
        except PrimaryChanged:
            raise
        except StepFailed:
            log.debug("the primary is silent")


def _confirmed(decided: Decided, world: World, recorder: Recorder) -> Decided:
    """Look again, with what is remembered by now."""
    return confirmed(replace(decided, memory=recorder.committed or decided.memory), world)


def _attempt_or_helper(
    chosen: Chosen, decided: Decided, world: World, deadline: float | None, recorder: Recorder, again: bool = False
) -> Done:
    """Make an action true. Raises StepFailed if those after it must wait for it."""
    try:
        return _attempt(chosen, decided, world, deadline, recorder, again)
    except PrimaryChanged:
        raise
    except StepFailed as error:
        if not chosen.action.helper:
            raise
        log.error("%s: %s; going on without it", chosen.action.title, error)
        return Done(chosen.action, error=str(error))


def _attempt(
    chosen: Chosen, decided: Decided, world: World, deadline: float | None, recorder: Recorder, again: bool = False
) -> Done:
    action = chosen.action
    if recorder.done_before(chosen):
        return Done(action)
    if deadline is not None:
        world = steps.Until(world, max(deadline, world.now() + LAST_TRY))
    decided = replace(_confirmed(decided, world, recorder), event=chosen.event)
    missing = look(action, decided, world)
    if not missing:
        log.log(logging.DEBUG if again else logging.INFO, "   as is  %s", action.title)
    elif not recorder.committed:
        recorder.commit(memory_of(decided.states[decided.primary]))
    failed = take_all(missing, chosen, world, recorder)
    if missing and action.handler.observe:
        left = look(action, _confirmed(decided, world, recorder), world)
        if left and not failed and all(step.helper for step in left):
            # What the missing steps stood before: it is looked at when they are done.
            failed = take_all(left, chosen, world, recorder)
            missing += left
            left = look(action, _confirmed(decided, world, recorder), world)
        still = "still missing afterwards: " + "; ".join(step.what for step in left)
        if not all(step.helper for step in left):
            raise StepFailed("; ".join([*failed, still]))
        if left and not failed:
            failed = [still]
    return Done(action, tuple(missing), "; ".join(failed))


def take_all(missing: Sequence[Step], chosen: Chosen, world: World, recorder: Recorder) -> list[str]:
    """Do the steps in order, and return how helpers failed. Raises StepFailed for any other, or Stopped."""
    failed: list[str] = []
    for step in missing:
        try:
            take(step, chosen, world, recorder)
        except StepFailed as error:
            if not step.helper:
                raise
            failed.append(str(error))
            log.error("%s: %s; going on without it", step.what, error)
    return failed


def take(step: Step, chosen: Chosen, world: World, recorder: Recorder) -> None:
    """Do one step, and tell. Raises StepFailed, or Stopped before it."""
    stop_if_asked(recorder)
    begun, clock, error = world.now(), time.time(), ""
    try:
        with recorder.waiting(step.what, steps.seconds_for(step, world)):
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


def look(action: Action, decided: Decided, world: World) -> list[Step]:
    """Return what is missing of an action. Raises StepFailed, also for a bug in the handler."""
    try:
        seen = action.handler.observe(action.config, decided, world) if action.handler.observe else None
        missing = list(action.handler.plan(action.config, decided, seen))
        if not all(isinstance(step, Step) for step in missing):
            raise TypeError(f"plan must return steps, not {missing}")
        missing = [replace(step, what=one_line(step.what, MOST)) for step in missing]
    except StepFailed:
        raise
    except Exception as error:
        raise StepFailed(bug(action, error)) from error
    return missing


def bug(action: Action, error: Exception) -> str:
    """Say that a handler is broken; a failover goes on as after any other failure."""
    log.debug("handler %s", action.name, exc_info=True)
    try:
        said = repr(error)
    except Exception:
        said = type(error).__name__
    return printable(f"a bug in the handler {action.name}: {said}")
