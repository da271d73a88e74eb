"""Barman's physical slot, or another: on the primary with WAL reserved; on standbys absent, or following the primary's.

A slot left on a demoted primary holds its WAL for ever. A slot without ``immediately_reserve`` holds nothing until
the first connection (PostgreSQL: slot.c, ReplicationSlotReserveWal). One that is made after a promotion begins at the
last redo pointer, mostly after the switchpoint: only one that stood on the standby before, and was advanced to where
the primary's stands but never beyond, holds all that Barman may still lack (``state: synced``).

With ``name`` the slot is another program's, such as a second Barman's or pg_receivewal's. Who uses it is not known
here, so nobody's connection to it is ended, and it is not dropped while it is in use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from repmgr_hooks.cluster import barmans
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.observe import NodeState, Slot
from repmgr_hooks.cluster.wal import lsn
from repmgr_hooks.errors import OperationFailed, Problem, mistake
from repmgr_hooks.handlers import contract
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.schema import Amount, SlotName
from repmgr_hooks.settings.words import amount
from repmgr_hooks.system.steps import Host, Sql, Step

fail_open_after = contract.never_fails_open
on_tick = contract.looks_on_tick
fingerprint = contract.no_fingerprint
fence = contract.fence_nothing

LIMIT = 10.0
MOST = "10GB"


@dataclass(frozen=True)
class Config:
    """``{on: primary}``, ``{on: standbys, state: absent}``, or ``{on: standbys, state: synced}``; and a ``name``.

    ``max_retained_wal``: a tracked slot that would hold more WAL (``10GB``) is given up, before it fills the standby's
    disk; of the primary's slot that is only said.
    """

    on: Literal["primary", "standbys"]
    state: Literal["present", "absent", "synced"] | None = None
    max_retained_wal: Amount | None = None
    name: SlotName | None = None
    """Of a slot that is not Barman's."""

    @property
    def synced(self) -> bool:
        """Whether the slots of the standbys follow the primary's; without a word they are dropped."""
        return self.on == "standbys" and self.state == "synced"

    def slot_name(self, cluster: Cluster) -> str:
        """Return the slot's name; Barman's unless another is given. Empty if there is neither."""
        return self.name or (cluster.barman.slot_name if cluster.barman else "")

    @property
    def limit(self) -> str:
        """What a slot may hold."""
        return MOST if self.max_retained_wal is None else self.max_retained_wal


CREATE = "select pg_create_physical_replication_slot(%s, true)"
# A standby reserves WAL from its last restartpoint on, which may be much more than Barman lacks.
CREATE_ON_STANDBY = """
select case when lsn < least(%s::pg_lsn, pg_last_wal_replay_lsn())
            then pg_replication_slot_advance(slot_name, least(%s::pg_lsn, pg_last_wal_replay_lsn())) end
  from pg_create_physical_replication_slot(%s, true)
"""
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
# Barman may have been given more than this standby has replayed; PostgreSQL would refuse to go back.
ADVANCE = """
select pg_replication_slot_advance(slot_name, least(%s::pg_lsn, pg_last_wal_replay_lsn())) from pg_replication_slots
 where slot_name = %s and not active and pg_is_in_recovery()
   and restart_lsn < least(%s::pg_lsn, pg_last_wal_replay_lsn())
"""
REPMGRS = re.compile("repmgr_slot_[0-9]+")
"""What repmgr calls the slots of its standbys (repmgr: use_replication_slots)."""
ABSENT = "select not exists (select 1 from pg_replication_slots where slot_name = %s)"


def shared(config: Config, cluster: Cluster) -> bool:
    """Another program's slot exists once."""
    return bool(config.name) or contract.one_barman(config, cluster)


def helper(config: Config) -> bool:
    """A standby's slot is for the next failover, or was for the last one: in this one nothing waits for it."""
    return config.on == "standbys"


