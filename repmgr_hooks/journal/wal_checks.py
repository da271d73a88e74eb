"""What following the records of Barman's WAL has shown last, whoever asked for it."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import astuple, dataclass

from repmgr_hooks.errors import Problem
from repmgr_hooks.journal.journal import Journal

COLUMNS = 'part, at, "primary", timeline, problem, unable, text'


@dataclass(frozen=True)
class WalCheckRow:
    """What following the records of Barman's WAL has shown last, on whose timeline.

    ``part``: ``all`` since the newest backup, or the ``newest``, around the last switchpoint. ``unable``: why it could
    not be looked at.
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

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.at))
        scope = "" if self.part == "all" else ", around the switchpoint"
        if self.unable:
            return f"not checked{scope} ({when}): {self.unable}"
        return f"{self.problem or self.text}{scope} ({when})"


def broken(row: WalCheckRow, cluster: str) -> Problem:
    """Say what is wrong, and what to do about it."""
    return Problem(
        "broken_wal",
        f"a restore from Barman would fail: {row.problem}",
        "make a base backup, and then see that the next one would not fail: "
        f"repmgr-hooks check-wal --deep --cluster {cluster}",
    )


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
