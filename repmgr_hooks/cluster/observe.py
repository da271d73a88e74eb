"""What the nodes of a cluster say about themselves: one round trip to each, all in parallel."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repmgr_hooks.cluster.wal import position
from repmgr_hooks.errors import OperationFailed, answer_of, keeps_us_out
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.endpoint import Endpoint
from repmgr_hooks.system.steps import Host, Rows, Sql
from repmgr_hooks.text import one_line

MOST_ROWS = 1000
"""Of slots, of walsenders, and of nodes."""


@dataclass(frozen=True)
class Slot:
    """A replication slot of a node; ``restart_lsn`` in bytes, None if it reserves no WAL."""

    name: str
    physical: bool
    active_pid: int | None
    restart_lsn: int | None
    wal_status: str
    xmin: bool = False
    """True if it also keeps dead rows, which Barman's never does."""
    invalidation_reason: str = ""
    """Why PostgreSQL no longer keeps its WAL (17 and newer): ``wal_removed``, ``idle_timeout``."""
    failover: bool = False
    """Of a logical one (17 and newer): standbys are to keep it in sync."""
    synced: bool = False
    """It is kept in sync; on a primary it means nothing."""
    temporary: bool = False

    @property
    def reserved(self) -> bool:
        """True if the WAL from ``restart_lsn`` on is there; after ``idle_timeout`` it still says one."""
        return self.restart_lsn is not None and self.wal_status != "lost"


@dataclass(frozen=True)
class WalSender:
    """A walsender of a node: who receives WAL from it, up to where (``flushed``, in bytes), for how long (``age``).

    ``written``: what the receiver says that it has written, which may not be on its disk yet.
    """

    pid: int
    application: str
    client: str
    state: str
    flushed: int | None
    age: float | None = None
    """Seconds since its connection was made, by the node's own clock; below 0 if that was set back."""
    written: int | None = field(default=None, compare=False)
    replayed: int | None = field(default=None, compare=False)
    sync_state: str = field(default="", compare=False)


@dataclass(frozen=True)
class WalReceiver:
    """The walreceiver of a standby: its ``upstream`` (a node id, if the configuration has it), and if WAL flows."""

    host: str
    upstream: int | None
    streaming: bool
    timeline: int | None


@dataclass(frozen=True)
class Registered:
    """A row of ``repmgr.nodes``."""

    node: int
    kind: str
    active: bool
    upstream: int | None
    priority: int = 100
    location: str = ""

    @property
    def electable(self) -> bool:
        """False with priority 0: repmgr never promotes it."""
        return self.priority > 0


@dataclass(frozen=True)
class NodeState:
    """What one node said, or in ``error`` why it said nothing. ``lsn``: the end of the WAL that it has, in bytes."""

    node: int
    error: str = ""
    in_recovery: bool = True
    timeline: int = 0
    system_identifier: str = ""
    lsn: int = 0
    receiver: WalReceiver | None = None
    slots: tuple[Slot, ...] = ()
    senders: tuple[WalSender, ...] = ()
    registered: tuple[Registered, ...] = ()
    """``repmgr.nodes`` as this node sees it."""
    segment_size: int = 16 * 1024 * 1024
    """Of its WAL, in bytes; initdb sets it for the whole cluster."""
    replayed: int = 0
    """The end of the WAL that a standby has replayed, in bytes."""
    replay_paused: bool = False
    witness: bool = False
    rejected: bool = False
    """True if it answered that it does not let us in, and not because it is being started or stopped."""
    stranger: bool = False
    """True if it is of another system, and so counts as one that says nothing."""

    @property
    def reachable(self) -> bool:
        """True if the node answered."""
        return not self.error

    @property
    def is_primary(self) -> bool:
        """True if the node answered that it is not in recovery, and is not a witness."""
        return self.reachable and not self.in_recovery and not self.witness

    @property
    def registered_primaries(self) -> tuple[int, ...]:
        """The active primaries in this node's own ``repmgr.nodes``."""
        return tuple(row.node for row in self.registered if row.kind == "primary" and row.active)

    @property
    def made_by_repmgr(self) -> bool:
        """True if the node's own repmgr metadata names it, and no other, as the active primary."""
        return self.registered_primaries == (self.node,)

    def slot(self, name: str) -> Slot | None:
        """Return the slot of that name."""
        return next((slot for slot in self.slots if slot.name == name), None)

    def sender(self, slot: str) -> WalSender | None:
        """Return the walsender that uses the slot of that name."""
        found = self.slot(slot)
        return next((sender for sender in self.senders if found and sender.pid == found.active_pid), None)

    @property
    def role(self) -> str:
        """Primary, standby or witness."""
        return "witness" if self.witness else "standby" if self.in_recovery else "primary"

    def __str__(self) -> str:
        if self.error:
            return f"node {self.node}: {self.error.removeprefix(f'node {self.node}: ')}"
        return f"node {self.node}: {self.role}" + ("" if self.witness else f", timeline {self.timeline}")


