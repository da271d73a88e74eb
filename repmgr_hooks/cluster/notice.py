"""What a notification is given: its event, and what is known of the cluster at that moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.event import Event
from repmgr_hooks.settings.cluster import Cluster


@dataclass(frozen=True)
class Notice:
    """An event, and the cluster as it was seen when the event was taken up; ``primary`` is None while it is unknown.

    ``old_primary``: the primary before this one; while there is none, the last one.
    """

    cluster: Cluster
    event: Event | None
    primary: int | None
    timeline: int
    states: Mapping[int, NodeState]
    old_primary: int | None = None

    @property
    def primary_host(self) -> str:
        """The address of the primary; empty while it is unknown."""
        return self._host(self.primary)

    @property
    def old_primary_host(self) -> str:
        """The address of the old primary; empty if there is none, or if it is no longer in the configuration."""
        return self._host(self.old_primary)

    @property
    def primary_port(self) -> int | None:
        """The port of the primary; None while it is unknown."""
        return self._port(self.primary)

    @property
    def old_primary_port(self) -> int | None:
        """That of the old primary; None if there is none, or if it is no longer in the configuration."""
        return self._port(self.old_primary)

    @property
    def contradicts(self) -> bool:
        """Whether the event contradicts the cluster."""
        return self.event is not None and self.event.contradicts(self.primary)

    @property
    def role(self) -> str:
        """What the node of the event is seen to be: primary, standby, witness or silent."""
        state = self.states.get(self.event.node) if self.event else None
        return state.role if state and state.reachable else "silent"

    def _host(self, node: int | None) -> str:
        found = self.cluster.nodes.get(node or 0)
        return found.host if found else ""

    def _port(self, node: int | None) -> int | None:
        return self.cluster.endpoint(node).port if node and node in self.cluster.nodes else None


def notice(cluster: Cluster, event: Event | None, decision: PrimaryDecision, last_known: LastKnownPrimary) -> Notice:
    """Return what is known at a decision."""
    states = {state.node: state for state in decision.states}
    return Notice(cluster, event, decision.primary, decision.timeline, states, _old(decision.primary, last_known))


def notice_of(state: ClusterState) -> Notice:
    """Return what is known when the primary is."""
    old = _old(state.primary, state.last_known)
    return Notice(state.cluster, state.event, state.primary, state.timeline, state.states, old)


def _old(primary: int | None, last_known: LastKnownPrimary) -> int | None:
    return last_known.primary if last_known.primary not in (None, primary) else last_known.previous
