"""Looking without an event: events get lost, and a promotion by hand sends none.

While there is no primary, or repmgr says that one is in trouble, the looks come ten times a second, for repmgr itself
looks once a second only; not longer than a minute, for a cluster may stay down.
"""

from __future__ import annotations

import logging

from repmgr_hooks.cluster.decide import LastKnownPrimary, PrimaryDecision
from repmgr_hooks.engine.drift import Drift, find_drift
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.journal.rows import Observation
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

NEVER = 3600.0
HURRY_EVERY = 0.1
HURRY_FOR = 60.0


class Monitor:
    """When to look next, and what was seen last; ``monitor_interval`` in seconds, 0 for never."""

    def __init__(self, managed: ManagedCluster, host: Host, monitor_interval: float) -> None:
        self._managed, self._host, self._monitor_interval = managed, host, monitor_interval
        self._next = host.now()
        self._hurry_until = 0.0
        self._said = ""
        self._looked: float | None = None
        self._fingerprints: dict[str, object] = {}
        self.decision: PrimaryDecision | None = None
        """Of the last look."""
        self.news: Observation | None = None
        """What the last look saw, if the look before saw something else."""
        self.warnings: tuple[str, ...] = ()
        """What the last look found that no step of ours can mend."""

    def due_in(self) -> float:
        """Return the seconds until the next look."""
        return max(self._next - self._host.now(), 0.0) if self._monitor_interval else NEVER

    def look_now(self, hurry: bool = False) -> None:
        """Look next: an event has come; ``hurry`` if it may be the first sign that the primary is gone."""
        self._next = self._host.now()
        if hurry:
            self._hurry_until = self._next + HURRY_FOR

    def look(self, memory: LastKnownPrimary) -> Drift:
        """Look now, and plan the next look."""
        seen = find_drift(self._managed, self._host, memory, self._fingerprints)
        self.news = self._news(seen)
        self._plan_next(seen.decision)
        self._log(seen)
        self.warnings = seen.warnings
        return seen

    def _news(self, drift: Drift) -> Observation | None:
        decision, seen, before = drift.decision, self.decision, self._looked
        self._looked = drift.at
        if seen and (seen.primary, seen.timeline, seen.reason) == (
            decision.primary,
            decision.timeline,
            decision.reason,
        ):
            return None
        nodes = "\n".join(map(str, decision.states))
        return Observation(drift.at, before, decision.primary, decision.timeline, str(decision), nodes)

    def _plan_next(self, decision: PrimaryDecision) -> None:
        now, before = self._host.now(), self.decision
        self.decision = decision
        if decision.primary is None and (before is None or before.primary is not None):
            self._hurry_until = now + HURRY_FOR
        if before and decision.primary not in (None, before.primary):
            self._hurry_until = now
        self._next = now + (HURRY_EVERY if now < self._hurry_until else self._monitor_interval)

    def _log(self, drift: Drift) -> None:
        decision = drift.decision
        unknown = [str(decision)] if decision.primary is None else []
        said = "; ".join([*map(str, decision.notes), *unknown, *drift.missing, *drift.warnings])
        if said != self._said:
            name = self._managed.cluster.name
            log.warning("%s: %s", name, said) if said else log.info("%s: in the desired state again", name)
        self._said = said
