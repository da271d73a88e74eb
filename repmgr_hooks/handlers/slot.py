"""Barman's physical replication slot: on the primary with WAL reserved, on standbys absent.

A slot left on a demoted primary holds its WAL for ever. A slot without ``immediately_reserve`` holds nothing until
the first connection (PostgreSQL: slot.c, ReplicationSlotReserveWal).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from repmgr_hooks.cluster import Cluster, Decided
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.steps import Rows, Sql, Step, World

LIMIT = 10.0
RECEIVER = "barman_receive_wal"


@dataclass(frozen=True)
class Config:
    """``{on: primary}``, or ``{on: standby, keep: drop}``."""

    on: Literal["primary", "standby"]
    keep: Literal["drop"] = "drop"


@dataclass(frozen=True)
class Seen:
    """The slot as one node shows it."""

    node: int
    physical: bool
    active: bool
    reserved: bool


LOOK = """
select slot_type = 'physical', active, restart_lsn is not null and wal_status <> 'lost'
  from pg_replication_slots where slot_name = %s
"""
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


def observe(config: Config, decided: Decided, world: World) -> tuple[Seen, ...]:
    """Look at the slot on the primary, or on each standby that answers. Raises StepFailed."""
    nodes = (decided.primary,) if config.on == "primary" else decided.standbys
    answers = world.fetch_each([Sql(node, LOOK, (decided.barman.slot,)) for node in nodes], LIMIT)
    return tuple(seen for node in nodes for seen in _seen(node, answers[node]))


def _seen(node: int, answer: Rows | StepFailed) -> Iterable[Seen]:
    if isinstance(answer, StepFailed):
        raise answer
    return [Seen(node, *row) for row in answer]


def plan(config: Config, decided: Decided, seen: tuple[Seen, ...]) -> list[Step]:
    """Return the missing steps. Raises StepFailed if the slot is a logical one, which cannot be Barman's."""
    for found in seen:
        if not found.physical:
            raise StepFailed(
                f"node {found.node}: the slot {decided.barman.slot!r} is logical, so it is not Barman's; "
                "rename one of the two"
            )
    if config.on == "standby":
        return [step for found in seen for step in _removed(found, decided.barman.slot)]
    return _reserved(seen, decided.primary, decided.barman.slot)


def _reserved(seen: tuple[Seen, ...], primary: int, slot: str) -> list[Step]:
    create = Step(f"create slot {slot} on node {primary}", Sql(primary, CREATE, (slot,)), LIMIT)
    if not seen:
        return [create]
    if seen[0].reserved:
        return []
    drop = Step(
        f"drop slot {slot} on node {primary}: it holds no WAL",
        Sql(primary, DROP_LOST, (slot,)),
        LIMIT,
        until=Sql(primary, ABSENT, (slot,)),
        every=1,
    )
    return [*_released(seen[0], slot), drop, create]


def _removed(found: Seen, slot: str) -> list[Step]:
    drop = Step(
        f"drop slot {slot} on standby {found.node}",
        Sql(found.node, DROP_ON_STANDBY, (slot,)),
        LIMIT,
        until=Sql(found.node, ABSENT, (slot,)),
        every=1,
    )
    return [*_released(found, slot), drop]


def _released(found: Seen, slot: str) -> list[Step]:
    release = Step(
        f"end Barman's connection to slot {slot} on node {found.node}",
        Sql(found.node, RELEASE, (slot, RECEIVER)),
        LIMIT,
        until=Sql(found.node, INACTIVE, (slot,)),
        every=2,
        hint="pg_replication_slots.active_pid says who uses it; end that program",
    )
    return [release] if found.active else []
