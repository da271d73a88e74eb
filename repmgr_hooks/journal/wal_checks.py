"""What ``check-wal`` has shown last, whoever asked for it: of the records of Barman's WAL, and of its newest backup."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from dataclasses import astuple, dataclass

from repmgr_hooks.errors import Problem
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.settings.cluster import Cluster

COLUMNS = 'part, at, "primary", timeline, problem, unable, text'
OF_BACKUP = ("no_backup", "backup_beyond")
"""What can be wrong with the newest backup; a ``part`` of its own, and there only while it is so."""


@dataclass(frozen=True)
class WalCheckRow:
    """What was shown last, on whose timeline.

    ``part``: records of Barman's WAL were followed, ``all`` since the newest backup, or the ``newest``, around the last
    switchpoint; or one of ``OF_BACKUP``. ``unable``: why it could not be looked at.
    """

    part: str
    at: float
    primary: int
    timeline: int
    problem: str
    unable: str
    text: str

    @property
    def good(self) -> bool:
        """True if it was looked at, and nothing was wrong."""
        return not (self.problem or self.unable)

    @property
    def of_backup(self) -> bool:
        """True if it says what is wrong with the newest backup."""
        return self.part in OF_BACKUP

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.at))
        scope = "" if self.part == "all" else ", around the switchpoint"
        if self.unable:
            return f"not checked{scope} ({when}): {self.unable}"
        return f"{self.problem or self.text}{scope} ({when})"


def wrong(rows: Iterable[WalCheckRow], cluster: Cluster) -> list[Problem]:
    """Say what is wrong, first with the records, and what to do about it."""
    found = [row for row in rows if row.problem]
    again = f"repmgr-hooks check-wal --cluster {cluster.name}"
    hint = f"make a base backup, and then see that the next one would not fail: {again} --deep"
    said = [
        Problem("broken_wal", f"a restore from Barman would fail: {row.problem}", hint)
        for row in found
        if not row.of_backup
    ]
    make = f"{cluster.barman.backup_command}; and then: {again}" if cluster.barman else ""
    return [*said[:1], *(Problem(row.part, row.problem, make) for row in found if row.of_backup)]


def last_checks(journal: Journal, cluster: str) -> list[WalCheckRow]:
    """Return what has been shown last. Raises OperationFailed."""
    rows = journal.read(f"select {COLUMNS} from wal_check where cluster = ? order by part", cluster)
    return [WalCheckRow(*row) for row in rows]


def keep(journal: Journal, cluster: str, row: WalCheckRow) -> None:
    """Keep what has been shown. What was wrong stays until as much was looked at again; all includes the newest.

    Raises OperationFailed.
    """
    over = "part in ('newest', ?)" if row.good and row.part == "all" else "part = ?"
    proved = " and problem = ''" if row.unable else ""

    def write(db: sqlite3.Connection) -> None:
        db.execute(f"delete from wal_check where cluster = ? and {over}{proved}", (cluster, row.part))
        db.execute("insert or ignore into wal_check values (?, ?, ?, ?, ?, ?, ?, ?)", (cluster, *astuple(row)))

    journal.change(write)


def keep_backup(journal: Journal, cluster: str, row: WalCheckRow | None) -> None:
    """Keep what is wrong with the newest backup, or that nothing is. Raises OperationFailed."""

    def write(db: sqlite3.Connection) -> None:
        db.execute("delete from wal_check where cluster = ? and part in (?, ?)", (cluster, *OF_BACKUP))
        if row:
            db.execute("insert into wal_check values (?, ?, ?, ?, ?, ?, ?, ?)", (cluster, *astuple(row)))

    journal.change(write)
