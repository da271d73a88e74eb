"""Barman's physical replication slot: on the primary with WAL reserved, on standbys absent.

A slot left on a demoted primary holds its WAL for ever. A slot without ``immediately_reserve`` holds nothing until
the first connection (PostgreSQL: slot.c, ReplicationSlotReserveWal).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from repmgr_hooks.cluster import Cluster
from repmgr_hooks.decide import Decided
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.observe import Slot
from repmgr_hooks.steps import Sql, Step, World

LIMIT = 10.0
RECEIVER = "barman_receive_wal"


@dataclass(frozen=True)
class Config:
    """``{on: primary}``, or ``{on: standby, keep: drop}``."""

    on: Literal["primary", "standby"]
    keep: Literal["drop"] = "drop"


CREATE = "select pg_create_physical_replication_slot(%s, true)"
# Never on a node out of recovery: the standby may have been promoted since it was looked at.
DROP_ON_STANDBY = """
select pg_drop_replication_slot(slot_name) from pg_replication_slots
 where slot_name = %s and not active and pg_is_in_recovery()
"""
DROP_LOST = """
select pg_drop_replication_slot(slot_name) from pg_replication_slots
 where slot_name = %s and not active and (restart_lsn is null or wal_status = 'lost')
"""
# Only Barman's own walsender, which a dead link can keep on the old node (PostgreSQL never waits: 55006).
RELEASE = """
select pg_terminate_backend(active_pid) from pg_replication_slots join pg_stat_replication on pid = active_pid
 where slot_name = %s and application_name = %s
"""
INACTIVE = "select not exists (select 1 from pg_replication_slots where slot_name = %s and active)"
ABSENT = "select not exists (select 1 from pg_replication_slots where slot_name = %s)"


def problems(config: Config, cluster: Cluster) -> Iterable[str]:
    """The slot's name is Barman's."""
    if cluster.barman is None:
        yield "needs the section 'barman' of the cluster"


def observe(config: Config, decided: Decided, world: World) -> Mapping[int, Slot]:
    """Return the slot of each node that has it: the primary, or each standby that answers."""
    nodes = (decided.primary,) if config.on == "primary" else decided.standbys
    slots = {node: decided.states[node].slot(decided.barman.slot) for node in nodes}
    return {node: slot for node, slot in slots.items() if slot}


def plan(config: Config, decided: Decided, seen: Mapping[int, Slot]) -> list[Step]:
    """Return the missing steps. Raises StepFailed if the slot is a logical one, which cannot be Barman's."""
    for node, found in seen.items():
        if not found.physical:
            raise StepFailed(
                f"node {node}: the slot {decided.barman.slot!r} is logical, so it is not Barman's; "
                "rename one of the two"
            )
    if config.on == "standby":
        return [step for node, found in seen.items() for step in _removed(node, found)]
    return _reserved(seen.get(decided.primary), decided.primary, decided.barman.slot)


def _reserved(found: Slot | None, primary: int, slot: str) -> list[Step]:
    create = Step(f"create slot {slot} on node {primary}", Sql(primary, CREATE, (slot,)), LIMIT)
    if found is None:
        return [create]
    if found.reserved:
        return []
    drop = Step(
        f"drop slot {slot} on node {primary}: it holds no WAL",
        Sql(primary, DROP_LOST, (slot,)),
        LIMIT,
        until=Sql(primary, ABSENT, (slot,)),
        every=1,
    )
    return [*_released(primary, found), drop, create]


def _removed(node: int, found: Slot) -> list[Step]:
    drop = Step(
        f"drop slot {found.name} on standby {node}",
        Sql(node, DROP_ON_STANDBY, (found.name,)),
        LIMIT,
        until=Sql(node, ABSENT, (found.name,)),
        every=1,
    )
    return [*_released(node, found), drop]


def _released(node: int, found: Slot) -> list[Step]:
    release = Step(
        f"end Barman's connection to slot {found.name} on node {node}",
        Sql(node, RELEASE, (found.name, RECEIVER)),
        LIMIT,
        until=Sql(node, INACTIVE, (found.name,)),
        every=2,
        hint="pg_replication_slots.active_pid says who uses it; end that program",
    )
    return [release] if found.active_pid else []