# The timeline of a primary comes from its WAL file name: pg_control_checkpoint() lags until the first checkpoint after
# a promotion. On a standby, received_tli runs ahead of pg_control's. Whole rows come as JSON: the columns of the views
# differ between PostgreSQL's versions, and what a role without pg_monitor may not see is null. A table that somebody
# has filled must not fill us: of repmgr.nodes the active primaries and the nodes of the configuration come first.
LOOK = """
select pg_is_in_recovery(),
       case when pg_is_in_recovery()
            then greatest((select max(received_tli) from pg_stat_wal_receiver),
                          (select timeline_id from pg_control_checkpoint()))
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
       (select system_identifier::text from pg_control_system()),
       (case when pg_is_in_recovery() then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
             else pg_current_wal_lsn() end)::text,
       (select to_jsonb(receiver) from pg_stat_wal_receiver receiver),
       (select jsonb_agg(to_jsonb(slot) order by slot_name)
          from (select * from pg_replication_slots limit 1000) slot),
       (select jsonb_agg(to_jsonb(sender) order by pid)
          from (select *, extract(epoch from clock_timestamp() - backend_start) as age
                  from pg_stat_replication limit 1000) sender),
       (select jsonb_agg(jsonb_build_array(node_id, type, active, upstream_node_id, priority, location)
                         order by node_id)
          from (select node_id, left(type, 20) as type, active, upstream_node_id,
                       greatest(coalesce(priority, 100), 0) as priority, left(location, 100) as location
                  from repmgr.nodes
                 order by active and type = 'primary' desc, node_id = any(%s) desc, node_id limit 100) node),
       (select setting::bigint from pg_settings where name = 'wal_segment_size'),
       pg_last_wal_replay_lsn()::text,
       case when pg_is_in_recovery() then pg_is_wal_replay_paused() else false end
"""


def observe(cluster: Cluster, host: Host) -> tuple[NodeState, ...]:
    """Ask every node; what has not answered within ``timeout`` seconds counts as unreachable."""
    numbers = sorted(cluster.nodes)
    asked = [Sql(node, LOOK, (numbers,)) for node in numbers]
    answers = host.fetch_each(asked, cluster.postgres.timeout)
    return tuple(_state(node, answers[node], cluster) for node in numbers)


def _state(node: int, answer: Rows | OperationFailed, cluster: Cluster) -> NodeState:
    """What cannot be read of one node's answer makes that node a silent one, and says nothing of the others."""
    try:
        if isinstance(answer, OperationFailed):
            raise answer
        with answer_of(node):
            return _read(node, answer, cluster)
    except OperationFailed as error:
        said, rejected = one_line(str(error), 500), keeps_us_out(error)
        return NodeState(node, error=said, witness=cluster.nodes[node].witness, rejected=rejected)


