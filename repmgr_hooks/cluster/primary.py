"""Which node is the primary now? Observes and decides, with what is remembered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision, decide, doubted, last_known_of
from repmgr_hooks.cluster.gateways import others_watch
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import observe
from repmgr_hooks.errors import OperationFailed, PrimaryChanged
from repmgr_hooks.event import Event, RoleClaim
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host


@dataclass(frozen=True)
class PrimaryFinder:
    """Decides for one cluster, with what is remembered of it."""

    settings: Cluster
    last_known: LastKnownPrimary

    def decision(self, host: Host) -> PrimaryDecision:
        """Observe the nodes and decide."""
        expected = self.settings.system_identifier or self.last_known.system_identifier
        known = replace(self.last_known, system_identifier=expected)
        found = decide(observe(self.settings, host), known, self.settings.flap_limit.changes)
        if not known.away or found.primary is None or others_watch(self.settings, found.primary, host):
            return found
        return doubted(found)


def contradicting(events: Sequence[Event], decision: PrimaryDecision) -> Event | None:
    """Return the last event that claims a primary, if the cluster has none that any of the events names."""
    claims = [event for event in events if event.meaning is RoleClaim.PRIMARY]
    return claims[-1] if claims and all(event.node != decision.primary for event in claims) else None


def confirmed(state: ClusterState, host: Host) -> ClusterState:
    """Look at the nodes again, and return the same primary with what they say now.

    Raises PrimaryChanged, also if the primary is silent and only a stale one answers, to which nothing may lead; or
    OperationFailed if the primary is silent.
    """
    decision = PrimaryFinder(state.cluster, state.last_known).decision(host)
    states = {node.node: node for node in decision.states}
    if not states[state.primary].reachable and decision.primary is None:
        if decision.stale_primaries:
            said = f"node {state.primary} does not answer, and a stale primary does; nothing more is done"
            raise PrimaryChanged(f"the primary has changed meanwhile: {said}")
        raise OperationFailed(f"the primary does not answer ({states[state.primary]})", code="no_answer")
    if (decision.primary, decision.timeline) != (state.primary, state.timeline):
        seen = "; ".join(map(str, decision.states))
        raise PrimaryChanged(f"the primary has changed meanwhile ({seen}); nothing more is done")
    return replace(state, states=states)


def cluster_state(decision: PrimaryDecision, finder: PrimaryFinder) -> ClusterState:
    """Return a decision with a primary in the form that handlers get."""
    assert decision.primary is not None
    states = {state.node: state for state in decision.states}
    return ClusterState(finder.settings, decision.primary, decision.timeline, states, last_known=finder.last_known)


def to_remember(state: ClusterState, now: float) -> LastKnownPrimary:
    """Return what is to be remembered of a primary that is followed: since now, if it is another one than before."""
    known, before = last_known_of(state.states[state.primary]), state.last_known
    return replace(known, since=before.since if known == before else now)


def as_remembered(decision: PrimaryDecision, known: LastKnownPrimary) -> bool:
    """True if the primary is the one that is remembered, and nothing is odd about it."""
    primary = decision.primary_state
    return primary is not None and not decision.notes and not known.away and last_known_of(primary) == known
