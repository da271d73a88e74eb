"""What is asked of the journal, on a connection: several questions can be put in one visit of its thread."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.event import Event
from repmgr_hooks.journal import memory
from repmgr_hooks.journal.maintenance import paused
from repmgr_hooks.journal.rows import RUN_COLUMNS, Due, RunRow, Waiting, run_row

EVENT_COLUMNS = "id, node, name, success, other_node, timestamp"
HOLD, SWITCHOVER, FORMER_PRIMARY = "hold", "switchover", "former_primary"
"""The causes of a run in which a hold was taken back, and of one that says what a switchover did, or what was done
about a former primary: none is one that makes routes true."""
ASIDE = ", ".join(f"'{cause}'" for cause in (HOLD, SWITCHOVER, FORMER_PRIMARY))
LAST_RUN = f"select {RUN_COLUMNS} from run where cluster = ? and cause not in ({ASIDE}) order by id desc limit 1"
LEFT_COLUMNS = "path, action, event, event_node, code"


def due(db: sqlite3.Connection, cluster: str) -> Due:
    """Return all that decides what is to be done for a cluster."""
    return Due(paused(db, cluster), tuple(waiting(db, cluster)), last_run(db, cluster))


class DueRows:
    """What is due for each cluster, which each look asks: it is read again when somebody has written to the file.

    Asked in the journal's thread alone.
    """

    def __init__(self) -> None:
        self._read_at: object = None
        self._known: dict[str, tuple[Due, LastKnownPrimary]] = {}

    def read(self, db: sqlite3.Connection, cluster: str, within: float) -> Due:
        """Return all that decides what is to be done, and what is remembered; what time alone changes is asked anew."""
        ((version,),) = db.execute("pragma data_version")  # others have written (sqlite.org/pragma.html)
        now_at = db, version, db.total_changes
        if now_at != self._read_at:
            self._read_at, self._known = now_at, {}
        if (known := self._known.get(cluster)) is None:
            known = self._known[cluster] = due(db, cluster), memory.last_known(db, cluster, within)
            return known[0]._replace(known=known[1])
        asked, last = known
        changes = memory.changes(db, cluster, within)
        last = last if changes == last.changes else replace(last, changes=changes)
        return asked._replace(pause=paused(db, cluster), known=last)


def last_run(db: sqlite3.Connection, cluster: str) -> RunRow | None:
    """Return the last run that was to make the routes true, if there was one.

    One that only took a hold back makes none of them true, and may have come in the middle of one that did.
    """
    found = db.execute(LAST_RUN, (cluster,)).fetchone()
    return _with_failed(db, found) if found else None


def events(db: sqlite3.Connection, condition: str, value: object) -> list[Waiting]:
    """Return the events of a condition, oldest first."""
    rows = db.execute(f"select {EVENT_COLUMNS} from event {condition} order by id", (value,))
    return [Waiting(id_, Event(node, name, bool(ok), other, at)) for id_, node, name, ok, other, at in rows]


def waiting(db: sqlite3.Connection, cluster: str) -> list[Waiting]:
    """Return the events that wait, oldest first."""
    return events(db, "where run is null and cluster = ?", cluster)


def runs(db: sqlite3.Connection, limit: int, cluster: str | None, failed: bool = False) -> list[RunRow]:
    """Return the newest runs, oldest first."""
    chosen = "(?1 is null or cluster = ?1) and (not ?2 or ok = 0)"
    newest = f"select {RUN_COLUMNS} from run where {chosen} order by id desc limit ?3"
    rows = db.execute(newest, (cluster, failed, limit)).fetchall()
    return [_with_failed(db, row) for row in reversed(rows)]


def _with_failed(db: sqlite3.Connection, row: Sequence[Any]) -> RunRow:
    left = f"select {LEFT_COLUMNS} from failed_action where run = ? order by id"
    return run_row(row, () if row[6] else db.execute(left, (row[0],)))
