"""Make actions true, in order: look, do what is missing, look again; within their limits, while the primary stays."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.primary import confirmed, to_remember
from repmgr_hooks.engine.asking import bug, look
from repmgr_hooks.engine.elsewhere import must_be_ours
from repmgr_hooks.engine.run import LOOK_EVERY, ActionResult, RunObserver, ScheduledAction, pause, stop_if_asked
from repmgr_hooks.errors import OperationFailed, PrimaryChanged, Problem, ProgramTimeout
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.layers import Deadline, Sparing, seconds_for
from repmgr_hooks.system.steps import Host, Step

log = logging.getLogger(__name__)

RETRY_EVERY = 2.0
LAST_TRY = 1.0
NOT_REACHED = Problem("not_reached", "not reached")


@dataclass(frozen=True)
class Attempt:
    """What each action of a part is carried out with: the decided state, the host, the deadline, the observer."""

    state: ClusterState
    host: Host
    deadline: float | None
    observer: RunObserver

    def confirmed(self) -> ClusterState:
        """Look at the nodes again, with what is remembered by now. Raises PrimaryChanged."""
        committed, last_known = self.observer.committed, self.state.last_known
        known = committed and replace(committed, began=last_known.began)
        return confirmed(replace(self.state, last_known=known or last_known), self.host)


def plan_and_apply(
    chosen: Sequence[ScheduledAction], state: ClusterState, host: Host, started: float, observer: RunObserver
) -> list[ActionResult]:
    """Make the actions true in order.

    What fails is tried again until the next action with a limit (``fail_open_after``) is due; then that one is done all
    the same. With no such action left, or when the primary has changed meanwhile, the rest is not reached.

    Nothing waits for an action that is a ``helper``: it fails alone, and if it has something to look at, comes last.
    """
    done: list[ActionResult] = []
    host, parts = Sparing(host), in_parts(chosen)
    for part, following in zip(parts, [*parts[1:], []], strict=True):
        fail_open_after = following[0].action.fail_open_after if following else None
        if done and done[-1].error and part[0].action.fail_open_after is not None:
            log.error("%s although an earlier action failed", part[0].action.title)
        taken: list[ActionResult] = []
        try:
            deadline = None if fail_open_after is None else started + fail_open_after
            done += make_true(part, taken, Attempt(state, host, deadline, observer))
        except PrimaryChanged as error:
            log.error("%s", error)
            done += taken
            left = [item for each in parts for item in each][len(done) :]
            return done + [ActionResult(item.action, problems=(Problem.of(error),)) for item in left]
    return done


def in_parts(chosen: Sequence[ScheduledAction]) -> list[list[ScheduledAction]]:
    """Return the actions in the order in which they are made true: up to each limit; then helpers, each alone."""
    last = [item for item in chosen if item.action.helper and item.action.handler.observe]
    first = [item for item in chosen if item not in last]
    return [*split_at_limits(first), *([item] for item in last)]


def split_at_limits(chosen: Sequence[ScheduledAction]) -> list[list[ScheduledAction]]:
    """Return the actions in parts; each but the first begins with one that has a limit."""
    parts: list[list[ScheduledAction]] = [[]]
    for item in chosen:
        if item.action.fail_open_after is not None and parts[-1]:
            parts.append([])
        parts[-1].append(item)
    return parts


def make_true(part: Sequence[ScheduledAction], taken: list[ActionResult], attempt: Attempt) -> list[ActionResult]:
    """Look, do what is missing, look again; until the deadline, try all anew after a failure.

    ``taken`` is filled with how each action ended that others need not wait for any more.
    """
    host, deadline = attempt.host, attempt.deadline
    said: OperationFailed | None = None
    reason: OperationFailed | None = None
    while failure := _first_failure(part, taken, attempt):
        index, error = failure
        if isinstance(error, ProgramTimeout) and reason and Problem.of(reason) != Problem.of(error):
            # It may have had little time left.
            error = OperationFailed(f"{error}; before that: {reason}", code=reason.code, hint=reason.hint)
        else:
            reason = error
        if said is None or Problem.of(error) != Problem.of(said):
            log.error("%s: %s", part[index].action.title, error)
        said = error
        if deadline is None or host.now() + RETRY_EVERY >= deadline:
            failed = ActionResult(part[index].action, problems=(Problem.of(error),))
            left = [ActionResult(item.action, problems=(NOT_REACHED,)) for item in part[index + 1 :]]
            return [*taken[:index], failed, *left]
        with attempt.observer.waiting(f"to try again: {said}", deadline - host.now()):
            _wait_while_primary(attempt)
    return taken


def _first_failure(
    part: Sequence[ScheduledAction], taken: list[ActionResult], attempt: Attempt
) -> tuple[int, OperationFailed] | None:
    """Make all true, in order; return where that failed, and why. Raises PrimaryChanged, Stopped.

    All, also what was true before, for the failure may come from what has been undone meanwhile; but a notification is
    given once.
    """
    for index, item in enumerate(part):
        try:
            if index == len(taken):
                taken.append(_make_one_true(item, attempt))
            elif item.action.handler.observe:
                again = _make_one_true(item, attempt, again=True)
                taken[index] = replace(again, steps=taken[index].steps + again.steps)
        except PrimaryChanged:
            raise
        except OperationFailed as error:
            return index, error
    return None


def _wait_while_primary(attempt: Attempt) -> None:
    """Wait before another attempt, and look: the next failover may come meanwhile. Raises PrimaryChanged, Stopped."""
    end = attempt.host.now() + RETRY_EVERY
    while attempt.host.now() < end:
        pause(LOOK_EVERY, attempt.host, attempt.observer)
        try:
            attempt.confirmed()
        except PrimaryChanged:
            raise
        except OperationFailed:
            log.debug("the primary is silent")


def _make_one_true(chosen: ScheduledAction, attempt: Attempt, again: bool = False) -> ActionResult:
    """Make an action true. Raises OperationFailed if those after it must wait for it."""
    if attempt.observer.done_before(chosen):
        return ActionResult(chosen.action)
    try:
        return _look_act_look(chosen, attempt, again)
    except PrimaryChanged:
        raise
    except OperationFailed as error:
        if not (chosen.action.helper or chosen.again):
            raise
        log.error("%s: %s; going on without it", chosen.action.title, error)
        return ActionResult(chosen.action, problems=(Problem.of(error),))


def _look_act_look(chosen: ScheduledAction, attempt: Attempt, again: bool) -> ActionResult:
    action, host, observer = chosen.action, attempt.host, attempt.observer
    if attempt.deadline is not None:
        host = Deadline(host, max(attempt.deadline, host.now() + LAST_TRY))
    state = replace(replace(attempt, host=host).confirmed(), event=chosen.event)
    attempt = replace(attempt, host=host, state=state)
    missing = look(action, state, host)
    must_be_ours(action, missing, state, host)
    if not missing:
        log.log(logging.DEBUG if again else logging.INFO, "      ok  %s", action.title)
    elif not observer.committed:
        observer.commit(to_remember(state, clock.wall()))
    failed = take_all(missing, chosen, host, observer)
    if missing and action.handler.observe:
        left = look(action, attempt.confirmed(), host)
        if left and not failed and all(step.helper for step in left):
            # What the missing steps stood before: it is looked at when they are done.
            failed = take_all(left, chosen, host, observer)
            missing += left
            left = look(action, attempt.confirmed(), host)
        still = Problem("still_pending", "still pending afterwards: " + "; ".join(step.what for step in left))
        if not all(step.helper for step in left):
            first, *_ = said = [*failed, still]
            raise OperationFailed("; ".join(map(str, said)), code=first.code, hint=first.hint)
        if left and not failed:
            failed = [still]
    return ActionResult(action, tuple(missing), tuple(failed))


def take_all(missing: Sequence[Step], chosen: ScheduledAction, host: Host, observer: RunObserver) -> list[Problem]:
    """Do the steps in order, and return how helpers failed. Raises OperationFailed for any other, or Stopped."""
    failed: list[Problem] = []
    for step in missing:
        try:
            take(step, chosen, host, observer)
        except OperationFailed as error:
            if not step.helper:
                raise
            failed.append(Problem.of(error))
            log.error("%s: %s; going on without it", step.what, error)
    return failed


def take(step: Step, chosen: ScheduledAction, host: Host, observer: RunObserver) -> None:
    """Do one step, and report it to the observer. Raises OperationFailed, or Stopped before it."""
    stop_if_asked(observer)
    begun, started, problem = host.now(), clock.wall(), None
    try:
        with observer.waiting(step.what, seconds_for(step, host)):
            apply(step, host)
        log.info("%6.2f s  %s", host.now() - begun, step.what)
    except OperationFailed as failure:
        problem = Problem.of(failure)
        raise
    except Exception as failure:
        error = bug(chosen.action, failure)
        problem = Problem.of(error)
        raise error from failure
    finally:
        observer.step(chosen, step, started, host.now() - begun, problem)
