"""Ask a handler: whatever it raises is the failure of its action, and a plug-in that does not return is left alone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from typing import TypeVar

from repmgr_hooks.background import Aside
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.notice import Notice, notice_of
from repmgr_hooks.engine.routes import Action
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.layers import Deadline
from repmgr_hooks.system.steps import Host, Step
from repmgr_hooks.text import MOST, one_line

log = logging.getLogger(__name__)

PLUG_IN_LIMIT = 60.0
MOST_STEPS = 1000
LONGEST_STEP = 3600.0
T = TypeVar("T")


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
