"""Which node is the primary, and why: a pure function of what the nodes say and of what is remembered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from repmgr_hooks.cluster import barmans
from repmgr_hooks.cluster.last_known import NOTHING_KNOWN, LastKnownPrimary
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.reasons import Reason, ReasonCode
from repmgr_hooks.errors import Problem
from repmgr_hooks.event import Event
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster


@dataclass(frozen=True)
class PrimaryDecision:
    """Which node is the primary (None: unknown, and then no route is moved), and why.

    ``stale_primaries`` are certainly not the primary although they are out of recovery: nothing may lead to them.
    ``notes``: what else is wrong.
    """

    primary: int | None
    timeline: int
    reason: Reason
    states: tuple[NodeState, ...] = ()
    stale_primaries: tuple[int, ...] = ()
    notes: tuple[Reason, ...] = ()

    @property
    def strange_primaries(self) -> tuple[int, ...]:
        """Nodes of another system that are out of recovery."""
        return _nodes(state for state in self.states if state.stranger and not state.in_recovery)

    @property
    def hint(self) -> str:
        """What to do while the primary is unknown."""
        return self.reason.hint

    @property
    def problem(self) -> Problem:
        """Why the primary is unknown, in a form that is stored and sent."""
        return Problem(self.reason.code.name.lower(), str(self), self.hint)

    @property
    def primary_state(self) -> NodeState | None:
        """What the primary said."""
        return next((state for state in self.states if state.node == self.primary), None)

    def __str__(self) -> str:
        if self.primary is None:
            return f"the primary is unknown: {self.reason}"
        return f"the primary is node {self.primary}, timeline {self.timeline}: {self.reason}"


def last_known_of(primary: NodeState) -> LastKnownPrimary:
    """Return what is to be remembered of a primary."""
    return LastKnownPrimary(primary.node, primary.timeline, primary.system_identifier)


@dataclass(frozen=True)
class ClusterState:
    """All that a handler's ``observe`` and ``plan`` may rely on: the cluster, its primary, and the event, if any."""

    cluster: Cluster
    primary: int
    timeline: int
    states: Mapping[int, NodeState] = field(default_factory=dict)
    event: Event | None = None
    last_known: LastKnownPrimary = NOTHING_KNOWN
    """What was remembered when it was decided; the decision itself from the first step on."""

    @property
    def primary_host(self) -> str:
        """The address of the primary."""
        return self.cluster.nodes[self.primary].host

    @property
    def barman(self) -> Barman:
        """Barman's settings. Raises OperationFailed if each gateway has its own, and this host is none of them."""
        return barmans.of_this_host(self.cluster)

    @property
    def standbys(self) -> tuple[int, ...]:
        """The nodes that answered that they are in recovery."""
        return tuple(n for n, state in sorted(self.states.items()) if state.reachable and state.role == "standby")


def decide(
    states: Sequence[NodeState], last_known: LastKnownPrimary = NOTHING_KNOWN, most_changes: int | None = None
) -> PrimaryDecision:
    """Return the primary, or an unknown that says why.

    ``most_changes``: with so many changes of the primary lately, the next one is not followed (None: it always is).
    """
    strangers = _strangers(states, last_known)
    states = [_unheard(state) if state in strangers else state for state in states]
    voters = [state for state in states if state.reachable and not state.witness]
    primaries = [state for state in voters if state.is_primary]
    primary, reason = _choose(voters, primaries, last_known)
    if reason.code is ReasonCode.NOBODY and (silent := _nodes(state for state in states if not state.reachable)):
        shut = _nodes(state for state in states if state.rejected and state.node == last_known.primary)
        reason = Reason(ReasonCode.SHUT_OUT, shut) if shut else Reason(ReasonCode.UNHEARD, silent)
    swinging = most_changes is not None and last_known.changes >= most_changes
    if primary and swinging and primary.node != last_known.primary:
        reason = Reason(ReasonCode.SWINGING, (primary.node,))
        primary = None
    if primary is None:
        comparable = reason.code not in (ReasonCode.FOREIGN, ReasonCode.SYSTEMS)
        stale_primaries = _stale_primaries(voters, primaries, last_known) if comparable else ()
        notes = tuple(_notes(states, None, stale_primaries, last_known.timeline))
        return PrimaryDecision(None, 0, reason, tuple(states), stale_primaries, notes)
    stale_primaries = _nodes(state for state in primaries if state.timeline < primary.timeline)
    notes = tuple(_notes(states, primary, stale_primaries, primary.timeline))
    return PrimaryDecision(primary.node, primary.timeline, reason, tuple(states), stale_primaries, notes)


