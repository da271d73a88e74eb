"""The simulated cluster: what is really true of its nodes, whoever knows it, and what repmgr and people do to it.

Written from PostgreSQL's and repmgr's manuals and source; nothing here is asked of the code under test.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Literal

from repmgr_hooks.event import Event
from tests.fake import FakeNode, FakeSlot

INITDB, REPMGR, HAND = "initdb", "repmgr", "hand"
Placed = Literal["apart", "ports", "together"]


@dataclass(frozen=True)
class Term:
    """One time of one node as the primary: the timeline that it began, where in the WAL, and who promoted it."""

    node: int
    timeline: int
    by: str
    switchpoint: int
    number: int
    """Two promotions may begin timelines of the same number."""


@dataclass
class ModelNode(FakeNode):
    """A node: ``past`` holds the terms whose WAL it has, ``wal`` is where that ends."""

    up: bool = True
    past: tuple[Term, ...] = ()
    wal: int = 1
    source: int | None = None
    """The node that a standby is configured to receive WAL from; ``upstream``: that it receives from now."""

    @property
    def runs_as_primary(self) -> bool:
        """True if it is up and out of recovery, whoever can see that."""
        return self.up and not self.in_recovery

    @property
    def term(self) -> Term:
        """The last term in its past; its own, if it is out of recovery."""
        return self.past[-1]

    def can_follow(self, other: ModelNode) -> bool:
        """True if its WAL is a part of the other's."""
        common = len(self.past)
        if other.past[:common] != self.past:
            return False
        return self.wal <= (other.past[common].switchpoint if len(other.past) > common else other.wal)

    def become_standby_of(self, number: int, other: ModelNode) -> None:
        """Take over the other's data (pg_rewind, pg_basebackup), and start."""
        self.past, self.wal, self.registered = other.past, other.wal, other.registered
        self.up, self.in_recovery, self.source = True, True, number
        self.timeline = other.timeline


def pick(candidates: Sequence[int], index: int) -> int | None:
    """Return one of them; the same index always means the same one."""
    return candidates[index % len(candidates)] if candidates else None


