"""While no primary is known: no port leads to a stale primary, the ports under ``unknown`` are closed, and those for
readers stay as they are but for nodes that do not answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.engine.asking import answer, fit
from repmgr_hooks.engine.executor import take_all
from repmgr_hooks.engine.routes import Action, ManagedCluster
from repmgr_hooks.engine.run import ActionResult, RunObserver, ScheduledAction
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.handlers import firewall
from repmgr_hooks.system.layers import Sparing
from repmgr_hooks.system.steps import Host, Step


def fence(
    managed: ManagedCluster,
    decision: PrimaryDecision,
    host: Host,
    observer: RunObserver | None,
    closed: Sequence[str] = (),
) -> list[ActionResult]:
    """While the primary is unknown: let nothing lead to a stale primary, and close the ``closed`` ports.

    Without an observer, only say what is missing.
    """
    actions = {action.name: action for action in managed.actions}
    host = Sparing(host)
    chosen = actions.values() if decision.stale_primaries else ()
    done = [
        _fence(
            action,
            partial(action.handler.fence, managed.cluster, decision.stale_primaries, host),
            managed,
            host,
            observer,
        )
        for action in chosen
    ]
    done += leave_silent(managed, decision, host, observer)
    if closed and (action := actions.get("firewall")):
        done.append(_fence(action, partial(firewall.close, managed.cluster, closed, host), managed, host, observer))
    return [item for item in done if item.steps or item.error]


def leave_silent(
    managed: ManagedCluster, decision: PrimaryDecision, host: Host, observer: RunObserver | None
) -> list[ActionResult]:
    """Let no port for readers lead to a node that does not answer, if others do: nobody waits for a promotion there."""
    some_silent = {state.reachable for state in decision.states} == {True, False}
    action = next((action for action in managed.actions if action.name == "firewall"), None)
    if not (some_silent and managed.cluster.readers and action):
        return []
    leave = partial(firewall.leave_silent, managed.cluster, decision.states, host)
    done = _fence(action, leave, managed, host, observer)
    return [done] if done.steps or done.error else []


def _fence(
    action: Action,
    asked: Callable[[], Sequence[Step]],
    managed: ManagedCluster,
    host: Host,
    observer: RunObserver | None,
) -> ActionResult:
    found: list[Step] = []
    failed: list[Problem] = []
    try:
        # Twice: which connections are left to be reset is seen when no rule leads there any more.
        for _ in range(2 if observer else 1):
            missing = answer(action, managed.cluster, host, lambda: fit(asked(), action))
            found += missing
            failed += take_all(missing, ScheduledAction(action, None), host, observer) if observer else []
            if failed or not missing:
                break
    except OperationFailed as error:
        failed.append(Problem.of(error))
    return ActionResult(action, tuple(found), tuple(failed))