def validate(config: Config, cluster: Cluster) -> Iterable[Problem]:
    """There is a slot of that name to keep, it is not repmgr's, and nothing is asked for that would not be done."""
    name = config.slot_name(cluster)
    if not name:
        yield mistake("needs the section 'barman' of the cluster, or 'name'")
    for slot in (name,) if config.name or cluster.barman is None else cluster.barman.slots:
        if REPMGRS.fullmatch(slot):
            yield mistake(f"slot {slot} is repmgr's, which creates and drops it itself", "take it out")
    if config.name and cluster.barman and cluster.barman.on_each_gateway and config.name in cluster.barman.slots:
        yield mistake(f"slot {name} is that of a gateway's own Barman", "take 'name' out: each gateway sees to its own")
    if config.on == "primary" and config.state in ("absent", "synced"):
        what = f"'state: {config.state}' goes with 'on: standbys'; the primary's slot is always there"
        yield mistake(what, "take it out")
    elif config.on == "standbys" and config.state == "present":
        yield mistake("'state: present' goes with 'on: primary'", "on standbys a slot is 'absent' or 'synced'")
    elif config.max_retained_wal is not None and config.on == "standbys" and not config.synced:
        yield mistake(
            "'max_retained_wal' goes with 'state: synced' or 'on: primary'; a dropped slot retains nothing",
            "take it out",
        )


def observe(config: Config, state: ClusterState, host: Host) -> Mapping[int, Slot]:
    """Return the slot of each node that has it: the primary, or each standby that answers."""
    nodes, name = (state.primary,) if config.on == "primary" else state.standbys, config.name or state.barman.slot_name
    slots = {node: state.states[node].slot(name) for node in nodes}
    return {node: slot for node, slot in slots.items() if slot}


def plan(config: Config, state: ClusterState, seen: Mapping[int, Slot]) -> list[Step]:
    """Return the missing steps. Raises OperationFailed if the slot is a logical one, which is somebody else's."""
    for node, found in seen.items():
        if not found.physical:
            whose = "Barman's" if _is_barmans(config, state) else "the one that is configured"
            raise OperationFailed(
                f"node {node}: the slot {found.name!r} is logical, so it is not {whose}",
                code="foreign_slot",
                hint="rename one of the two",
            )
    if config.synced:
        steps = [step for node in state.standbys for step in _tracked(config, state, node, seen.get(node))]
        return [replace(step, helper=True) for step in steps]
    if config.on == "standbys":
        found_on = seen.items()
        return [replace(step, helper=True) for node, found in found_on for step in _removed(config, state, node, found)]
    return _reserved(config, state, seen.get(state.primary))


def _reserved(config: Config, state: ClusterState, found: Slot | None) -> list[Step]:
    primary, slot = state.primary, config.slot_name(state.cluster)
    create = _create(slot, f"node {primary}", Sql(primary, CREATE, (slot,)))
    if found is None:
        return [create]
    if found.reserved or _must_stay(config, state, found):
        return []
    drop = _drop(slot, f"node {primary}: it holds no WAL", Sql(primary, DROP_LOST, (slot,)))
    return [*_released(state, primary, found), drop, create]


def _removed(config: Config, state: ClusterState, node: int, found: Slot) -> list[Step]:
    if _must_stay(config, state, found):
        return []
    drop = _drop(found.name, f"standby {node}", Sql(node, DROP_ON_STANDBY, (found.name,)))
    return [*_released(state, node, found), drop]


def _tracked(config: Config, state: ClusterState, node: int, found: Slot | None) -> list[Step]:
    name, leader = config.slot_name(state.cluster), _leader(config, state)
    if leader is None or (found and _must_stay(config, state, found)):
        return []
    target = lsn(leader.restart_lsn or 0)
    create = _create(name, f"standby {node}", Sql(node, CREATE_ON_STANDBY, (target, target, name)))
    behind = _holds_too_much(config, state, leader)
    if found is None:
        return [] if behind else [create]
    too_much = _holds_too_much(config, state, found)
    if behind and too_much:
        why = f"GIVE UP slot {name} on standby {node}: it holds more than {config.limit}"
        return [replace(step, what=f"{why}: {step.what}") for step in _removed(config, state, node, found)]
    useless = too_much or not found.reserved or found.xmin or (found.restart_lsn or 0) > state.states[node].lsn
    return [*_removed(config, state, node, found), create] if useless else []


def _create(slot: str, where: str, do: Sql) -> Step:
    return Step(f"create slot {slot} on {where}", do, LIMIT, kind="create_slot", target=slot, node=do.node)


def _drop(slot: str, where: str, do: Sql) -> Step:
    absent = Sql(do.node, ABSENT, (slot,))
    return Step(
        *(f"drop slot {slot} on {where}", do, LIMIT), kind="drop_slot", target=slot, node=do.node, until=absent, every=1
    )


