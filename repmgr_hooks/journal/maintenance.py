"""The part of the journal that holds pauses: ``pause`` imports no more of it."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from repmgr_hooks import clock
from repmgr_hooks.journal.store import Store


class Pause(NamedTuple):
    """Maintenance: events are stored and nothing is done, until a moment (None: until ``resume``)."""

    until: float | None
    reason: str
    since: float


class Maintenance(Store):
    """The journal, as far as pauses go. Every method is one transaction; each may raise OperationFailed."""

    def pause(self, cluster: str, until: float | None, reason: str) -> None:
        """Store events and do nothing from now on."""
        self._write("insert or replace into pause values (?, ?, ?, ?)", cluster, until, reason, clock.wall())

    def resume(self, cluster: str) -> bool:
        """End a pause; return whether there was one."""
        return self._write("delete from pause where cluster = ?", cluster) > 0

    def paused(self, cluster: str) -> Pause | None:
        """Return the pause of a cluster, if it has one that is not over."""
        return self.ask(lambda db: paused(db, cluster))


def paused(db: sqlite3.Connection, cluster: str) -> Pause | None:
    """Return the pause of a cluster, if it has one that is not over."""
    rows = db.execute("select until, reason, since from pause where cluster = ?", (cluster,))
    return next((Pause(*row) for row in rows if row[0] is None or row[0] > clock.wall()), None)
