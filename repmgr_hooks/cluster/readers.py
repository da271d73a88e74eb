"""To which nodes does a port for readers lead? A pure function of what the nodes say, and of where it leads now.

So that nothing flaps, it takes more to be let in than to stay: a standby is let in when it has streamed for
``STEADY_FOR`` seconds, by the clock of the node that it streams from, and lacks at most half of ``max_lag``; it stays
until it streams no more or lacks more than ``max_lag``. Where the port leads now is what the kernel's rules say, so
nothing has to be remembered.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.observe import NodeState, WalSender
from repmgr_hooks.settings.cluster import Cluster, Readers

STEADY_FOR = 10.0
"""Seconds; a standby that keeps failing begins a new stream each time."""


class Fitness(enum.Enum):
    """What a node is to readers, from the best to the worst."""

    FIT = "fit"
    """It may be let in, and stay."""
    YOUNG = "young"
    """It streams, but not for long yet; it may stay."""
    CATCHING_UP = "catching_up"
    """It lacks more than half of what is allowed; it may stay."""
    LAGS = "lags"
    PAUSED = "paused"
    NO_STREAM = "no_stream"
    ELSEWHERE = "elsewhere"
    """It is on another timeline than the primary, or follows another one: a branch may have the same number."""
    ASTRAY = "astray"
    """Its WAL comes from a node that is out of recovery, and not the primary."""
    SILENT = "silent"
    """It does not answer us; others still send WAL to it."""
    GONE = "gone"
    """It does not answer, and nobody sends WAL to it."""
    PRIMARY = "primary"
    STALE = "stale"
    """It is out of recovery, and not the primary."""

    @property
    def may_stay(self) -> bool:
        """True if a port that leads there may go on to do so."""
        return self in (Fitness.FIT, Fitness.YOUNG, Fitness.CATCHING_UP)

    @property
    def lost(self) -> bool:
        """True if readers that are connected there cannot stay."""
        return self in (Fitness.GONE, Fitness.STALE, Fitness.ASTRAY)


@dataclass(frozen=True)
class Reading:
    """What one node is to the readers of a port. ``lag``: bytes of the primary's WAL that it has not replayed."""

    node: int
    fitness: Fitness
    lag: int | None = None
    age: float | None = None

    @property
    def message(self) -> str:
        """Why it is not let in, if that is not its lag."""
        match self.fitness:
            case Fitness.FIT | Fitness.CATCHING_UP | Fitness.LAGS | Fitness.PRIMARY:
                return ""
            case Fitness.YOUNG:
                return f"has streamed for {self.age or 0:.0f} s only"
            case Fitness.PAUSED:
                return "its replay is paused"
            case Fitness.NO_STREAM:
                return "receives no WAL"
            case Fitness.ELSEWHERE:
                return "does not follow the primary"
            case Fitness.ASTRAY:
                return "follows a stale primary"
            case Fitness.STALE:
                return "is out of recovery, and not the primary"
            case Fitness.SILENT | Fitness.GONE:
                return "does not answer"


def readings(state: ClusterState, port: str) -> tuple[Reading, ...]:
    """Return what each node is to the readers of a port; witnesses are nothing to them."""
    settings, states = state.cluster.readers[port], state.states
    seen = [node for _, node in sorted(states.items()) if not node.witness] if state.primary in states else ()
    return tuple(_reading(node, settings, state) for node in seen)


def _reading(node: NodeState, port: Readers, state: ClusterState) -> Reading:
    sender = sender_to(node.node, state)
    if not node.reachable:
        return Reading(node.node, Fitness.SILENT if sender else Fitness.GONE)
    if not node.in_recovery:
        return Reading(node.node, Fitness.PRIMARY if node.node == state.primary else Fitness.STALE)
    primary = state.states[state.primary]
    lag, age = max(primary.lsn - node.replayed, 0), sender.age if sender else None
    if node.receiver is None or not node.receiver.streaming:
        return Reading(node.node, Fitness.NO_STREAM, lag, age)
    source = _source(node, state)
    # One on a newer timeline than its source's has left it; repmgr.nodes may not say so yet.
    if source and source.is_primary and source is not primary and node.timeline <= source.timeline:
        return Reading(node.node, Fitness.ASTRAY, lag, age)
    # One whose WAL comes from an address that is no node's may follow the primary.
    follows = source is not None and (source is primary or source.receiver is not None)
    if node.timeline != primary.timeline or not follows:
        return Reading(node.node, Fitness.ELSEWHERE, lag, age)
    return Reading(node.node, _of_follower(node, port, lag, age), lag, age)


