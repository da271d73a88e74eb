"""What a failover to a standby would do now. Pure but for one question; nothing is changed.

The cluster is taken as it would be right after it: that node promoted, on the next timeline.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from repmgr_hooks.cluster.decide import Decided, Verdict
from repmgr_hooks.cluster.wal import size
from repmgr_hooks.errors import BadInput, StepFailed
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Sql, World

EVENT = "standby_promote"
LIMIT = 10.0
FREE_SLOTS = """
select current_setting('max_replication_slots')::int - count(*) filter (where slot_name <> %s)
  from pg_replication_slots
"""
"""For others than the slot of this name, all may be in use."""


def assume(verdict: Verdict, node: int, settings: Cluster) -> Decided:
    """Return the cluster as it would be with this primary. Raises BadInput if the node is no standby that answers."""
    state = next(state for state in verdict.states if state.node == node)
    if not state.reachable or state.role != "standby":
        raise BadInput(f"{state}: a failover can be rehearsed with a standby that answers")
    timeline = max(other.timeline for other in verdict.states) + 1
    promoted = replace(state, in_recovery=False, timeline=timeline, receiver=None)
    states = {other.node: other for other in verdict.states}
    return Decided(settings, node, timeline, {**states, node: promoted})


def obstacles(verdict: Verdict, node: int, settings: Cluster, world: World) -> Iterator[str]:
    """What would make that failover fail, or lose something."""
    state = next(state for state in verdict.states if state.node == node)
    primary = verdict.primary_state
    if primary is None:
        yield f"now already {verdict}"
    elif state.receiver is None or not state.receiver.streaming:
        yield f"node {node} receives no WAL from node {primary.node}: what is written there now would be lost"
    elif primary.lsn > state.lsn:
        yield f"node {node} is {size(primary.lsn - state.lsn)} behind node {primary.node}: that would be lost"
    if settings.barman:
        yield from _slots(node, settings.barman.slot, world)


def _slots(node: int, slot: str, world: World) -> Iterator[str]:
    try:
        ((free,),) = world.fetch(Sql(node, FREE_SLOTS, (slot,)), LIMIT)
    except StepFailed as error:
        yield str(error)
        return
    if free < 1:
        yield f"node {node} has no free replication slot for Barman: raise max_replication_slots there, and restart it"
