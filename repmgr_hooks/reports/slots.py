"""What ``status`` says of replication slots."""

from __future__ import annotations

from collections.abc import Iterator

from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.failover_slots import failover_slots, in_sync
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.wal import size


def held_by(node: NodeState, name: str) -> str:
    """Return what a slot holds, in words."""
    slot = node.slot(name)
    if slot is None or slot.restart_lsn is None or not slot.reserved:
        lost = slot.invalidation_reason or slot.wal_status if slot else ""
        why = f"invalidated by PostgreSQL ({lost})" if lost else "not there, or it reserves no WAL"
        return f"slot {name}: {why}"
    return f"slot {name}: {slot.wal_status or 'there'}, holds {size(max(node.lsn - slot.restart_lsn, 0))} of WAL"


def logical(decision: PrimaryDecision) -> Iterator[str]:
    """Yield a line for each failover slot of the primary: what it holds, and where it would survive."""
    primary = decision.primary_state
    standbys = [state for state in decision.states if state.reachable and state.role == "standby"]
    for slot in failover_slots(primary) if primary else ():
        synced = ", ".join(f"node {state.node}" for state in standbys if in_sync(state, slot.name))
        assert primary is not None
        yield f"{held_by(primary, slot.name)}; in sync on {synced or 'no standby'}"