def doubted(found: PrimaryDecision) -> PrimaryDecision:
    """Return an unknown in the place of a primary that only the memory of a gateway that was away speaks for.

    All nodes that answer speak for it, or it and its standbys if they are more than half of the nodes.
    """
    nodes = [state for state in found.states if not (state.witness or state.stranger)]
    silent = _nodes(state for state in nodes if not state.reachable)
    followers = [state for state in nodes if state.reachable and _receives_from(state, found.primary)]
    if found.primary is None or not silent or 2 * (1 + len(followers)) > len(nodes):
        return found
    notes = tuple(_notes(found.states, None, found.stale_primaries, found.timeline))
    return PrimaryDecision(None, 0, Reason(ReasonCode.AWAY, silent), found.states, found.stale_primaries, notes)


def _strangers(states: Sequence[NodeState], last_known: LastKnownPrimary) -> list[NodeState]:
    """Nodes of another system, while a primary of ours answers: they have no say, and nothing is done to them.

    Without one, they may be our cluster that was made anew: then the primary is unknown.
    """
    voters = [state for state in states if state.reachable and not state.witness]
    ours = [state for state in voters if state.system_identifier == last_known.system_identifier]
    if not any(state.is_primary for state in ours):
        return []
    return [state for state in voters if state not in ours]


def _unheard(stranger: NodeState) -> NodeState:
    """Return a node that says nothing; if it is a primary, repmgrd may still follow it."""
    error = "it does not have the cluster's system identifier"
    return NodeState(stranger.node, error, stranger.in_recovery, stranger=True)


def _choose(
    voters: Sequence[NodeState], primaries: Sequence[NodeState], last_known: LastKnownPrimary
) -> tuple[NodeState | None, Reason]:
    systems = {state.system_identifier for state in voters}
    foreign = _nodes(state for state in voters if state.system_identifier != last_known.system_identifier)
    if last_known.system_identifier and foreign:
        return None, Reason(ReasonCode.FOREIGN, foreign)
    if len(systems) > 1:
        return None, Reason(ReasonCode.SYSTEMS)
    if not primaries:
        return None, Reason(ReasonCode.NOBODY)
    newest = max(last_known.timeline, *(state.timeline for state in voters))
    leaders = [state for state in primaries if state.timeline == newest]
    if len(leaders) > 1:
        return None, Reason(ReasonCode.TWINS, _nodes(leaders), newest)
    kept = next((state for state in primaries if state.node == last_known.primary), None)
    if not leaders:
        return None, Reason(ReasonCode.BEHIND, _nodes(primaries), newest)
    (leader,) = leaders
    if leader is kept or _promoted(leader, kept, last_known):
        by_repmgr = leader.made_by_repmgr or leader.node in last_known.promoted
        several = ReasonCode.NEWEST if by_repmgr else ReasonCode.SO_FAR
        return leader, Reason(ReasonCode.ONLY if len(primaries) == 1 else several)
    if kept and kept.timeline >= last_known.timeline:
        newer = [state for state in primaries if state.timeline > kept.timeline and _promoted(state, kept, last_known)]
        return max([kept, *newer], key=lambda state: state.timeline), Reason(ReasonCode.KEPT)
    if len(primaries) > 1:
        return None, Reason(ReasonCode.UNCLEAR, _nodes(primaries))
    silent = last_known.primary not in {state.node for state in voters}
    behind = [state for state in voters if state.timeline < leader.timeline]
    if silent and any(_receives_from(state, last_known.primary) for state in behind):
        return None, Reason(ReasonCode.FOLLOWED, (leader.node,))
    return leader, Reason(ReasonCode.ONLY)


