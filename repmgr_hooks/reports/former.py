"""What ``status`` shows of each former primary: whether it is stopped, and how far it is on its way to a standby."""

from __future__ import annotations

import time
from dataclasses import dataclass

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.former_primary import record
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.settings.former_primary import FormerPrimary

WORDS = {
    "stopping": "is being stopped since",
    "running": "could not be stopped, at",
    "stopped": "is stopped since",
    "switched_off": "was switched off by a program, and was not seen to be stopped, at",
    "rejoining": "is being rejoined since",
    "cloning": "is being cloned since",
    "given_up": "stays stopped",
}
"""The states, in words."""


@dataclass(frozen=True)
class FormerSeen:
    """A former primary: its state, since when (seconds since the epoch), and what went wrong last."""

    node: int
    state: str
    since: float
    attempts: int
    problem: str = ""
    hint: str = ""

    @property
    def fenced(self) -> bool:
        """True if we have stopped it."""
        return self.state not in ("stopping", "running")

    def __str__(self) -> str:
        at = "" if self.state == "given_up" else time.strftime(" %H:%M:%S", time.localtime(self.since))
        wrong = f" ({self.problem})" if self.problem else ""
        return f"former primary: node {self.node} {WORDS[self.state]}{at}{wrong}"


def formers_of(
    managed: ManagedCluster, decision: PrimaryDecision
) -> tuple[tuple[FormerSeen, ...], tuple[Problem, ...]]:
    """Return the former primaries of a cluster that are looked after, and those that are not any more; or why that
    cannot be read."""
    settings = managed.cluster.former_primary
    try:
        known = record.read(managed.cluster)
    except OperationFailed as error:
        return (), (Problem.of(error),)
    formers = [former for former in known.values() if former.phase != "done"]
    if settings is None:
        answer = {state.node for state in decision.states if state.reachable}
        return (), tuple(_left(managed, former) for former in formers if former.node not in answer)
    return tuple(_seen(managed, settings, former) for former in formers), ()


def _left(managed: ManagedCluster, former: Former) -> Problem:
    """It was stopped, and the section was removed since."""
    what = f"node {former.node} was stopped, a stale primary; without 'former_primary' nobody rejoins it"
    return Problem("former_left", what, f"on node {former.node}: {managed.cluster.rejoin(former.primary, 'repmgr')}")


def _seen(managed: ManagedCluster, settings: FormerPrimary, former: Former) -> FormerSeen:
    recent = former.recent(settings.limit.window, clock.wall())
    if former.gave_up(settings, clock.wall()):
        way = f"on node {former.node}: {managed.cluster.rejoin(former.primary, 'repmgr')}"
        return FormerSeen(former.node, "given_up", former.begun, recent, former.why_given_up(settings), way)
    return FormerSeen(former.node, _state(former), former.begun, recent, former.problem, former.hint)


def _state(former: Former) -> str:
    if former.job:
        return "rejoining" if former.phase == "rejoin" else "cloning"
    if not former.stopped:
        return "running" if former.problem else "stopping"
    return "switched_off" if former.by_power else "stopped"
