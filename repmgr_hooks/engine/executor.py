"""Make actions true, in order: look, do what is missing, look again; within their limits, while the primary stays."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from typing import TypeVar

from repmgr_hooks import clock
from repmgr_hooks.background import Aside
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.notice import Notice, notice_of
from repmgr_hooks.cluster.primary import confirmed, to_remember
from repmgr_hooks.engine.elsewhere import must_be_ours
from repmgr_hooks.engine.routes import Action
from repmgr_hooks.engine.run import LOOK_EVERY, ActionResult, RunObserver, ScheduledAction, pause, stop_if_asked
from repmgr_hooks.errors import OperationFailed, PrimaryChanged, Problem, ProgramTimeout
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.layers import Deadline, Sparing, seconds_for
from repmgr_hooks.system.steps import Host, Step
from repmgr_hooks.text import MOST, one_line

log = logging.getLogger(__name__)

RETRY_EVERY = 2.0
LAST_TRY = 1.0
NOT_REACHED = Problem("not_reached", "not reached")
PLUG_IN_LIMIT = 60.0
MOST_STEPS = 1000
LONGEST_STEP = 3600.0
T = TypeVar("T")


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
    host = Sparing(host)
    last = [item for item in chosen if item.action.helper and item.action.handler.observe]
    first = [item for item in chosen if item not in last]
    parts = [*split_at_limits(first), *([item] for item in last)]
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
            return done + [
                ActionResult(item.action, problems=(Problem.of(error),)) for item in [*first, *last][len(done) :]
            ]
    return done


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

    All, for the failure may come from what has been undone meanwhile; but a notification is given once. ``taken`` is
    filled with how each action ended that others need not wait for any more.
    """
    host, deadline = attempt.host, attempt.deadline
    said: OperationFailed | None = None
    reason: OperationFailed | None = None
    while True:
        index = 0
        try:
            for index, item in enumerate(part):
                if index == len(taken):
                    taken.append(_make_one_true(item, attempt))
                elif item.action.handler.observe:
                    again = _make_one_true(item, attempt, again=True)
                    taken[index] = replace(again, steps=taken[index].steps + again.steps)
            return taken
        except PrimaryChanged:
            raise
        except OperationFailed as error:
            if isinstance(error, ProgramTimeout) and reason and Problem.of(reason) != Problem.of(error):
                # It may have had little time left.
                error = OperationFailed(f"{error}; before that: {reason}", code=reason.code, hint=reason.hint)
            else:
                reason = error
            if said is None or Problem.of(error) != Problem.of(said):
                log.error("%s: %s", part[index].action.title, error)
            said = error
            if deadline is None or host.now() + RETRY_EVERY >= deadline:
                left = [ActionResult(item.action, problems=(NOT_REACHED,)) for item in part[index + 1 :]]
                failed = ActionResult(part[index].action, problems=(Problem.of(error),))
                return [*taken[:index], failed, *left]
            with attempt.observer.waiting(f"to try again: {said}", deadline - host.now()):
                _wait_while_primary(attempt)


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
        if not chosen.action.helper:
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


def look(action: Action, state: ClusterState | Notice, host: Host) -> list[Step]:
    """Return what is missing of an action. Raises OperationFailed, also for a bug in the handler."""

    def missing() -> list[Step]:
        if action.handler.observe is None:
            return fit(action.handler.plan(action.config, _as_notice(state), None), action)
        seen = action.handler.observe(action.config, state, host)
        return fit(action.handler.plan(action.config, state, seen), action)

    return answer(action, state.cluster, host, missing)


def fit(planned: Iterable[Step], action: Action) -> list[Step]:
    """Return steps fit to be taken, shown and stored, whatever a plug-in has planned. Raises TypeError, ValueError."""
    found = list(islice(planned, MOST_STEPS + 1))
    if len(found) > MOST_STEPS:
        raise ValueError(f"more than {MOST_STEPS} steps")
    return [_named(step, action) for step in found]


def _named(step: Step, action: Action) -> Step:
    if not isinstance(step, Step):
        raise TypeError(f"plan must return steps, not {step}")
    if not 0 <= step.limit <= LONGEST_STEP:
        raise ValueError(f"the limit of a step must be between 0 and {LONGEST_STEP:.0f} s, not {step.limit}")
    kind, target = one_line(step.kind) or action.name, one_line(step.target)
    node = step.node if isinstance(step.node, int) else None
    return replace(step, what=one_line(step.what, MOST), kind=kind, target=target, node=node)


def _as_notice(state: ClusterState | Notice) -> Notice:
    return state if isinstance(state, Notice) else notice_of(state)


def answer(action: Action, cluster: Cluster, host: Host, question: Callable[[], T]) -> T:
    """Return what a handler answers. Raises OperationFailed for whatever it raises, and if a plug-in does not return.

    What is ours returns: all that it waits for has a limit.
    """
    asked = partial(_asked, action, question)
    if action.built_in:
        return asked()
    limit = min(PLUG_IN_LIMIT, host.end - host.now()) if isinstance(host, Deadline) else PLUG_IN_LIMIT
    try:
        return _aside(action.name, cluster.name).ask(asked, max(limit, 0.0))
    except TimeoutError:
        what = f"the handler {action.name} does not return"
        raise OperationFailed(what, code="no_answer") from None


def _asked(action: Action, question: Callable[[], T]) -> T:
    try:
        return question()
    except OperationFailed:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
            raise  # of the user's: no other thread gets a signal
        raise bug(action, error) from error


@cache
def _aside(handler: str, cluster: str) -> Aside:
    return Aside(f"{handler} of {cluster}")


def bug(action: Action, error: BaseException) -> OperationFailed:
    """Return the error for a broken handler; a failover goes on as after any other failure."""
    log.debug("handler %s", action.name, exc_info=True)
    try:
        said = repr(error)
    except Exception:
        said = type(error).__name__
    return OperationFailed(f"a bug in the handler {action.name}: {said}", code="bug")
