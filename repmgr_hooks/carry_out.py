"""Make actions true, in order: look, do what is missing, look again; within their limits, while the primary stays."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import TypeVar

from repmgr_hooks import steps
from repmgr_hooks.cluster import Cluster
from repmgr_hooks.decide import Decided, memory_of
from repmgr_hooks.errors import PrimaryChanged, StepFailed
from repmgr_hooks.judge import LOOK_EVERY, confirmed
from repmgr_hooks.meanwhile import Aside
from repmgr_hooks.routes import Action
from repmgr_hooks.run import Chosen, Done, Recorder, pause, stop_if_asked
from repmgr_hooks.steps import Step, World

log = logging.getLogger(__name__)

RETRY_EVERY = 2.0
LAST_TRY = 1.0
PLUG_IN_LIMIT = 60.0
T = TypeVar("T")


def carry_out(
    chosen: Sequence[Chosen], decided: Decided, world: World, started: float, recorder: Recorder
) -> list[Done]:
    """Make the actions true in order.

    What fails is tried again until the next action with a limit (``at_latest``) is due; then that one is done all the
    same. With no such action left, or when the primary has changed meanwhile, the rest is not reached.
    """
    done: list[Done] = []
    parts = split_at_limits(chosen)
    for part, following in zip(parts, [*parts[1:], []], strict=True):
        deadline = started + (following[0].action.at_latest or 0) if following else None
        if done and done[-1].error:
            log.error("%s although what comes before it failed", part[0].action.title)
        taken: list[tuple[Step, ...]] = []
        try:
            done += make_true(part, taken, decided, world, deadline, recorder)
        except PrimaryChanged as error:
            log.error("%s", error)
            done += [Done(item.action, steps) for item, steps in zip(part, taken, strict=False)]
            return done + [Done(item.action, error=str(error)) for item in chosen[len(done) :]]
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
    taken: list[tuple[Step, ...]],
    decided: Decided,
    world: World,
    deadline: float | None,
    recorder: Recorder,
) -> list[Done]:
    """Look, do what is missing, look again; until the deadline, try all anew after a failure.

    All, for the failure may come from what has been undone meanwhile; but a notification is given once. ``taken`` is
    filled with the steps of each action that has succeeded.
    """
    said = ""
    while True:
        index = 0
        try:
            for index, item in enumerate(part):
                if index == len(taken):
                    taken.append(_attempt(item, decided, world, deadline, recorder))
                elif item.action.handler.observe:
                    taken[index] += _attempt(item, decided, world, deadline, recorder, again=True)
            return [Done(item.action, steps) for item, steps in zip(part, taken, strict=True)]
        except PrimaryChanged:
            raise
        except StepFailed as error:
            if str(error) != said:
                said = str(error)
                log.error("%s: %s", part[index].action.title, said)
            if deadline is None or world.now() + RETRY_EVERY >= deadline:
                before = [Done(item.action, steps) for item, steps in zip(part[:index], taken, strict=False)]
                left = [Done(item.action, error="not reached") for item in part[index + 1 :]]
                return [*before, Done(part[index].action, error=said), *left]
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


def _attempt(
    chosen: Chosen, decided: Decided, world: World, deadline: float | None, recorder: Recorder, again: bool = False
) -> tuple[Step, ...]:
    action = chosen.action
    if recorder.done_before(chosen):
        return ()
    if deadline is not None:
        world = steps.Until(world, max(deadline, world.now() + LAST_TRY))
    decided = replace(_confirmed(decided, world, recorder), event=chosen.event)
    missing = look(action, decided, world)
    if missing and not recorder.committed:
        recorder.commit(memory_of(decided.states[decided.primary]))
    for step in missing:
        take(step, chosen, world, recorder)
    if not missing:
        log.log(logging.DEBUG if again else logging.INFO, "   as is  %s", action.title)
    elif action.handler.observe and (left := look(action, _confirmed(decided, world, recorder), world)):
        raise StepFailed("still missing afterwards: " + "; ".join(step.what for step in left))
    return tuple(missing)


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

    def missing() -> list[Step]:
        seen = action.handler.observe(action.config, decided, world) if action.handler.observe else None
        found = list(action.handler.plan(action.config, decided, seen))
        if not all(isinstance(step, Step) for step in found):
            raise TypeError(f"plan must return steps, not {found}")
        return found

    return answer(action, decided.cluster, world, missing)


def answer(action: Action, cluster: Cluster, world: World, question: Callable[[], T]) -> T:
    """Return what a handler answers. Raises StepFailed for whatever it raises, and for a plug-in that does not return.

    What is ours returns: all that it waits for has a limit.
    """
    asked = partial(_asked, action, question)
    if action.built_in:
        return asked()
    limit = min(PLUG_IN_LIMIT, world.end - world.now()) if isinstance(world, steps.Until) else PLUG_IN_LIMIT
    try:
        return _aside(action.name, cluster.name).ask(asked, max(limit, 0.0))
    except TimeoutError:
        raise StepFailed(f"the handler {action.name} has not answered; it stands still") from None


def _asked(action: Action, question: Callable[[], T]) -> T:
    try:
        return question()
    except StepFailed:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # of the user's: no other thread gets a signal
        raise StepFailed(bug(action, error)) from error


@cache
def _aside(handler: str, cluster: str) -> Aside:
    return Aside(f"{handler} of {cluster}")


def bug(action: Action, error: BaseException) -> str:
    """Say that a handler is broken; a failover goes on as after any other failure."""
    log.debug("handler %s", action.name, exc_info=True)
    return f"a bug in the handler {action.name}: {error!r}"
