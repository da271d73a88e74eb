"""What a node says of its clock, its rights and its settings, and which of them would make a failover fail."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.engine.simulation import FREE_SLOTS
from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Rows
from repmgr_hooks.text import one_line

ENOUGH_WAL = "50GB"
MOST_RETRY = 1000
"""Milliseconds that a standby may wait before it tries again to connect."""

# Asks for nothing that a role without any grant may not see: what is missing is to be named, not stumbled over.
EXAMINE = f"""
select extract(epoch from clock_timestamp())::float8,
       ({FREE_SLOTS})::int,
       current_setting('max_replication_slots')::int,
       coalesce(current_setting('max_slot_wal_keep_size', true), ''),
       array_remove(array[
         case when not (select rolsuper or rolreplication from pg_roles where rolname = current_user)
              then 'replication' end,
         case when not pg_has_role('pg_monitor', 'usage') then 'pg_monitor' end,
         case when not pg_has_role('pg_signal_backend', 'usage') then 'pg_signal_backend' end,
         case when not (select has_schema_privilege(oid, 'usage') from pg_namespace where nspname = 'repmgr')
              then 'usage on schema repmgr' end,
         case when not (select has_table_privilege(oid, 'select') from pg_class where relname = 'nodes'
                           and relnamespace = (select oid from pg_namespace where nspname = 'repmgr'))
              then 'select on repmgr.nodes' end,
         case when not (has_function_privilege('pg_read_binary_file(text,bigint,bigint,boolean)', 'execute') or
                        coalesce(has_function_privilege(to_regprocedure('repmgr_hooks.wal_sha256(text, bigint)')::oid,
                                                        'execute'), false))
              then 'execute on repmgr_hooks.wal_sha256' end], null),
       coalesce((select extversion from pg_extension where extname = 'repmgr'), ''),
       coalesce(current_setting('idle_replication_slot_timeout', true), '0'),
       coalesce(current_setting('synchronized_standby_slots', true), ''),
       coalesce(current_setting('summarize_wal', true), ''),
       current_setting('archive_mode') <> 'off' and trim(current_setting('archive_command')) in ('false', '/bin/false'),
       trim(current_setting('synchronous_standby_names')) <> '',
       (select setting::int from pg_settings where name = 'wal_retrieve_retry_interval')
