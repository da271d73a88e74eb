"""Whether a gateway was away, and for how long what it remembers is no more than a hint.

One gateway that was switched off for a week remembers the primary of a week ago. If the newer one happens to be silent
when it returns, nothing that it sees contradicts its memory; the other gateway, or the nodes themselves, must speak for
that primary before clients are led to it (``decide.doubted``). A gateway that was there all the time has seen each
newer timeline itself.

A virtual machine that was paused, or a host that slept, is the same, and nothing was started anew. Which of its clocks
have gone on meanwhile depends on what paused it: of a sleeping host all but the monotonic one (clock_gettime(2)); of a
paused machine all, or none until NTP sets the one on the wall. The primary's own clock has gone on in any case: where
only the one on the wall has jumped, the primary tells whether it was set or this gateway stood still.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from repmgr_hooks import clock
from repmgr_hooks.cluster import gateways
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.heartbeat import (
    AWAY_AFTER,
    Progress,
    forget_that_primary_was_known,
    is_away,
    knew_primary_at,
    saw_primary,
)
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)


class Absence:
    """Of one service and one cluster: from its start, or from when it stood still, until the primary is known again."""

    def __init__(self, cluster: Cluster, host: Host, progress: Progress) -> None:
        self._cluster, self._host, self._progress = cluster, host, progress
        self._away, self._known_at = is_away(cluster), knew_primary_at(cluster)
        self._ahead = self._of_our_clocks()
        """How far each clock was before the monotonic one at the last look."""
        self._node_ahead: tuple[int, float] | None = None
        """The same of the primary's clock, and which node that is."""

    def considered(self, last_known: LastKnownPrimary) -> LastKnownPrimary:
        """Return what is remembered, and whether it is to be doubted."""
        before, self._ahead = self._ahead, self._of_our_clocks()
        stood_still, self._progress.stood_still = self._progress.stood_still, False
        on_wall, since_boot = (now - then > AWAY_AFTER for now, then in zip(self._ahead, before, strict=True))
        if stood_still or since_boot or (on_wall and not self._wall_was_set()):
            self._stood_still()
        elif self._away and not is_away(self._cluster) and knew_primary_at(self._cluster) != self._known_at:
            self._away = False  # somebody has decided by hand
        return replace(last_known, away=self._away)

    def saw(self, decision: PrimaryDecision | None) -> None:
        """A look, or a run, has ended with this decision."""
        if decision and decision.primary is not None:
            self._away = False
            saw_primary(self._cluster)

    def heard(self, node: int, time: float) -> bool:
        """Note what the clock of the primary says; True if we have stood still since it was heard before."""
        before, self._node_ahead = self._node_ahead, (node, time - self._host.now())
        if before and before[0] == node and self._node_ahead[1] - before[1] > AWAY_AFTER:
            self._stood_still()
            return True
        return False

    def _wall_was_set(self) -> bool:
        """True if the clock of the primary that was heard last has not gone on, as ours on the wall has."""
        if not (self._cluster.gateway.hosts and self._node_ahead):
            return False
        node, ahead = self._node_ahead
        try:
            _, time = gateways.look_with_time(self._cluster, node, self._host)
        except OperationFailed:
            return False
        return time is not None and time - self._host.now() - ahead <= AWAY_AFTER

    def _stood_still(self) -> None:
        if not self._cluster.gateway.hosts:
            return
        log.warning("%s: this gateway has stood still, or a clock was set: it may be away", self._cluster.name)
        forget_that_primary_was_known(self._cluster)
        self._away, self._known_at = True, knew_primary_at(self._cluster)

    def _of_our_clocks(self) -> tuple[float, float]:
        now = self._host.now()
        return clock.wall() - now, clock.since_boot() - now