def _source(node: NodeState, state: ClusterState) -> NodeState | None:
    """Return the node from which its WAL comes, through other standbys too, as far as is known; None: from itself."""
    passed = set[int]()
    while node.node not in passed:
        passed.add(node.node)
        upstream = _upstream(node, state)
        if upstream is None or upstream not in state.states or node.node == state.primary:
            return node
        node = state.states[upstream]
    return None


def _of_follower(state: NodeState, port: Readers, lag: int, age: float | None) -> Fitness:
    if state.replay_paused:
        return Fitness.PAUSED
    if lag > port.max_lag:
        return Fitness.LAGS
    if lag > port.max_lag // 2:
        return Fitness.CATCHING_UP
    return Fitness.YOUNG if age is not None and 0 <= age < STEADY_FOR else Fitness.FIT


def _upstream(node: NodeState, state: ClusterState) -> int | None:
    """Return the node that sends WAL to this one; of one that does not answer us, others may know."""
    if node.reachable:
        return node.receiver.upstream if node.receiver else None
    return next((number for number, other in state.states.items() if _senders(node.node, [other], state)), None)


def sender_to(standby: int, state: ClusterState) -> WalSender | None:
    """Return the walsender of whichever node a standby receives from; of several the one that has just begun."""
    return min(_senders(standby, state.states.values(), state), key=lambda sender: sender.age or 0.0, default=None)


def _senders(standby: int, nodes: Iterable[NodeState], state: ClusterState) -> list[WalSender]:
    """Return who sends WAL to a standby: by the slot that repmgr has made for it, for it may come from another address
    than ours is, and something else from ours; else by the address. That may be another node's too.
    """
    return [sender for sender in senders(standby, nodes, state.cluster) if sender.state in ("streaming", "catchup")]


def senders(standby: int, nodes: Iterable[NodeState], cluster: Cluster) -> list[WalSender]:
    """Return the walsenders of these nodes that a standby is connected to, in whatever state."""
    there, own = [node for node in nodes if node.reachable], f"repmgr_slot_{standby}"
    if by_slot := [sender for node in there if (sender := node.sender(own))]:
        return by_slot
    others = [node.sender(f"repmgr_slot_{other}") for node in there for other in cluster.nodes if other != standby]
    by_address = [sender for node in there for sender in node.senders if sender.client == cluster.nodes[standby].host]
    return [sender for sender in by_address if sender not in others]


def spread(state: ClusterState, port: str, now: Collection[int]) -> tuple[int, ...]:
    """Return the nodes that a port is to lead to; ``now``: those that it leads to.

    A reader that would be refused is better off with a standby that has only just come back.
    """
    seen = readings(state, port)
    good = tuple(r.node for r in seen if r.fitness is Fitness.FIT or (r.fitness.may_stay and r.node in now))
    if good:
        return good
    if state.cluster.readers[port].if_none == "primary":
        return (state.primary,)
    return tuple(r.node for r in seen if r.fitness.may_stay)


def without_lost(state: ClusterState, port: str, nodes: Iterable[int]) -> tuple[int, ...]:
    """Return those of the nodes to which readers may still be led, if it need not be to the best."""
    lost = {r.node for r in readings(state, port) if r.fitness.lost}
    return tuple(node for node in nodes if node not in lost)


def stay(state: ClusterState, port: str, now: Collection[int], fresh: bool) -> tuple[int, ...]:
    """Return the nodes on which readers that are connected stay: also on one that lags.

    A primary that is new (``fresh``) may have been a standby when they came; else it has them because there was none.
    """
    kept = without_lost(state, port, state.cluster.nodes)
    leaves = fresh and state.primary not in spread(state, port, now)
    return tuple(node for node in kept if node != state.primary or not leaves)


def answering(states: Iterable[NodeState], now: Sequence[int]) -> tuple[int, ...]:
    """Return where a port leads while no primary is known, so nobody can say who is fit: as it does, but to no node
    that is silent. If none of them answers, it may be us who are cut off.
    """
    there = {state.node for state in states if state.reachable}
    return tuple(node for node in now if node in there) or tuple(now)