"""


@dataclass(frozen=True)
class Examined:
    """What a node said about itself; ``free_slots``: those that are left for the ones that the routes name."""

    clock: float
    free_slots: int
    most_slots: int
    most_wal: str
    lacking: tuple[str, ...]
    extension: str
    idle_timeout: str = "0"
    """How long a slot may be unused (PostgreSQL 18)."""
    waited_for: tuple[str, ...] = ()
    """The slots that logical replication waits for (PostgreSQL 17)."""
    summarizes: str = ""
    """``on``: it notes which blocks WAL changes, without which Barman makes no incremental backup (PostgreSQL 17)."""
    cannot_archive: bool = False
    """Its ``archive_command`` is the one that Barman puts into what it restores."""
    synchronous: bool = False
    """As the primary, its commits wait for a standby or for Barman."""
    retry_interval: int = 0
    """Milliseconds between two attempts of a standby to connect (``wal_retrieve_retry_interval``)."""


def examined(node: int, answer: Rows | OperationFailed) -> Examined | OperationFailed:
    """Read what a node answered to EXAMINE."""
    try:
        if isinstance(answer, OperationFailed):
            return answer
        with answer_of(node):
            ((its_clock, free, most, wal, lacking, extension, idle, waits, sums, fails, synchronous, retry),) = answer
            return Examined(
                *(float(its_clock), int(free), int(most), wal, tuple(map(one_line, lacking)), extension),
                idle_timeout=one_line(idle),
                waited_for=tuple(re.findall(r"[a-z0-9_]+", waits)),  # a slot's name has no other letters
                summarizes=one_line(sums),
                cannot_archive=fails is True,
                synchronous=synchronous is True,
                retry_interval=int(retry),
            )
    except OperationFailed as error:
        return error


def findings(where: str, node: Examined, slots: Sequence[str], barman: Barman | None) -> Iterator[Finding]:
    """Say what is wrong with the settings of one node; ``slots``: those that it may have to hold."""
    yield from _archiving(Topic("nodes.archiving", where), node)
    if slots:
        yield _slots(Topic("nodes.slots", where), node, slots)
        yield _wal(Topic("nodes.wal", where), node)
        yield from _newer(where, node, slots, barman)


def _slots(topic: Topic, node: Examined, slots: Sequence[str]) -> Finding:
    names = ", ".join(slots)
    if node.free_slots < len(slots):
        left = f"{node.free_slots} of {node.most_slots} replication slots are left"
        what = f"{left}; once promoted, it would have too few for {names}"
        more = f"alter system set max_replication_slots = {2 * node.most_slots}"
        unused = "select slot_name from pg_replication_slots where not active"
        return topic.fail(what, f"there: {more}; then restart it; or drop one that nobody uses: {unused}")
    return topic.ok(f"{node.free_slots} of {node.most_slots} replication slots left for {names}")


def _wal(topic: Topic, node: Examined) -> Finding:
    if node.most_wal in ("-1", ""):
        hint = f"there: alter system set max_slot_wal_keep_size = '{ENOUGH_WAL}'; select pg_reload_conf();"
        return topic.warn("a slot that nobody reads may fill the disk (max_slot_wal_keep_size = -1)", hint)
    return topic.ok(f"a slot holds at most {node.most_wal} of WAL")


def _archiving(topic: Topic, node: Examined) -> Iterator[Finding]:
    """Barman sets that, so that no restored server writes into the archive it comes from (recovery_executor.py)."""
    if node.cannot_archive:
        what = "archive_command is false, as Barman leaves it in what it restores: once promoted, it keeps all its WAL"
        yield topic.fail(what, "set it there as on the other nodes, and reload")


def _newer(where: str, node: Examined, slots: Sequence[str], barman: Barman | None) -> Iterator[Finding]:
    """What newer versions of PostgreSQL can do to these slots, or because of Barman's."""
    if node.idle_timeout not in ("0", ""):
        # Not the logical ones that a standby keeps in sync (slot.c, CanInvalidateIdleSlot).
        whose = f"{', '.join(slots)} while nobody reads it, and on a standby at any time"
        what = f"a slot that is idle for {node.idle_timeout} (idle_replication_slot_timeout) is invalidated: {whose}"
        hint = "there: alter system set idle_replication_slot_timeout = 0; select pg_reload_conf();"
        yield Topic("nodes.idle_slots", where).warn(what, hint)
    waited_for = [name for name in node.waited_for if barman and name in barman.slots]
    if waited_for:
        # A logical walsender sends nothing that such a slot has not confirmed, also if there is none of that name
        # (slot.c, StandbySlotsHaveCaughtup).
        others = ", ".join(name for name in node.waited_for if name not in waited_for)
        what = f"logical replication waits for Barman: synchronized_standby_slots names {', '.join(waited_for)}"
        hint = f"there: alter system set synchronized_standby_slots = '{others}'; select pg_reload_conf();"
        yield Topic("nodes.logical", where).warn(what, hint)


def differences(cluster: Cluster, nodes: Mapping[int, Examined]) -> Iterator[Finding]:
    """Say which node's settings do not suit those of the others."""
    yield from _summaries(cluster, nodes)
    yield from _reconnecting(cluster, nodes)


def _summaries(cluster: Cluster, nodes: Mapping[int, Examined]) -> Iterator[Finding]:
    """Which node could not go on with the incremental backups of another; the summaries are each node's own."""
    if cluster.barman and "on" in (node.summarizes for node in nodes.values()):
        off = [number for number, node in nodes.items() if node.summarizes == "off"]
        for number in (number for number in off if not cluster.nodes[number].witness):
            what = "summarize_wal is off, other than on another node: once promoted, no incremental backup can be made"
            hint = "there: alter system set summarize_wal = on; select pg_reload_conf();"
            yield Topic("nodes.summaries", f"{cluster.name} node {number}").warn(what, hint)


def _reconnecting(cluster: Cluster, nodes: Mapping[int, Examined]) -> Iterator[Finding]:
    """Which standby would let commits wait after a restart of the primary: it pauses for so long after an attempt to
    connect that failed (xlogrecovery.c, WaitForWALToBecomeAvailable). The default is 5 s.
    """
    if not any(node.synchronous for node in nodes.values()):
        return
    for number, node in nodes.items():
        if node.retry_interval > MOST_RETRY and not cluster.nodes[number].witness:
            seconds = f"{node.retry_interval / 1000:g} s"
            what = f"after a restart of the primary, commits may wait {seconds} for it (wal_retrieve_retry_interval)"
            hint = "there: alter system set wal_retrieve_retry_interval = '500ms'; select pg_reload_conf();"
            yield Topic("nodes.retry", f"{cluster.name} node {number}").warn(what, hint)
