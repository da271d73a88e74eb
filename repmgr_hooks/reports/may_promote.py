"""What speaks against a promotion that repmgrd is about to make, and that only we know. Pure.

Asked by repmgr's ``failover_validation_command``, in the moment when the primary is given up: only what was seen since
then proves that it still serves, and nothing that is merely unknown keeps a standby from being promoted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from repmgr_hooks.cluster.decide import decide
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.wal import lsn, size
from repmgr_hooks.journal.last_seen import LastSeen, PrimaryPosition
from repmgr_hooks.system.steps import Sql

HEARD = 1.0
"""Seconds since the primary's last message to a standby within which it was alive: repmgrd has tried for longer."""
ASK_RECEIVER = """
select extract(epoch from clock_timestamp() - last_msg_receipt_time)::float8
  from pg_stat_wal_receiver where status = 'streaming'
"""


@dataclass(frozen=True)
class Asked:
    """A promotion: what the nodes say now, and what the service says.

    ``heard``: for each standby, the seconds since a primary spoke to it. ``since``: the service has looked after the
    question was put.
    """

    candidate: int
    states: Sequence[NodeState]
    heard: Mapping[int, float]
    seen: LastSeen | None = None
    since: bool = False
    max_lost_wal: int | None = None


def receivers(states: Sequence[NodeState]) -> list[Sql]:
    """Return what is asked of the standbys."""
    return [Sql(state.node, ASK_RECEIVER) for state in states if state.reachable and state.role == "standby"]


def objections(asked: Asked) -> Iterator[str]:
    """Say what speaks against it."""
    yield from _still_served(asked)
    last = asked.seen.last_primary if asked.seen else None
    candidate = next((state for state in asked.states if state.node == asked.candidate and state.reachable), None)
    if last and candidate and candidate.timeline == last.timeline and last.node != candidate.node:
        yield from _lacking(candidate, last, asked.max_lost_wal)


def _still_served(asked: Asked) -> Iterator[str]:
    last = asked.seen.last_primary if asked.seen else None
    known = LastKnownPrimary(last.node, last.timeline) if last else LastKnownPrimary()
    serving = decide(asked.states, known).primary
    if serving not in (None, asked.candidate):
        yield f"node {serving} answers the gateway as the primary"
    elif asked.since and asked.seen and asked.seen.primary not in (None, asked.candidate):
        yield f"repmgr-hooks.service reaches node {asked.seen.primary}, the primary"
    for node, seconds in sorted(asked.heard.items()):
        if 0 <= seconds < HEARD:
            yield f"node {node} received a message from the primary {seconds:.1f} s ago"


def _lacking(candidate: NodeState, last: PrimaryPosition, most: int | None) -> Iterator[str]:
    """Compare with how far the primary was when it was seen last: what was written after that look is not known."""
    at = f"(it has received up to {lsn(candidate.lsn)})"
    lost = last.lsn - candidate.lsn
    if most is not None and lost > most:
        yield f"node {candidate.node} lacks {size(lost)} of WAL, up to {lsn(last.lsn)}, of node {last.node} {at}"
    unshared = last.barman_lsn - candidate.lsn
    if last.acknowledged and unshared > 0:
        yield (
            f"Barman, as a synchronous standby, has acknowledged commits up to {lsn(last.barman_lsn)}, "
            f"{size(unshared)} that node {candidate.node} lacks {at}"
        )
