"""Looking without an event: events get lost, and a promotion by hand sends none.

While there is no primary, or repmgr says that one is in trouble, the looks come ten times a second, for repmgr itself
looks once a second only; not longer than a minute, for a cluster may stay down.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import PrimaryDecision, last_known_of
from repmgr_hooks.cluster.host_names import NameWatch
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.node_ports import PortWatch
from repmgr_hooks.cluster.obstacles import Hindrance, Obstacle
from repmgr_hooks.cluster.readiness import ReadinessProbe
from repmgr_hooks.cluster.reasons import ReasonCode
from repmgr_hooks.engine.drift import Drift, find_drift
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import NOTHING_OPENED
from repmgr_hooks.errors import Problem
from repmgr_hooks.journal.heartbeat import Progress
from repmgr_hooks.journal.rows import Observation, Place
from repmgr_hooks.log import hint
from repmgr_hooks.service.absence import Absence
from repmgr_hooks.service.gateway_watch import GatewayWatch
from repmgr_hooks.service.run_turns import RUNS
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

NEVER = 3600.0
HURRY_EVERY = 0.1
HURRY_FOR = 60.0
AHEAD_EVERY = 15.0
MANY = 8
"""More clusters are not looked at so often for whether a failover could happen, while it could: that is two more
questions, and all repmgr.conf. Of so few that is asked at each look."""
REST_FOR = 20.0
"""So many seconds after a look that found all to be well are the nodes alone looked at, while runs for other clusters
are under way: each change of a rule would have all rules read again for each cluster, which holds those runs up."""
HELD_FOR = 10.0
"""So long is something to stand against a failover before it is told: a switchover pauses repmgrd, and starts nodes."""


class Monitor:
    """When to look next, and what was seen last; ``monitor_interval`` in seconds, 0 for never; of so many clusters."""

    def __init__(
        self, managed: ManagedCluster, host: Host, monitor_interval: float, progress: Progress, clusters: int = 1
    ) -> None:
        self._managed, self._host, self._monitor_interval = managed, host, monitor_interval
        self.stirred = threading.Event()
        """Set when something has happened that a look may see: a restart is over before the next one is due."""
        self._next = self._soonest = host.now()
        self._whole, self._hurry_until = -REST_FOR, 0.0
        """When everything was looked at last, and until when the looks come fast."""
        self._called, self._losses = False, RUNS.losses
        """Whether something asks for the next look, and the losses that others had had at the last one."""
        self._said: list[Problem] = []
        self._looked: float | None = None
        self.fingerprints: dict[str, object] = {}
        """What each handler's was when nothing was missing."""
        self.decision: PrimaryDecision | None = None
        """Of the last look."""
        self.news: Observation | None = None
        """What the last look saw, if the look before saw something else."""
        self.warnings: tuple[Problem, ...] = ()
        """What the last look found that no step of ours can fix."""
        self.obstacles: tuple[Obstacle, ...] = ()
        """What stands against a failover, and has done so for ``HELD_FOR`` seconds."""
        self.opened = NOTHING_OPENED
        self._unknown_since: float | None = None
        self.readiness, self._names, self._ports = ReadinessProbe(), NameWatch(), PortWatch()
        self._pending: tuple[Problem, ...] = ()
        """What the last look found missing."""
        self._unseen: frozenset[Place] = frozenset()
        """The actions of which the last look could not see what is missing."""
        self._against: dict[Hindrance, float] = {}
        """What stood against it in the last look, and since when."""
        self._asked: object = None
        self._many = clusters > MANY
        self._ask_again, self._ask_every = 0.0, AHEAD_EVERY if self._many else 0.0
        self.absence = Absence(managed.cluster, host, progress)
        self._gateways = GatewayWatch(managed.cluster, host, self.absence)

    def due_in(self) -> float:
        """Return the seconds until the next look."""
        if not self._monitor_interval:
            return NEVER
        if self._gateways.moved:
            return 0.0
        # A node may end each connection at once, as with an idle_session_timeout of a millisecond.
        due = min(self._next, self._soonest) if self.stirred.is_set() else self._next
        return max(due - self._host.now(), 0.0)

    @property
    def closed(self) -> tuple[str, ...]:
        """The ports that are to lead nowhere now, for no primary has been known for long, or this gateway was away."""
        setting, decision = self._managed.cluster.unknown, self.decision
        if decision and decision.reason.code is ReasonCode.AWAY:
            return self._managed.opened_ports
        since = self._unknown_since
        return setting.close if setting and since is not None and self._host.now() - since >= setting.after else ()

    def sees_another(self, last_known: LastKnownPrimary) -> bool:
        """True if the last look has seen another primary than the one that is remembered, or none."""
        seen = self.decision.primary if self.decision else None
        return last_known.primary is not None and seen != last_known.primary

    def can_rest(self) -> bool:
        """True if all was well in a look that is not long ago, and nothing has happened since: the nodes will do.

        Few clusters are looked at each time, and those with ports for readers, which follow each look; and with several
        gateways, which count on hearing from each other (``gateways.ALIVE_FOR``).
        """
        cluster, seen = self._managed.cluster, self.decision
        in_any_case = not self._many or cluster.readers or cluster.gateway.hosts
        well = seen is not None and seen.primary is not None and not (seen.notes or self._pending or self._against)
        called = self.stirred.is_set() or self._called or self._losses != RUNS.losses
        now = self._host.now()
        return well and not in_any_case and not called and self._hurry_until <= now < self._whole + REST_FOR

    def rest(self) -> None:
        """The nodes alone were looked at; plan the next look."""
        now = self._host.now()
        self._looked = clock.wall()
        self._next = max(min(now + self._monitor_interval, self._whole + REST_FOR), now)

    def look_now(self, hurry: bool = False) -> None:
        """Look next: an event has come; ``hurry`` if it may be the first sign that the primary is gone."""
        self._next, self._called = self._host.now(), True
        if hurry:
            self._hurry_until = self._next + HURRY_FOR

    def look(self, last_known: LastKnownPrimary, show: Callable[[PrimaryDecision], None]) -> Drift:
        """Look now, and plan the next look; ``show`` is given what the nodes say, as soon as that is known."""
        self.stirred.clear()
        begun, self._whole, losses = self._host.now(), -REST_FOR, RUNS.losses
        was_well = self.decision is not None and not self._pending
        primary = self.decision.primary if self.decision else None
        taken_over = self._gateways.takes_over()
        seen = find_drift(self._managed, self._host, last_known, self.fingerprints, self.closed, show)
        others = self._gateways.look(seen.decision)
        at_once = taken_over or bool(self._unseen - seen.unseen)
        seen = replace(seen, at_once=at_once, warnings=(*seen.warnings, *others))
        self._unseen = seen.unseen
        if (state := seen.decision.primary_state) and last_known_of(state) == last_known:
            self.opened = self.opened.and_now(state, seen.open_ports)
        self.news = self._news(seen)
        if was_well and seen.pending and seen.decision.primary == primary:
            RUNS.lost()
        self._plan_next(seen.decision)
        self._called, self._losses = False, losses
        if self._gateways.stood_still:
            self.look_now()
        if seen.decision.primary is None:
            self._against, self.obstacles = {}, ()
        elif seen.pending in ((), self._pending):  # else there are other things to do now
            self._look_ahead(seen.decision, last_known)
        self._pending = seen.pending
        cluster, host = self._managed.cluster, self._host
        ports = self._ports.look(cluster, seen.decision.primary, host)
        self.warnings = (*seen.warnings, *self._names.look(cluster, host), *ports)
        self._log(seen)
        self._whole = begun
        return seen

    def _look_ahead(self, decision: PrimaryDecision, last_known: LastKnownPrimary) -> None:
        """See whether a failover could happen; of many clusters less often, while it could and no node has changed."""
        roles = [(node.node, node.reachable, node.role, node.timeline) for node in decision.states]
        registered, now = decision.primary_state and decision.primary_state.registered, self._host.now()
        asked = decision.primary, roles, registered
        if not self._against and asked == self._asked and now < self._ask_again:
            return
        self._asked, self._ask_again = asked, now + self._ask_every
        found = self.readiness.look(decision, self._managed.cluster, self._host, last_known.since)
        obstacles = found.obstacles if found else ()
        self._against = {obstacle.code: self._against.get(obstacle.code, now) for obstacle in obstacles}
        self.obstacles = tuple(item for item in obstacles if now - self._against[item.code] >= HELD_FOR)

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
        code = decision.reason.code.name.lower()
        return Observation(drift.at, before, decision.primary, decision.timeline, code, str(decision), nodes)

    def _plan_next(self, decision: PrimaryDecision) -> None:
        now, before = self._host.now(), self.decision
        self.decision = decision
        if decision.primary is not None:
            self._unknown_since = None
        elif self._unknown_since is None:
            self._unknown_since = now
        if decision.primary is None and (before is None or before.primary is not None):
            self._hurry_until = now + HURRY_FOR
        if before and decision.primary not in (None, before.primary):
            self._hurry_until = now
        self._soonest = now + HURRY_EVERY
        self._next = now + (HURRY_EVERY if now < self._hurry_until else self._monitor_interval)

    def _log(self, drift: Drift) -> None:
        decision = drift.decision
        unknown = [decision.problem] if decision.primary is None else []
        against = [obstacle.problem for obstacle in self.obstacles]
        found = [*(note.problem for note in decision.notes), *unknown, *drift.pending, *self.warnings, *against]
        if found != self._said:
            name = self._managed.cluster.name
            if found:
                hints = hint(*(problem.hint for problem in found))
                log.warning("%s: %s", name, "; ".join(map(str, found)), extra=hints)
            else:
                log.info("%s: in the desired state again", name)
        self._said = found
