"""Whom repmgrd would promote, if the primary failed now: repmgr's own rules (repmgrd-physical.c, ``do_election``).

The same from repmgr 4.4 to 5.5. Only standbys that ``repmgr.nodes`` names as direct ones of the primary, and as active,
take part, and its witness. Who answers counts, whether its repmgrd would promote it or not: of equal received WAL the
highest priority wins, then the lowest id, and one that has received more wins over all; the others wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.observe import Registered
from repmgr_hooks.cluster.obstacles import MAY_WIN, WINS, Hindrance, named

IDLE = frozenset({Hindrance.MANUAL, Hindrance.PAUSED, Hindrance.SILENT})
"""With these a standby is elected like any other, and then promotes nothing; unless its repmgrd has told PostgreSQL of
its end, or has not told of itself: then it is passed over."""


@dataclass(frozen=True)
class Election:
    """Who takes part. ``silent``: the nodes of the configuration that do not answer; what is not in it may."""

    primary: Registered
    rows: Mapping[int, Registered]
    silent: frozenset[int]
    streaming: frozenset[int]
    """The standbys that receive WAL from the primary now."""
    other_primaries: tuple[int, ...]
    """Nodes out of recovery that repmgr holds for active: ``repmgr standby promote`` refuses to make another."""

    @property
    def voters(self) -> tuple[Registered, ...]:
        """The nodes that vote, witnesses too."""
        return tuple(row for row in self.rows.values() if row.active and row.upstream == self.primary.node)

    def against(self, node: int) -> Iterator[tuple[Hindrance, str]]:
        """What keeps a standby from being elected."""
        if self.other_primaries:
            yield Hindrance.OTHER_PRIMARY, named(self.other_primaries)
        row = self.rows.get(node)
        if row is None:
            yield Hindrance.UNREGISTERED, ""
        if row is None or row.upstream is None:
            return
        if row.upstream != self.primary.node:
            yield Hindrance.CASCADED, str(self.primary.node)
            return
        others = [other for other in self.voters if other.node != node]
        seen = [other for other in others if other.node not in self.silent]
        if row.location != self.primary.location and self.primary.location not in {other.location for other in seen}:
            yield Hindrance.LOCATION, f"{row.location}, not {self.primary.location}"
        if 2 * (1 + len(seen)) <= 1 + len(others):
            gone = next(other for other in others if other.node in self.silent)
            yield Hindrance.MAJORITY, f"{gone.kind} unregister --node-id={gone.node}"

    def votes_for(self, node: int, free: Sequence[int]) -> str:
        """What the election makes of a standby that promotes nothing, beside those that would; empty if it is out."""
        row, rivals = self.rows.get(node), [self.rows[other] for other in free if other in self.rows]
        if row is None or row not in self.voters or not row.electable or not rivals:
            return ""
        if (node in self.streaming) != any(rival.node in self.streaming for rival in rivals):
            return WINS if node in self.streaming else ""
        return WINS if _rank(row) < min(map(_rank, rivals)) else MAY_WIN


def _rank(row: Registered) -> tuple[int, int]:
    return -row.priority, row.node


def election(decision: PrimaryDecision) -> Election | None:
    """Return who takes part; None if there is no primary, or its ``repmgr.nodes`` is of an older one.

    Whom we do not reach, the others may: a standby that streams through repmgr's slot, or answers that it lets us not
    in, is there.
    """
    primary = decision.primary_state
    if primary is None or not primary.made_by_repmgr:
        return None
    rows = {row.node: row for row in primary.registered}
    there = {state.node for state in decision.states if state.reachable or state.stranger or state.rejected}
    slots = {number: primary.slot(f"repmgr_slot_{number}") for number in rows}
    there |= {number for number, slot in slots.items() if slot and slot.active_pid is not None}
    receivers = {state.node: state.receiver for state in decision.states if state.reachable}
    leading = [*decision.strange_primaries, *(s.node for s in decision.states if s.is_primary and s is not primary)]
    return Election(
        rows[primary.node],
        rows,
        frozenset(state.node for state in decision.states) - there,
        frozenset(node for node, receiver in receivers.items() if receiver and receiver.streaming),
        tuple(node for node in leading if node in rows and rows[node].active),
    )
