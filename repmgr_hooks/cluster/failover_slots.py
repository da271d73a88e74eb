"""PostgreSQL's failover slots (17 and newer): which a standby keeps in sync, and whether its settings let it.

The worker that does that logs in to a database, whose name it takes from ``primary_conninfo`` and from nowhere else
(slotsync.c, CheckAndGetDbnameFromConninfo). repmgr writes ``primary_conninfo`` at each clone, follow and rejoin, and
leaves the name out (repmgr issues 880 and 903).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.observe import NodeState, Slot
from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.system.steps import Host, Rows, Sql
from repmgr_hooks.text import one_line

# pg_settings shows a role what it may see, where current_setting() fails.
ASK = """
select current_setting('sync_replication_slots', true),
       (select setting from pg_settings where name = 'primary_conninfo'),
       current_setting('primary_slot_name'),
       current_setting('hot_standby_feedback'),
       current_setting('wal_level'),
       coalesce(current_setting('synchronized_standby_slots', true), '')
"""
LONGEST = 4000
NAME = re.compile("[a-z0-9_]+")
"""Of a slot; PostgreSQL allows no other letters."""
SECRET = re.compile("password|secret")


@dataclass(frozen=True)
class Conninfo:
    """A ``primary_conninfo``; its text is kept only if it holds no secret. ``readable``: whether our libpq reads it."""

    text: str = ""
    dbname: str = ""
    secret: bool = False
    readable: bool = True

    def with_dbname(self, dbname: str) -> str:
        """Return the text with the name of a database.

        >>> conninfo(conninfo("host=10.0.0.11").with_dbname("a b")).dbname
        'a b'
        """
        return make_conninfo(self.text, dbname=dbname)


def conninfo(text: str) -> Conninfo:
    """Read a ``primary_conninfo``. What libpq says of one that it cannot read may hold a password, so it is lost.

    >>> conninfo("user=repmgr password=x")
    Conninfo(text='', dbname='', secret=True, readable=True)
    """
    try:
        words = conninfo_to_dict(text)
    except Exception:  # psycopg's and libpq's own
        return Conninfo(readable=False)
    dbname = str(words.get("dbname") or "")
    if any(SECRET.search(word) for word in words):
        return Conninfo(dbname=dbname, secret=True)
    if len(text) > LONGEST or not text.isprintable():
        return Conninfo(readable=False)
    return Conninfo(text, dbname)


@dataclass(frozen=True)
class SyncSettings:
    """What a node's settings say; ``syncs`` is None before PostgreSQL 17."""

    syncs: bool | None
    conninfo: Conninfo
    primary_slot: str
    feedback: bool
    wal_level: str
    waited_for: tuple[str, ...]
    """The slots whose standbys must have what a subscriber gets (``synchronized_standby_slots``)."""


def ask(nodes: Iterable[int], host: Host, limit: float) -> dict[int, SyncSettings]:
    """Ask these nodes; those that do not answer are left out."""
    answers = host.fetch_each([Sql(node, ASK) for node in nodes], limit)
    read = {node: _read(node, answer) for node, answer in answers.items()}
    return {node: settings for node, settings in read.items() if settings}


def _read(node: int, answer: Rows | OperationFailed) -> SyncSettings | None:
    if isinstance(answer, OperationFailed):
        return None
    try:
        with answer_of(node):
            ((syncs, text, slot, feedback, level, waited_for),) = answer
            return SyncSettings(
                None if syncs is None else syncs == "on",
                conninfo(text or ""),
                slot if NAME.fullmatch(slot) else "",
                feedback == "on",
                one_line(level),
                tuple(NAME.findall(waited_for)),
            )
    except OperationFailed:
        return None


def followers(state: ClusterState) -> tuple[NodeState, ...]:
    """Return the standbys that stream from the primary itself; PostgreSQL keeps slots in sync on no others."""
    standbys = (state.states[node] for node in state.standbys)
    return tuple(each for each in standbys if each.receiver and _streams(each, state.primary))


def _streams(standby: NodeState, primary: int) -> bool:
    receiver = standby.receiver
    return receiver is not None and receiver.streaming and receiver.upstream == primary


def failover_slots(node: NodeState) -> Iterator[Slot]:
    """Yield the logical slots of a node that are to survive a failover."""
    yield from (slot for slot in node.slots if not slot.physical and slot.failover and not slot.temporary)


def in_sync(standby: NodeState, name: str) -> bool:
    """Whether a subscriber can go on with this slot if the standby is promoted now (logicaldecoding, Failover)."""
    slot = standby.slot(name)
    if slot is None or slot.physical:
        return False
    return slot.failover and slot.synced and not slot.temporary and slot.reserved and not slot.invalidation_reason