def _read(node: int, answer: Rows, cluster: Cluster) -> NodeState:
    ((in_recovery, timeline, system_identifier, lsn, receiver, slots, senders, registered, *more),) = answer
    segment_size, replayed, replay_paused = more
    if not re.fullmatch(r"[0-9]{1,20}", _text(system_identifier)):
        raise ValueError(f"{system_identifier!r:.50} is not a system identifier")
    if _number(segment_size) < 2**20:
        raise ValueError(f"{segment_size!r:.50} is not a WAL segment size")
    rows = tuple(_registered(*row) for row in _rows(registered))
    own = next((row for row in rows if row.node == node), None)
    return NodeState(
        node,
        in_recovery=_flag(in_recovery),
        timeline=_number(timeline, 2**32),
        system_identifier=system_identifier,
        lsn=position(lsn) or 0,
        receiver=_receiver(receiver, cluster, own) if receiver and receiver["status"] else None,
        slots=tuple(_slot(row) for row in _rows(slots)),
        senders=tuple(_sender(row) for row in _rows(senders)),
        registered=rows,
        witness=cluster.nodes[node].witness or (own is not None and own.kind == "witness"),
        segment_size=segment_size,
        replayed=position(replayed) or 0,
        replay_paused=_flag(replay_paused),
    )


def _registered(node: Any, kind: Any, active: Any, upstream: Any, priority: Any, location: Any) -> Registered:
    above, place = _number_or_none(upstream), _text(location or "")
    return Registered(_number(node), _text(kind), _flag(active), above, _number(priority), place)


def _slot(row: Mapping[str, Any]) -> Slot:
    physical, restart = _text(row["slot_type"]) == "physical", position(row["restart_lsn"])
    status, xmin = _text(row.get("wal_status") or ""), row.get("xmin") is not None
    reason = _text(row.get("invalidation_reason") or "")
    kind = (row.get(name) is True for name in ("failover", "synced", "temporary"))
    pid = _number_or_none(row["active_pid"])
    return Slot(_text(row["slot_name"]), physical, pid, restart, status, xmin, reason, *kind)


def _sender(row: Mapping[str, Any]) -> WalSender:
    application, client, state = (_text(row[name] or "") for name in ("application_name", "client_addr", "state"))
    age = row.get("age")
    if age is not None and (type(age) not in (int, float) or not math.isfinite(age)):
        raise ValueError(f"{age!r:.50} is not an age")
    flushed = position(row["flush_lsn"])
    written, replayed = (position(row.get(name)) for name in ("write_lsn", "replay_lsn"))
    sync_state = _text(row.get("sync_state") or "")
    return WalSender(_number(row["pid"]), application, client, state, flushed, age, written, replayed, sync_state)


def _receiver(row: Mapping[str, Any], cluster: Cluster, own: Registered | None) -> WalReceiver:
    """A standby may know its sender by another address than we; then the upstream is the one that repmgr knows."""
    host, port = _text(row.get("sender_host") or ""), _number(row.get("sender_port") or 0)
    known, registered = cluster.node_at(Endpoint(host, port)), own.upstream if own else None
    upstream = registered if known is None else known
    return WalReceiver(host, upstream, row["status"] == "streaming", _number_or_none(row["received_tli"]))


def _rows(value: Any) -> list[Any]:
    if value is not None and type(value) is not list:
        raise TypeError(f"{value!r:.50} is not a list")
    if value and len(value) > MOST_ROWS:
        raise ValueError(f"it has {len(value)} rows where at most {MOST_ROWS} are read")
    return value or []


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError(f"{value!r:.50} is not a string")
    return one_line(value)


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise TypeError(f"{value!r:.50} is neither true nor false")
    return value


def _number(value: Any, most: int = 2**31) -> int:
    if type(value) is not int or not 0 <= value < most:
        raise ValueError(f"{value!r:.50} is not a number from 0 to {most - 1}")
    return value


def _number_or_none(value: Any) -> int | None:
    return None if value is None else _number(value)