def _promoted(state: NodeState, kept: NodeState | None, last_known: LastKnownPrimary) -> bool:
    """True if repmgr has promoted the node: by its own metadata, if the primary so far has not long said the same."""
    stale = kept is not None and kept.registered_primaries == (state.node,)
    return state.node in last_known.promoted or (state.made_by_repmgr and not stale)


def _receives_from(state: NodeState, primary: int | None) -> bool:
    receiver = state.receiver
    return bool(primary and receiver and receiver.streaming and receiver.upstream == primary)


def _stale_primaries(
    voters: Sequence[NodeState], primaries: Sequence[NodeState], last_known: LastKnownPrimary
) -> tuple[int, ...]:
    """Primaries on a timeline older than what we remember, or than a node that repmgr has made follow another."""
    return _nodes(
        state
        for state in primaries
        if state.timeline < last_known.timeline
        or any(other.timeline > state.timeline and _has_left(state, other, last_known) for other in voters)
    )


def _has_left(state: NodeState, other: NodeState, last_known: LastKnownPrimary) -> bool:
    """True if repmgr has made a node follow another than this one; what a standby without a stream has from before a
    failover says nothing of it.
    """
    named = other.registered_primaries
    old = named == (last_known.primary,) and not other.is_primary and not _streams(other)
    return bool(named) and state.node not in named and not old


def _streams(state: NodeState) -> bool:
    return state.receiver is not None and state.receiver.streaming


def _notes(
    states: Sequence[NodeState], primary: NodeState | None, stale_primaries: tuple[int, ...], known_timeline: int
) -> Iterable[Reason]:
    newest = max((state.timeline for state in states), default=0)
    for state in states:
        if state.node in stale_primaries:
            yield Reason(ReasonCode.STALE_PRIMARY, (state.node,), max(newest, known_timeline), state.timeline)
    if primary and (newer := _nodes(s for s in states if s.is_primary and s.timeline > primary.timeline)):
        yield Reason(ReasonCode.BESIDE, newer)
    if primary is None:
        yield from _stray(states, stale_primaries)
    for state in states:
        if state.stranger:
            yield Reason(ReasonCode.STRANGER, (state.node,))
        elif not state.reachable:
            yield Reason(ReasonCode.REJECTS if state.rejected else ReasonCode.SILENT, (state.node,))
    configured = [state.node for state in states]
    views = [primary] if primary else [state for state in states if state.reachable]
    registered = {row.node for state in views for row in state.registered if row.active and row.kind != "witness"}
    yield from (Reason(ReasonCode.UNCONFIGURED, (node,)) for node in sorted(registered - set(configured)))
    if primary is None:
        return
    known = {row.node for row in primary.registered}
    yield from (Reason(ReasonCode.UNREGISTERED, (node,)) for node in configured if node not in known)
    if not primary.made_by_repmgr and primary.node in known:
        yield Reason(ReasonCode.METADATA, (primary.node,))


def _stray(states: Sequence[NodeState], stale_primaries: tuple[int, ...]) -> Iterable[Reason]:
    """Beside a stale primary, a standby on a newer timeline is what is left of the newer primary."""
    primaries = [state for state in states if state.is_primary and state.node not in stale_primaries]
    led = max((state.timeline for state in primaries), default=None)
    systems = {state.system_identifier for state in primaries}
    for state in states:
        ours = state.reachable and not state.witness and state.system_identifier in systems
        if ours and led is not None and state.timeline > led and not _streams(state):
            yield Reason(ReasonCode.STRAY, (state.node,), led, state.timeline)


def _nodes(states: Iterable[NodeState]) -> tuple[int, ...]:
    return tuple(sorted(state.node for state in states))
