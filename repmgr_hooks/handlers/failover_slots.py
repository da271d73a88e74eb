"""Standbys keep PostgreSQL's failover slots in sync: a database in ``primary_conninfo``, no leftover in the way.

What repmgr leaves undone (``cluster/failover_slots.py``). A former primary also keeps the slots that it had: they are
not synced, and while one has the name of a slot of the primary, the worker ends with an error (slotsync.c, "a slot of
the same name already exists").
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from repmgr_hooks.cluster import failover_slots
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.failover_slots import Conninfo, followers, in_sync
from repmgr_hooks.cluster.observe import NodeState, Slot
from repmgr_hooks.errors import Problem
from repmgr_hooks.handlers import contract
from repmgr_hooks.system.steps import Host, Sql, Step

validate = contract.always_valid
fail_open_after = contract.never_fails_open
on_tick = contract.looks_on_tick
helper = contract.always_helps
shared = contract.exists_once
fingerprint = contract.no_fingerprint
housekeep = contract.no_housekeeping
fence = contract.fence_nothing

LIMIT = 10.0
# Never on a node out of recovery, never one that is in use: the node may have been promoted since it was looked at.
DROP = """
select pg_drop_replication_slot(slot_name) from pg_replication_slots
 where slot_name = %s and slot_type = 'logical' and failover and not synced and not temporary and not active
   and pg_is_in_recovery()
"""
# The worker makes a synced one of the same name soon.
DROPPED = "select not exists (select 1 from pg_replication_slots where slot_name = %s and not synced)"
RELOAD = "select pg_reload_conf()"
IN_FORCE = "select exists (select 1 from pg_settings where name = 'primary_conninfo' and setting = %s)"


@dataclass(frozen=True)
class Config:
    """There are no options: the database is the one of ``postgres``, into which every node lets repmgr's role."""


def observe(config: Config, state: ClusterState, host: Host) -> Mapping[int, Conninfo]:
    """Return the ``primary_conninfo`` of each standby that lacks a database, and may be written again.

    One with a password is left alone: ALTER SYSTEM would show it, in the server's log too.
    """
    nodes = [each.node for each in followers(state)]
    asked = failover_slots.ask(nodes, host, state.cluster.postgres.timeout) if nodes else {}
    return {
        node: settings.conninfo
        for node, settings in asked.items()
        if settings.syncs is not None and settings.conninfo.text and not settings.conninfo.dbname
    }


def plan(config: Config, state: ClusterState, seen: Mapping[int, Conninfo]) -> list[Step]:
    """Return the missing steps, for the standbys that stream from the primary.

    What was read is written back first, before anything that may take its time: repmgr, which writes it at its next
    ``standby follow``, must not have done so in between, and PostgreSQL has no ALTER SYSTEM with a condition.
    """
    dbname, standbys = state.cluster.postgres.dbname, followers(state)
    texts = {node: each.with_dbname(dbname) for node, each in seen.items()}
    return [
        *(_write(node, text) for node, text in texts.items()),
        *(_reload(node, text) for node, text in texts.items()),
        *(_drop(standby.node, slot.name) for standby in standbys for slot in _in_the_way(state, standby)),
    ]


def _in_the_way(state: ClusterState, standby: NodeState) -> Iterator[Slot]:
    """Yield what a former primary has left of slots that live on, and that nobody is using."""
    valid = {slot.name for slot in _leaders(state) if slot.reserved and not slot.invalidation_reason}
    for slot in failover_slots.failover_slots(standby):
        if not slot.synced and slot.active_pid is None and slot.name in valid:
            yield slot


def _leaders(state: ClusterState) -> Iterator[Slot]:
    yield from failover_slots.failover_slots(state.states[state.primary])


def _drop(node: int, slot: str) -> Step:
    return Step(
        f"drop logical slot {slot} on standby {node}: it is left over, and keeps the primary's from being synced",
        Sql(node, DROP, (slot,)),
        LIMIT,
        kind="drop_slot",
        target=slot,
        node=node,
        until=Sql(node, DROPPED, (slot,)),
        every=1,
        helper=True,
    )


def _write(node: int, text: str) -> Step:
    """Write it where repmgr does, in postgresql.auto.conf, which counts more than all other files."""
    return Step(
        f"name the database in primary_conninfo of standby {node}",
        Sql(node, f"alter system set primary_conninfo = {literal(text)}"),
        LIMIT,
        kind="set_primary_conninfo",
        node=node,
        helper=True,
    )


def _reload(node: int, text: str) -> Step:
    return Step(
        f"reload the configuration of standby {node}",
        Sql(node, RELOAD),
        LIMIT,
        kind="reload",
        node=node,
        until=Sql(node, IN_FORCE, (text,)),
        every=2,
        hint="pg_file_settings shows what is wrong in its files; what is given at its start counts more than they",
        helper=True,
    )


def literal(text: str) -> str:
    r"""Return a string constant, whatever ``standard_conforming_strings`` is; ALTER SYSTEM takes no parameters.

    >>> print(literal(r"passfile='C:\x' options=%s"))
    E'passfile=''C:\\x'' options=%%s'
    """
    quoted = text.replace("\\", r"\\").replace("'", "''").replace("%", "%%")
    return f"E'{quoted}'"


def warnings(config: Config, state: ClusterState) -> Iterable[Problem]:
    """Slots that a failover would lose, and what a former primary holds for nobody."""
    names = set()
    for slot in _leaders(state):
        names.add(slot.name)
        if not slot.reserved or slot.invalidation_reason:
            lost = slot.invalidation_reason or slot.wal_status
            what = (
                f"logical slot {slot.name} on node {state.primary} is invalidated ({lost}): its subscriber has stopped"
            )
            yield Problem("logical_slot_lost", what, "drop the slot, and set up the subscription anew")
            continue
        for standby in followers(state):
            if not in_sync(standby, slot.name):
                found = standby.slot(slot.name)
                why = "waits until it can be" if found and found.temporary else "is not"
                what = f"logical slot {slot.name} {why} in sync on standby {standby.node}: a failover would lose it"
                yield Problem("slot_not_synced", what, f"repmgr-hooks check --cluster {state.cluster.name}")
    for standby in followers(state):
        for slot in failover_slots.failover_slots(standby):
            if not slot.synced and slot.name not in names:
                where = f"logical slot {slot.name} on standby {standby.node}"
                what = f"{where} holds WAL, and the primary has none of its name"
                yield Problem("slot_left_over", what, "if nobody needs it, drop it there: pg_drop_replication_slot()")
