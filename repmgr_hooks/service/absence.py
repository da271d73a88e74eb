"""Whether a gateway was away, and for how long what it remembers is no more than a hint.

One gateway that was switched off for a week remembers the primary of a week ago. If the newer one happens to be silent
when it returns, nothing that it sees contradicts its memory; the other gateway, or the nodes themselves, must speak for
that primary before clients are led to it (``decide.doubted``). A gateway that was there all the time has seen each
newer timeline itself.
"""

from __future__ import annotations

from dataclasses import replace

from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.journal.heartbeat import is_away, saw_primary
from repmgr_hooks.settings.cluster import Cluster


class Absence:
    """Of one service and one cluster: from its start until the primary is known again."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._away = cluster, is_away(cluster)

    def considered(self, last_known: LastKnownPrimary) -> LastKnownPrimary:
        """Return what is remembered, and whether it is to be doubted."""
        return replace(last_known, away=self._away)

    def saw(self, decision: PrimaryDecision | None) -> None:
        """A look, or a run, has ended with this decision."""
        if decision and decision.primary is not None:
            self._away = False
            saw_primary(self._cluster)