def housekeep(config: Config, state: ClusterState, host: Host) -> None:
    """Let the slots of the standbys follow the primary's, a whole WAL file at a time. Raises OperationFailed."""
    for node, leader, found in _pairs(config, state):
        if not (found and found.physical and found.reserved):
            continue  # an invalidated one cannot be advanced
        if (leader.restart_lsn or 0) - (found.restart_lsn or 0) >= _segment(state):
            target = lsn(leader.restart_lsn or 0)
            host.fetch(Sql(node, ADVANCE, (target, found.name, target)), LIMIT)


def warnings(config: Config, state: ClusterState) -> Iterable[Problem]:
    """A primary's slot that holds too much, a standby's that does not hold what is still lacking or that stays."""
    leader, is_barmans = _leader(config, state), _is_barmans(config, state)
    reader = "Barman" if is_barmans else "its receiver"
    if leader and config.on == "primary" and _holds_too_much(config, state, leader):
        holds = f"slot {leader.name} on node {state.primary} holds more than {config.limit} of WAL"
        logs = "'repmgr-hooks status' and barman.log" if is_barmans else "what that program logs"
        hint = f"see {logs}; without {reader} the disk fills"
        yield Problem("slot_holds_too_much", f"{holds}: {reader} does not fetch it", hint)
    if is_barmans and config.on == "primary":
        nodes = [each for each in state.states.values() if each.reachable]
        yield from barmans.too_much(state.cluster, nodes, config.limit)
    for node in state.standbys if config.on == "standbys" else ():
        found = state.states[node].slot(config.slot_name(state.cluster))
        if found and _must_stay(config, state, found):
            what = f"slot {found.name} on standby {node} is in use{_by(state.states[node], found)}, so it is left alone"
            yield Problem("slot_in_use", what, "let that program connect to the primary, through a port of the gateway")
    for node, leader, found in _pairs(config, state):
        slot = f"slot {leader.name} on standby {node}"
        if found is None and _holds_too_much(config, state, leader):
            what = f"{slot} is given up until {reader} is less than {config.limit} behind"
            yield Problem("slot_given_up", what)
        # A slot keeps whole files.
        size = _segment(state)
        if leader.restart_lsn and found and (found.restart_lsn or 0) // size > leader.restart_lsn // size:
            what = f"{slot} begins after what {reader} still lacks; it is whole again when {reader} has caught up"
            yield Problem("slot_incomplete", what)


def _is_barmans(config: Config, state: ClusterState) -> bool:
    barman = state.cluster.barman
    return barman is not None and config.slot_name(state.cluster) == barman.slot_name


def _must_stay(config: Config, state: ClusterState, found: Slot) -> bool:
    """Whether a program that we do not know is using the slot."""
    return found.active_pid is not None and not _is_barmans(config, state)


def _by(node: NodeState, found: Slot) -> str:
    sender = node.sender(found.name)
    return f" by {sender.application!r} from {sender.client or 'the node itself'}" if sender else ""


def _segment(state: ClusterState) -> int:
    return state.states[state.primary].segment_size


def _pairs(config: Config, state: ClusterState) -> Iterable[tuple[int, Slot, Slot | None]]:
    """Each standby that tracks, with the primary's slot and its own."""
    leader = _leader(config, state)
    if leader and config.synced:
        yield from ((node, leader, state.states[node].slot(leader.name)) for node in state.standbys)


def _leader(config: Config, state: ClusterState) -> Slot | None:
    """The primary's slot, which the others follow; None if it says nothing."""
    found = state.states[state.primary].slot(config.slot_name(state.cluster))
    return found if found and found.reserved else None


def _holds_too_much(config: Config, state: ClusterState, slot: Slot) -> bool:
    return state.states[state.primary].lsn - (slot.restart_lsn or 0) > amount(config.limit)


def _released(state: ClusterState, node: int, found: Slot) -> list[Step]:
    if found.active_pid is None:
        return []
    release = Step(
        f"end Barman's connection to slot {found.name} on node {node}",
        Sql(node, RELEASE, (found.name, state.barman.streaming_archiver_name)),
        LIMIT,
        kind="release_slot",
        target=found.name,
        node=node,
        until=Sql(node, INACTIVE, (found.name,)),
        every=2,
        hint="pg_replication_slots.active_pid says who uses it; end that program",
    )
    return [release]
