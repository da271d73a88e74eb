"""Works through the phases of a switchover; it ends served, whatever has failed.

Before a phase begins it stands in the record, so whoever is killed, the service takes back what was begun
(``take_back.py``, ``service/hold_keeper.py``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from repmgr_hooks import clock
from repmgr_hooks.engine import hold as holding
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.switchover import record, take_back, way_back
from repmgr_hooks.switchover.phases import PHASES, Ended, Phase, Plan, Work
from repmgr_hooks.switchover.record import MARGIN
from repmgr_hooks.switchover.way_back import WayBack

log = logging.getLogger(__name__)

FAILOVER_LIMIT = 90.0
"""Seconds for repmgrd to promote a node, if the primary has stopped and repmgr has not promoted one."""
END_LIMIT = way_back.LONGEST + FAILOVER_LIMIT + 2 * MARGIN
UNPAUSE_LIMIT = 10.0
BACK_LIMIT = 60.0
"""Seconds for an old primary to be a standby again; repmgr waits as long (standby_reconnect_timeout)."""


@dataclass(frozen=True)
class Outcome:
    """How it ended. ``primary``: who is it now; ``served``: the ports lead there, and nobody is held.

    ``problem``: what went wrong first. ``held_since`` and ``released``: from when on clients were held, and when they
    were let go on at the latest, in seconds since the epoch.
    """

    primary: int | None
    served: bool
    problem: Problem | None = None
    held_since: float | None = None
    released: float = 0.0
    phases: tuple[Ended, ...] = ()

    def good(self, plan: Plan) -> bool:
        """True if all was done."""
        return self.served and self.primary == plan.target and not self.problem


def carry_out(work: Work, begins: Callable[[Phase], None]) -> Outcome:
    """Work through the phases; whatever fails, let the clients go on and give the cluster back to repmgrd."""
    problem = None
    try:
        for phase in PHASES:
            work.note(phase=phase.name, until=clock.monotonic() + phase.limit + MARGIN)
            begins(phase)
            work.take(phase)
    except OperationFailed as error:
        problem = Problem.of(error)
    except KeyboardInterrupt:
        problem = Problem("interrupted", "interrupted")
    except Exception as error:
        log.exception("a bug in repmgr_hooks; please report it")
        problem = Problem("bug", f"a bug in repmgr_hooks: {error!r}", "please report it, with the log")
    return end(work, problem)


def end(work: Work, problem: Problem | None) -> Outcome:
    """Release the clients, unpause repmgrd, and say who is the primary. Where none is, repmgrd has to promote one."""
    plan = work.plan
    with contextlib.suppress(OperationFailed):
        work.note(phase="end", until=clock.monotonic() + END_LIMIT)
    if work.waits:
        try:
            plan.repmgr.give_up(work.host, UNPAUSE_LIMIT)
        except OperationFailed as error:
            log.warning("%s", error)
    if problem and (work.hold or work.record.paused):
        if work.primary() is None and not somebody_serves(work):
            unpause(work)
        work.wait(lambda: work.primary() == plan.source or work.is_led(work.primary()), FAILOVER_LIMIT)
    held, released = release(work), clock.wall()
    problem = problem or held
    if problem is None:
        # If the connection to its node was lost, repmgr may still be at work on the old primary. Nobody waits.
        work.wait(lambda: take_back.all_answer(work.record.paused, work.host, UNPAUSE_LIMIT), BACK_LIMIT)
    paused = unpause(work)
    problem = problem or paused
    primary, since = work.primary(), work.hold.since if work.hold else None
    return Outcome(primary, work.is_led(primary), problem, since, released, tuple(work.phases))


def somebody_serves(work: Work) -> bool:
    """Where repmgrd would promote no node, let one serve all the same; False if that is not safe, or has failed."""
    if work.record.repmgr:
        return False  # it may be at work
    way = WayBack(work.plan.managed.cluster, work.record, work.finder, work.host)
    try:
        return way.somebody_serves()
    except OperationFailed as error:
        log.warning("%s", error)
        return False
    finally:
        work.record = way.found


def release(work: Work) -> Problem | None:
    """Let go on who still waits; what cannot be taken back now is the service's."""
    failed = holding.release(work.plan.managed, work.hold, work.host) if work.hold else []
    return next(map(Problem.of, failed), None)


def unpause(work: Work) -> Problem | None:
    """Give the cluster back to repmgrd; a node that does not answer is left to the service, which finds the record."""
    nodes = work.record.paused
    left = take_back.unpaused(nodes, work.host, UNPAUSE_LIMIT)
    work.record = work.record.left_to_repmgrd(left)
    try:
        record.keep(work.plan.managed.cluster, work.record if left else None)
    except OperationFailed as error:
        return Problem.of(error)
    return _still_paused(left)


def _still_paused(nodes: Iterable[int]) -> Problem | None:
    names = " and ".join(f"node {node}" for node in nodes)
    what = f"repmgrd of {names} is still paused; the service unpauses it as soon as the node answers"
    return Problem("paused", what) if names else None
