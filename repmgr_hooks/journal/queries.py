"""What is asked of the journal, on a connection: several questions can be put in one visit of its thread."""

from __future__ import annotations

import sqlite3

from repmgr_hooks import clock
from repmgr_hooks.event import Event
from repmgr_hooks.journal.rows import RUN_COLUMNS, Due, Pause, RunRow, Waiting, run_row

EVENT_COLUMNS = "id, node, name, success, other_node, timestamp"
HOLD, SWITCHOVER, FORMER_PRIMARY = "hold", "switchover", "former_primary"
"""The causes of a run in which a hold was taken back, and of one that says what a switchover did, or what was done
about a former primary: none is one that makes routes true."""
ASIDE = ", ".join(f"'{cause}'" for cause in (HOLD, SWITCHOVER, FORMER_PRIMARY))
LEFT_COLUMNS = "path, action, event, event_node, code"


def due(db: sqlite3.Connection, cluster: str) -> Due:
    """Return all that decides what is to be done for a cluster."""
    last = runs(db, 1, cluster, of_routes=True)
    return Due(paused(db, cluster), tuple(waiting(db, cluster)), last[0] if last else None)


def events(db: sqlite3.Connection, condition: str, value: object) -> list[Waiting]:
    """Return the events of a condition, oldest first."""
    rows = db.execute(f"select {EVENT_COLUMNS} from event {condition} order by id", (value,))
    return [Waiting(id_, Event(node, name, bool(ok), other, at)) for id_, node, name, ok, other, at in rows]


def waiting(db: sqlite3.Connection, cluster: str) -> list[Waiting]:
    """Return the events that wait, oldest first."""
    return events(db, "where run is null and cluster = ?", cluster)


def runs(
    db: sqlite3.Connection, limit: int, cluster: str | None, failed: bool = False, of_routes: bool = False
) -> list[RunRow]:
    """Return the newest runs, oldest first; with ``of_routes`` none that only took a hold back, which makes none of
    the routes true and may have come in the middle of one that did."""
    chosen = f"(?1 is null or cluster = ?1) and (not ?2 or ok = 0) and (not ?4 or cause not in ({ASIDE}))"
    newest = f"select {RUN_COLUMNS} from run where {chosen} order by id desc limit ?3"
    rows = db.execute(newest, (cluster, failed, limit, of_routes)).fetchall()
    left = f"select {LEFT_COLUMNS} from failed_action where run = ? order by id"
    return [run_row(row, () if row[6] else db.execute(left, (row[0],))) for row in reversed(rows)]


def paused(db: sqlite3.Connection, cluster: str) -> Pause | None:
    """Return the pause of a cluster, if it has one that is not over."""
    rows = db.execute("select until, reason, since from pause where cluster = ?", (cluster,))
    return next((Pause(*row) for row in rows if row[0] is None or row[0] > clock.wall()), None)
