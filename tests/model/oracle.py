"""What must never happen, and what must be so in the end: judged by what is really true, without ``decide``.

The oracle knows the simulated cluster, and what the nodes said when the worker last looked at them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.steps import Rows
from tests.model import counts
from tests.model.cluster import Cluster, Term
from tests.model.evidence import Evidence

Ports = Mapping[str, int | None]
"""The node that each port leads to."""


class Violation(AssertionError):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Shown:
    """What a node said at the last look; ``term`` if it was a primary then."""

    timeline: int
    term: Term | None


@dataclass(frozen=True)
class Led:
    """Where the worker led a port, and the timeline that the node was on."""

    node: int
    timeline: int
    term: Term


class Oracle:
    """Judges each change of a route, at once."""

    def __init__(self, cluster: Cluster, evidence: Evidence) -> None:
        self._cluster, self._evidence = cluster, evidence
        first = cluster.nodes[1].term
        self._shown: dict[int, Shown | None] = {}
        self.led = {port: Led(1, first.timeline, first) for port in ("barman", "app")}
        self.accusation = ""
        self._decided: Term | None = first
        self._closed: set[str] = set()
        """Ports that the worker has closed, or left closed when it led the other one to another node."""
        self._followed = 0
        self._met: set[tuple[str, int]] = set()
        self._stopped: dict[int, Term] = {}
        """The nodes that the worker has stopped, and what each was."""

    def looked(self, number: int, answer: Rows | OperationFailed) -> None:
        """The worker has asked a node what it is."""
        if isinstance(answer, OperationFailed):
            self._shown[number] = None
            return
        in_recovery, timeline = answer[0][:2]
        self._shown[number] = Shown(timeline, None if in_recovery else self._cluster.nodes[number].term)
        if not in_recovery:
            self._note(number, self._cluster.nodes[number].term)

    def _note(self, number: int, term: Term) -> None:
        """Count what makes the model worth its time: each kind of trouble once for each term."""
        app = self.led["app"]
        if term.timeline < app.timeline:
            self._met.add((counts.STALE, term.number))
        if number != app.node and self._was_healthy(app) and not self._cluster.made_by_repmgr(term):
            self._met.add((counts.BESIDE, term.number))
        terms = [shown.term for shown in self._shown.values() if shown and shown.term]
        if any(other.timeline == term.timeline and other != term for other in terms):
            self._met.add((counts.TWINS, term.number))

    def met(self) -> Counter[str]:
        """How often each kind of trouble was met, and how often the app port was led to another node."""
        return Counter([kind for kind, _ in self._met]) + Counter({counts.FOLLOWED: self._followed})

    def accuse(self, text: str) -> None:
        """An invariant does not hold; the first one counts."""
        self.accusation = self.accusation or text

    def judge(self) -> None:
        """Raises Violation if an invariant did not hold."""
        if self.accusation:
            raise Violation(self.accusation)

    def swapped(self, before: Ports, after: Ports) -> None:
        """The worker has changed the rules: where the ports led to, and where they lead to now."""
        target = self._target(before, after)
        for port in after:
            if target is not None and target != self.led[port].node:
                self._taken_away(port, target)
            if after[port] is None and (target or before[port]):
                self._closed.add(port)
        for port, number in after.items():
            if number is not None and (number != before[port] or number == target != self.led[port].node):
                self._opened(port, number)

    def _target(self, before: Ports, after: Ports) -> int | None:
        """Return the node to which the worker has led a port, or left it, if it was found to be the primary."""
        for port, number in after.items():
            shown = self._shown.get(number or 0)
            found = shown is not None and shown.term is not None and shown.term == self._decided
            if number is not None and (number != before[port] or found):
                return number
        return None

    def _taken_away(self, port: str, target: int) -> None:
        """A port leads to its node no more, for the sake of another node."""
        shown = self._shown.get(target)
        if shown and shown.term == self._decided:
            return  # judged when it was decided; a worker that died in between carries on
        if port not in self._closed:
            self._deserted(port, shown)

    def spread(self, before: frozenset[int], after: frozenset[int]) -> None:
        """The worker has changed the rules: where readers came to, and where they come to now.

        Nobody is let in whom the last look has not seen: a standby, or the node that was found to be the primary.
        """
        for number in after - before:
            shown = self._shown.get(number)
            if shown is None:
                return self.accuse(f"readers are led to node {number}, which did not answer the last look")
            if shown.term is not None and shown.term != self._decided:
                return self.accuse(f"readers are led to node {number}, which was another primary at the last look")
        return None

    def followers(self, number: int, seen: bool) -> set[int]:
        """The standbys that answer and receive the WAL of this primary, ``seen``: through such alone."""
        nodes = self._cluster.nodes
        found: set[int] = set()
        for _ in nodes:
            passed = {n for n in found if nodes[n].reachable or not seen}
            found |= {n for n, node in nodes.items() if node.upstream in {number, *passed}}
        return {n for n in found if nodes[n].reachable}

    def state(self, last_known: LastKnownPrimary) -> None:
        """The worker writes down that a node is the primary now, before it moves anything."""
        shown = self._shown.get(last_known.primary or 0)
        term = shown.term if shown else None
        if term != self._decided:
            for port in self.led:
                if port not in self._closed and self.led[port].term != term:
                    self._deserted(port, shown)
        self._decided = term
        self._evidence.state(last_known)

    def answered(self, number: int | None) -> None:
        """Load balancers are answered from now on that this node is the primary, or that none is."""
        shown = self._shown.get(number or 0)
        if number is not None and (shown is None or shown.term is None):
            self.accuse(f"node {number} is answered for, which was no primary at the last look: {shown}")

    def _deserted(self, port: str, shown: Shown | None) -> None:
        """It may be so if repmgr has called that node the primary, and somebody promoted it later: a call names no
        timeline. design.md: "or a promotion event about it is in the journal". Or if it looks like repmgr's: a standby
        of a primary for which repmgr could not write its metadata has those of before, which may name itself."""
        led, term = self.led[port], shown.term if shown else None
        by_hand = term is not None and not self._cluster.made_by_repmgr(term)
        claimed = term is not None and (
            term.node in self._evidence.perhaps_promoted() or self._looks_announced(term.node, led.node)
        )
        if by_hand and not claimed and self._was_healthy(led):
            self.accuse(f"port {port} was led away from a healthy primary, {led}, for {shown}")

    def _opened(self, port: str, number: int) -> None:
        """A port leads to a node that it did not lead to before."""
        before, shown = self.led[port], self._shown.get(number)
        if shown is None or shown.term is None:
            return self.accuse(f"port {port} leads to node {number}, which was no primary at the last look: {shown}")
        after = Led(number, shown.timeline, shown.term)
        if after.timeline < before.timeline:
            return self.accuse(f"port {port} was led back, from {before} to {after}")
        self.led[port] = after
        self._closed.discard(port)
        self._followed += port == "app" and after != before
        return None

    def _same_term(self, led: Led) -> bool:
        shown = self._shown.get(led.node)
        return shown is not None and shown.term == led.term

    def _was_healthy(self, led: Led) -> bool:
        node = self._cluster.nodes[led.node]
        really = node.runs_as_primary and node.term == led.term
        return really and self._same_term(led) and led.timeline >= self._cluster.newest_made_by_repmgr()

    # -- former primaries: what may be done to a node ---------------------------------------------------------------

    def asks_to_stop(self, number: int) -> None:
        """A node is asked to stop: at the last look another, which is followed, was a primary on a later timeline."""
        shown, followed = self._shown.get(number), self._followed_primary()
        if followed is None or followed[0] == number:
            return self.accuse(f"node {number} is to be stopped, and the primary is {followed}, {self._decided}")
        if shown and shown.term is None:
            return self.accuse(f"node {number} is to be stopped, which was a standby at the last look")
        if shown and shown.timeline >= followed[1]:
            return self.accuse(f"node {number} is to be stopped, on timeline {shown.timeline}, beside {followed}")
        return None

    def stops(self, number: int) -> None:
        """And its host has found it to be what it was: of two that were promoted by hand it may be the older one."""
        term = self._cluster.nodes[number].term
        if term == self._decided or self._is_newest(term):
            self.accuse(f"node {number} is stopped, {term}; the primary is {self._decided}")
        self._stopped[number] = term

    def finds_stopped(self, number: int) -> None:
        """It is down when it is asked to stop: by an order of ours that was cut off, or somebody was faster."""
        self._stopped[number] = self._cluster.nodes[number].term

    def asks_to_rejoin(self, number: int) -> None:
        """A node is to be rewound or cloned: one that we have stopped, and another is followed."""
        followed = self._followed_primary()
        if followed is None or followed[0] == number:
            self.accuse(f"node {number} is to be rejoined, and the primary is {followed}, {self._decided}")
        if number not in self._stopped:
            self.accuse(f"node {number} is to be rejoined, which was not stopped by us")

    def rejoins(self, number: int) -> None:
        """It is rewound or cloned: nothing of a primary is lost that repmgr has made, and that is the newest."""
        node = self._cluster.nodes[number]
        if node.up or node.term == self._decided or self._is_newest(node.term):
            self.accuse(f"node {number} is rejoined, {node.term}; the primary is {self._decided}")

    def _is_newest(self, term: Term) -> bool:
        """Nothing that repmgr has made is newer, nor what is followed."""
        followed = self._decided.timeline if self._decided else 0
        return term.timeline >= max(self._cluster.newest_made_by_repmgr(), followed)

    def _followed_primary(self) -> tuple[int, int] | None:
        """Return the node that was decided to be the primary, and was one at the last look; and its timeline."""
        number = self._decided.node if self._decided else 0
        shown = self._shown.get(number)
        return (number, shown.timeline) if shown and shown.term == self._decided else None

    def the_primary(self, last_known: LastKnownPrimary) -> int | None:
        """Return the node that must be found to be the primary; None if the oracle cannot say."""
        nodes, claimed = self._cluster.nodes, self._evidence.perhaps_promoted()
        seen = {number: node for number, node in nodes.items() if node.reachable}
        running = self._cluster.primaries(seen)
        newest = max(last_known.timeline, *(node.timeline for node in seen.values()), 0)
        leaders = [number for number in running if nodes[number].timeline == newest]
        if len(leaders) != 1:
            return None
        (leader,) = leaders
        kept = last_known.primary if last_known.primary in running else None
        node, by_repmgr = nodes[leader], self._cluster.made_by_repmgr(nodes[leader].term)
        shown = leader in self._evidence.promoted() or self._announced(leader, kept)
        if leader == last_known.primary or by_repmgr and shown:
            return leader
        if len(running) == 1:
            return leader if self._cluster.primaries() == running else None
        if by_repmgr or leader in claimed or node.registered == (leader,):
            return None  # repmgr's promotion that nobody can know of, or somebody's that looks like repmgr's
        if kept and any(nodes[number].timeline > nodes[kept].timeline for number in claimed & set(running)):
            return None  # repmgr has told of another one, and then somebody promoted a third
        if kept and nodes[kept].timeline >= last_known.timeline and not self._superseded(kept, list(seen)):
            return kept
        return None

    def _announced(self, number: int, before: int | None) -> bool:
        """True if repmgr's metadata on a node tells of its promotion, and does not say what it said before it.

        The primary before may hold the same from an earlier time of that node as the primary. Then the metadata
        prove nothing, and design.md rules: "otherwise the primary that we route to stays".
        """
        return self._cluster.nodes[number].term in self._cluster.announced and self._looks_announced(number, before)

    def _looks_announced(self, number: int, before: int | None) -> bool:
        nodes = self._cluster.nodes
        news = before is None or nodes[before].registered != (number,)
        return nodes[number].registered == (number,) and news

    def stale_primaries(self, last_known: LastKnownPrimary) -> list[int]:
        """Return the reachable nodes out of recovery that are certainly not the primary any more."""
        nodes = self._cluster.nodes
        seen = [number for number, node in nodes.items() if node.reachable]
        others = [number for number in self._cluster.primaries(seen) if number != last_known.primary]
        old = [number for number in others if nodes[number].timeline < last_known.timeline]
        return old + [number for number in self._cluster.primaries(seen) if self._superseded(number, seen)]

    def _superseded(self, number: int, seen: list[int]) -> bool:
        """True if a later primary that repmgr has made answers."""
        nodes = self._cluster.nodes
        return any(
            nodes[other].timeline > nodes[number].timeline and self._announced(other, number)
            for other in self._cluster.primaries(seen)
        )
