"""Make actions true, in order: look, do what is missing, look again; within their limits, while the primary stays."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from repmgr_hooks.cluster.decide import ClusterState, memory_of
from repmgr_hooks.cluster.primary import confirmed
from repmgr_hooks.engine.routes import Action
from repmgr_hooks.engine.run import LOOK_EVERY, ActionResult, RunObserver, ScheduledAction, pause, stop_if_asked
from repmgr_hooks.errors import OperationFailed, PrimaryChanged
from repmgr_hooks.system import steps
from repmgr_hooks.system.steps import Host, Step

log = logging.getLogger(__name__)

RETRY_EVERY = 2.0
LAST_TRY = 1.0


def carry_out(
    chosen: Sequence[ScheduledAction], decided: ClusterState, host: Host, started: float, observer: RunObserver
) -> list[ActionResult]:
    """Make the actions true in order.

    What fails is tried again until the next action with a limit (``fail_open_after``) is due; then that one is done
    all the same. With no such action left, or when the primary has changed meanwhile, the rest is not reached.
    """
    done: list[ActionResult] = []
    parts = split_at_limits(chosen)
    for part, following in zip(parts, [*parts[1:], []], strict=True):
        deadline = started + (following[0].action.fail_open_after or 0) if following else None
        if done and done[-1].error:
            log.error("%s although what comes before it failed", part[0].action.title)
        taken: list[tuple[Step, ...]] = []
        try:
            done += make_true(part, taken, decided, host, deadline, observer)
        except PrimaryChanged as error:
            log.error("%s", error)
            done += [ActionResult(item.action, steps) for item, steps in zip(part, taken, strict=False)]
            return done + [ActionResult(item.action, error=str(error)) for item in chosen[len(done) :]]
    return done


def split_at_limits(chosen: Sequence[ScheduledAction]) -> list[list[ScheduledAction]]:
    """Return the actions in parts; each but the first begins with one that has a limit."""
    parts: list[list[ScheduledAction]] = [[]]
    for item in chosen:
        if item.action.fail_open_after is not None and parts[-1]:
            parts.append([])
        parts[-1].append(item)
    return parts


def make_true(
    part: Sequence[ScheduledAction],
    taken: list[tuple[Step, ...]],
    decided: ClusterState,
    host: Host,
    deadline: float | None,
    observer: RunObserver,
) -> list[ActionResult]:
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
                    taken.append(_attempt(item, decided, host, deadline, observer))
                elif item.action.handler.observe:
                    taken[index] += _attempt(item, decided, host, deadline, observer, again=True)
            return [ActionResult(item.action, steps) for item, steps in zip(part, taken, strict=True)]
        except PrimaryChanged:
            raise
        except OperationFailed as error:
            if str(error) != said:
                said = str(error)
                log.error("%s: %s", part[index].action.title, said)
            if deadline is None or host.now() + RETRY_EVERY >= deadline:
                before = [ActionResult(item.action, steps) for item, steps in zip(part[:index], taken, strict=False)]
                left = [ActionResult(item.action, error="not reached") for item in part[index + 1 :]]
                return [*before, ActionResult(part[index].action, error=said), *left]
            with observer.waiting(f"to try again: {said}", deadline - host.now()):
                _wait_while_primary(decided, host, observer)


def _wait_while_primary(decided: ClusterState, host: Host, observer: RunObserver) -> None:
    """Wait before another attempt, and look: the next failover may come meanwhile. Raises PrimaryChanged, Stopped."""
    end = host.now() + RETRY_EVERY
    while host.now() < end:
        pause(LOOK_EVERY, host, observer)
        try:
            _confirmed(decided, host, observer)
        except PrimaryChanged:
            raise
        except OperationFailed:
            log.debug("the primary is silent")


def _confirmed(decided: ClusterState, host: Host, observer: RunObserver) -> ClusterState:
    """Look again, with what is remembered by now."""
    known = observer.committed and replace(observer.committed, began=decided.memory.began)
    return confirmed(replace(decided, memory=known or decided.memory), host)


def _attempt(
    chosen: ScheduledAction,
    decided: ClusterState,
    host: Host,
    deadline: float | None,
    observer: RunObserver,
    again: bool = False,
) -> tuple[Step, ...]:
    action = chosen.action
    if observer.done_before(chosen):
        return ()
    if deadline is not None:
        host = steps.Deadline(host, max(deadline, host.now() + LAST_TRY))
    decided = replace(_confirmed(decided, host, observer), event=chosen.event)
    missing = look(action, decided, host)
    if missing and not observer.committed:
        observer.commit(memory_of(decided.states[decided.primary]))
    for step in missing:
        take(step, chosen, host, observer)
    if not missing:
        log.log(logging.DEBUG if again else logging.INFO, "      ok  %s", action.title)
    elif action.handler.observe and (left := look(action, _confirmed(decided, host, observer), host)):
        raise OperationFailed("still missing afterwards: " + "; ".join(step.what for step in left))
    return tuple(missing)


def take(step: Step, chosen: ScheduledAction, host: Host, observer: RunObserver) -> None:
    """Do one step, and tell. Raises OperationFailed, or Stopped before it."""
    stop_if_asked(observer)
    begun, clock, error = host.now(), time.time(), ""
    try:
        with observer.waiting(step.what, steps.seconds_for(step, host)):
            steps.apply(step, host)
        log.info("%6.2f s  %s", host.now() - begun, step.what)
    except OperationFailed as failure:
        error = str(failure)
        raise
    except Exception as failure:
        error = bug(chosen.action, failure)
        raise OperationFailed(error) from failure
    finally:
        observer.step(chosen.name, step.what, clock, host.now() - begun, error)


def look(action: Action, decided: ClusterState, host: Host) -> list[Step]:
    """Return what is missing of an action. Raises OperationFailed, also for a bug in the handler."""
    try:
        seen = action.handler.observe(action.config, decided, host) if action.handler.observe else None
        missing = list(action.handler.plan(action.config, decided, seen))
        if not all(isinstance(step, Step) for step in missing):
            raise TypeError(f"plan must return steps, not {missing}")
    except OperationFailed:
        raise
    except Exception as error:
        raise OperationFailed(bug(action, error)) from error
    return missing


def bug(action: Action, error: Exception) -> str:
    """Say that a handler is broken; a failover goes on as after any other failure."""
    log.debug("handler %s", action.name, exc_info=True)
    return f"a bug in the handler {action.name}: {error!r}"