@dataclass
class Cluster:
    """The nodes, the links between them, and what repmgr has said and nobody has delivered yet."""

    nodes: dict[int, ModelNode]
    cut: set[frozenset[int]] = field(default_factory=set)
    hidden: set[int] = field(default_factory=set)
    """Nodes to which the gateway's link is cut."""
    sanctioned: set[Term] = field(default_factory=set)
    """Promoted by hand, and later registered with repmgr."""
    announced: set[Term] = field(default_factory=set)
    """Of which repmgr's metadata tells, and did not before: it may have named the same node from an earlier time."""
    said: list[Event] = field(default_factory=list)
    terms: int = 1
    begun: list[Term] = field(default_factory=list)
    """All terms but the first, also those of which no node has WAL any more: Barman's archive may."""

    def settle(self) -> None:
        """Let WAL flow, and with it repmgr's metadata."""
        for number, node in self.nodes.items():
            node.wal += node.runs_as_primary
            node.reachable = node.up and number not in self.hidden
            node.upstream = None
        for _ in self.nodes:
            for number, node in self.nodes.items():
                self._receive(number, node)

    def _receive(self, number: int, node: ModelNode) -> None:
        if not (node.up and node.in_recovery and node.source in self.visible_from(number)):
            return
        source = self.nodes[node.source]
        if node.can_follow(source):
            node.past, node.wal, node.timeline = source.past, source.wal, source.timeline
            node.registered, node.upstream, node.segment = source.registered, node.source, source.segment

    # Who is what, in truth.

    def visible_from(self, number: int) -> list[int]:
        """The running nodes that a node can connect to."""
        return [
            other
            for other, node in self.nodes.items()
            if other != number and node.up and frozenset({number, other}) not in self.cut
        ]

    def primaries(self, among: Iterable[int] | None = None) -> list[int]:
        """The nodes that run out of recovery."""
        return [number for number in (self.nodes if among is None else among) if self.nodes[number].runs_as_primary]

    def standbys(self) -> list[int]:
        """The nodes that run in recovery."""
        return [number for number, node in self.nodes.items() if node.up and node.in_recovery]

    def made_by_repmgr(self, term: Term) -> bool:
        """True if repmgr made that node the primary, or was told so later."""
        return term.by != HAND or term in self.sanctioned

    def newest_made_by_repmgr(self) -> int:
        """The highest timeline that repmgr has begun on any node."""
        return max(term.timeline for node in self.nodes.values() for term in node.past if self.made_by_repmgr(term))

    # What happens to it. Each returns whether it could happen.

    def stop(self, index: int) -> int | None:
        """A node is stopped, or killed."""
        return self._stop(pick([number for number, node in self.nodes.items() if node.up], index))

    def stop_primary(self, index: int) -> int | None:
        """The same, and it was a primary."""
        return self._stop(pick(self.primaries(), index))

    def _stop(self, number: int | None) -> int | None:
        if number is not None:
            self.nodes[number].up = False
        return number

    def start(self, index: int) -> int | None:
        """A stopped node comes back in the role that it had."""
        number = pick([number for number, node in self.nodes.items() if not node.up], index)
        if number is not None:
            self.nodes[number].up = True
        return number

    def _begin_term(self, number: int, by: str) -> None:
        node = self.nodes[number]
        self.terms += 1
        timeline = max(term.timeline for term in node.past) + 1
        node.past += (Term(number, timeline, by, node.wal, self.terms),)
        self.begun.append(node.term)
        node.in_recovery, node.source, node.timeline = False, None, timeline

    def repmgr_promotes(self, index: int, metadata: bool) -> int | None:
        """repmgr promotes a standby that sees no primary."""
        blind = [number for number in self.standbys() if not self.primaries(self.visible_from(number))]
        number = pick(blind, index)
        if number is not None:
            before = self.nodes[number].term.node
            self._promoted_by_repmgr(number, metadata)
            self.say(number, "repmgrd_failover_promote", other=before)
            self.say(number, "repmgrd_reload")
        return number

    def _promoted_by_repmgr(self, number: int, metadata: bool) -> None:
        self._begin_term(number, REPMGR)
        if metadata:
            if self.nodes[number].registered != (number,):
                self.announced.add(self.nodes[number].term)
            self.nodes[number].registered = (number,)
        self.say(number, "standby_promote", success=metadata)

    def promoted_by_hand(self, index: int) -> int | None:
        """Somebody says pg_promote(): no event, no metadata."""
        number = pick(self.standbys(), index)
        if number is not None:
            self._begin_term(number, HAND)
        return number

    def register(self, index: int) -> int | None:
        """``repmgr primary register`` on a primary that was promoted by hand and sees no other."""
        unknown = [
            number
            for number in self.primaries()
            if self.nodes[number].registered != (number,) and not self.primaries(self.visible_from(number))
        ]
        number = pick(unknown, index)
        if number is not None:
            self.sanctioned.add(self.nodes[number].term)
            self.announced.add(self.nodes[number].term)
            self.nodes[number].registered = (number,)
            self.say(number, "primary_register")
        return number

    def _newest_visible_primary(self, number: int) -> int | None:
        found = self.primaries(self.visible_from(number))
        return max(found, key=lambda other: self.nodes[other].timeline, default=None)

    def follow(self, index: int) -> int | None:
        """``repmgr standby follow``: a standby follows the newest primary that it sees."""
        targets = {number: self._newest_visible_primary(number) for number in self.standbys()}
        able = [
            number
            for number, target in targets.items()
            if target not in (None, self.nodes[number].source)
            and self.nodes[number].can_follow(self.nodes[target or 0])
        ]
        number = pick(able, index)
        if number is not None:
            self.nodes[number].source = targets[number]
            self._is_registered_as_standby(number, targets[number])
            self.say(number, "standby_follow", other=targets[number])
            self.say(number, "repmgrd_failover_follow")
        return number

    def _is_registered_as_standby(self, number: int, primary: int | None) -> None:
        """repmgr writes it into the primary's metadata (repmgr-action-standby.c, do_standby_follow_internal)."""
        node = self.nodes[primary or 0]
        node.registered = tuple(other for other in node.registered if other != number)

    def rejoin(self, index: int, by_hand: bool) -> int | None:
        """What is down, or stale, becomes a standby of a primary on a newer timeline: ``repmgr node rejoin``, or
        somebody's pg_rewind, of which repmgr learns nothing."""
        lost = [number for number, node in self.nodes.items() if not node.up or not node.in_recovery]
        targets = {number: self._newest_visible_primary(number) for number in lost}
        able = [
            number
            for number, target in targets.items()
            if target is not None and self.nodes[target].timeline > self.nodes[number].timeline
        ]
        number = pick(able, index)
        if number is not None:
            target = targets[number]
            assert target is not None
            self.nodes[number].become_standby_of(target, self.nodes[target])
            if not by_hand:
                self._is_registered_as_standby(number, target)
                self.say(number, "node_rejoin")
        return number

    def replaced(self, index: int) -> int | None:
        """A stale primary becomes a standby, its primary is lost, and repmgr makes it the primary: all in a moment."""
        self.rejoin(index, False)
        self.settle()
        self.stop_primary(index)
        return self.repmgr_promotes(index, True)

    def clone(self, index: int) -> int | None:
        """``repmgr standby clone``: a node is made anew from the newest primary that it sees; its slots are gone."""
        able = [number for number in self.nodes if self._newest_visible_primary(number) is not None]
        number = pick(able, index)
        if number is not None:
            target = self._newest_visible_primary(number)
            assert target is not None
            self.nodes[number].become_standby_of(target, self.nodes[target])
            self.nodes[number].slots.clear()
            self._is_registered_as_standby(number, target)
            self.say(number, "standby_register", other=target)
        return number

    def switch_over(self, index: int, rejoins: bool) -> tuple[int, int] | None:
        """``repmgr standby switchover``: the primary is stopped, its standby promoted, and it rejoins, or fails to."""
        number = pick([number for number in self.standbys() if self.nodes[number].upstream in self.primaries()], index)
        if number is None:
            return None
        before = self.nodes[number].upstream
        assert before is not None
        self.nodes[before].up = False
        self._promoted_by_repmgr(number, True)
        if rejoins:
            self.nodes[before].become_standby_of(number, self.nodes[number])
            self._is_registered_as_standby(before, number)
            self.say(before, "repmgrd_standby_reconnect")
        self.say(number, "standby_switchover", success=rejoins, other=before)
        self.say(number, "repmgrd_reload")
        return before, number

    def cut_between(self, index: int) -> None:
        """The link between two nodes is lost."""
        pairs = [frozenset(pair) for pair in combinations(sorted(self.nodes), 2)]
        self.cut.add(pairs[index % len(pairs)])

    def isolate(self, index: int) -> int | None:
        """A node loses the other nodes; the gateway still reaches it."""
        return self._isolate(pick(sorted(self.nodes), index))

    def isolate_primary(self, index: int) -> int | None:
        """The same, and it is a primary."""
        return self._isolate(pick(self.primaries(), index))

    def lose(self, index: int) -> int | None:
        """A primary is cut off from the gateway and from the other nodes, and runs on."""
        number = self.isolate_primary(index)
        if number is not None:
            self.hidden.add(number)
        return number

    def _isolate(self, number: int | None) -> int | None:
        if number is not None:
            self.cut |= {frozenset({number, other}) for other in self.nodes if other != number}
        return number

    def heal(self, whole: bool) -> None:
        """Every link between nodes is there again, and those of the gateway too."""
        self.cut.clear()
        if whole:
            self.hidden.clear()

    def hide(self, index: int) -> int:
        """The gateway loses a node."""
        number = sorted(self.nodes)[index % len(self.nodes)]
        self.hidden.add(number)
        return number

    def show(self, index: int) -> None:
        """The gateway reaches a node again."""
        number = pick(sorted(self.hidden), index)
        self.hidden.discard(number or 0)

    def say(self, number: int, name: str, *, success: bool = True, other: int | None = None) -> None:
        """repmgr calls the hook."""
        self.said.append(Event(number, name, success, other))


def places(size: int, placed: Placed = "apart") -> dict[int, tuple[str, int]]:
    """Where each node listens: ``apart`` on hosts of their own; with ``ports`` each on another port; ``together``: two
    of them on one host, and so on.
    """
    port = {"apart": 0, "ports": 1, "together": 1}[placed]
    host = {"apart": 1, "ports": 1, "together": 2}[placed]
    return {n: (f"10.0.0.{11 + (n - 1) // host}", 5432 + port * (n - 1)) for n in range(1, size + 1)}


def new_cluster(size: int, placed: Placed = "apart") -> Cluster:
    """Node 1 is the primary on timeline 1, all others receive WAL from it, and Barman too."""
    first = Term(1, 1, INITDB, 0, 1)
    nodes = {
        number: ModelNode(host, past=(first,), source=None if number == 1 else 1, port=port)
        for number, (host, port) in places(size, placed).items()
    }
    nodes[1].in_recovery = False
    nodes[1].slots["barman"] = FakeSlot(active=True)
    cluster = Cluster(nodes, announced={first})
    cluster.settle()
    return cluster
