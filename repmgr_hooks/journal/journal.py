"""What happened, durably: every event, the run that covered it, every step, and what a restart must remember.

SQLite (``journal.db`` in the state directory), readable with plain ``sqlite3``. Times are seconds since the epoch,
durations are seconds.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from repmgr_hooks.cluster.decide import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import CATALOGUE, Event, RoleClaim
from repmgr_hooks.journal.migrations import connect, identity
from repmgr_hooks.journal.rows import RUN_COLUMNS, Observation, Pause, RunRow, StepRow, Waiting, run_row
from repmgr_hooks.lock import as_owner
from repmgr_hooks.settings.cluster import Cluster

log = logging.getLogger(__name__)

BUSY_LIMIT = 10.0

EVENT_COLUMNS = "id, node, name, success, other_node, timestamp"

CLAIMS = ", ".join(f"'{name}'" for name, kind in CATALOGUE.items() if kind.meaning is RoleClaim.PRIMARY)
DENIALS = ", ".join(f"'{name}'" for name, kind in CATALOGUE.items() if kind.meaning is RoleClaim.STANDBY)
PROMOTED = f"""
select distinct node from event claim
 where cluster = ? and received >= ? and name in ({CLAIMS}) and not by_hand
   and not exists (select 1 from event later where later.cluster = claim.cluster and later.node = claim.node
                      and later.received > claim.received and later.name in ({DENIALS}))
"""
CHANGES = """
select count(*) from (select "primary" <> lag("primary") over (order by id) as changed, since from role
                       where cluster = ?) where changed and since >= ?
"""


class Journal:
    """The journal of one state directory. Every method is one transaction; each may raise OperationFailed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._alone = threading.RLock()
        with self._telling():
            self._db = connect(path, BUSY_LIMIT)
            self._file = identity(path)

    def _current(self) -> sqlite3.Connection:
        """Return the connection; a new one if the file was moved away, or else we would write where nobody reads."""
        if not self._db.in_transaction and identity(self._path) != self._file:
            log.error("the journal %s is not the file any more that it was; going on with a new one", self._path)
            before, self._db = self._db, connect(self._path, BUSY_LIMIT)
            self._file = identity(self._path)
            before.close()
        return self._db

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            with self._alone:
                yield
        except (sqlite3.Error, OSError) as error:
            raise OperationFailed(
                f"the journal {self._path} cannot be used: {error}; see to the disk and the file's owner, "
                "or move a broken file away"
            ) from error

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, also for tables that another module looks after. Raises OperationFailed."""
        with self._telling(), self._current() as db:
            db.execute("begin immediate")
            yield db

    def read(self, statement: str, *values: object) -> list[Any]:
        """Return the rows of a query."""
        with self._telling():
            return self._current().execute(statement, values).fetchall()

    def check(self) -> None:
        """Look at every page. Raises OperationFailed for a broken file."""
        with self._telling():
            (found,) = self._db.execute("pragma quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)

    def close(self) -> None:
        """Close the file; not under the hands of another thread, for SQLite crashes then."""
        with self._alone:
            self._db.close()

    # -- events -----------------------------------------------------------------------------------------------------

    def add_event(
        self, cluster: str, event: Event, received: float, spooled: str | None = None, by_hand: bool = False
    ) -> int:
        """Store an event and return its number; one that was stored before (the same spool file) is stored once."""
        said = (event.node, event.name, event.success, event.other_node, event.timestamp)
        with self.change() as db:
            cursor = db.execute(
                "insert into event (spooled, cluster, node, name, success, other_node, timestamp, received, by_hand)"
                " values (?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict (spooled) do nothing",
                (spooled, cluster, *said, received, by_hand),
            )
        return cursor.lastrowid or 0

    def waiting(self, cluster: str) -> list[Waiting]:
        """Return the events that wait, oldest first."""
        return self._events("where run is null and cluster = ?", cluster)

    def events_of(self, run: int) -> list[Waiting]:
        """Return the events that a run covered."""
        return self._events("where run = ?", run)

    def event(self, number: int) -> tuple[str, Event] | None:
        """Return the cluster and the event of a number."""
        found = self.read("select cluster from event where id = ?", number)
        return (found[0][0], self._events("where id = ?", number)[0].event) if found else None

    def last_event(self, cluster: str) -> tuple[float, Event] | None:
        """Return when the newest event was received, and the event."""
        rows = self.read("select received, id from event where cluster = ? order by received desc limit 1", cluster)
        return (rows[0][0], self._events("where id = ?", rows[0][1])[0].event) if rows else None

    def _events(self, condition: str, value: object) -> list[Waiting]:
        rows = self.read(f"select {EVENT_COLUMNS} from event {condition} order by id", value)
        return [Waiting(id_, Event(node, name, bool(ok), other, at)) for id_, node, name, ok, other, at in rows]

    # -- runs -------------------------------------------------------------------------------------------------------

    def begin_run(self, cluster: str, cause: str, attempt: int, events: Iterable[int]) -> int:
        """Open a run that covers these events, and return its number."""
        with self.change() as db:
            cursor = db.execute(
                "insert into run (cluster, cause, attempt, started) values (?, ?, ?, ?)",
                (cluster, cause, attempt, time.time()),
            )
            db.executemany("update event set run = ? where id = ?", [(cursor.lastrowid, number) for number in events])
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def add_step(self, run: int, step: StepRow) -> None:
        """Record a step that has ended."""
        with self.change() as db:
            db.execute(
                "insert into step (run, action, what, started, duration, error) values (?, ?, ?, ?, ?, ?)",
                (run, step.action, step.what, step.started, step.duration, step.error),
            )

    def end_run(
        self,
        run: int,
        ok: bool,
        again: bool,
        message: str,
        primary: int | None,
        timeline: int,
        left: Iterable[str] = (),
    ) -> None:
        """Close a run; ``left``: the actions that failed."""
        values = (time.time(), ok, again, message, primary, timeline, "\n".join(left), run)
        columns = 'ended = ?, ok = ?, again = ?, message = ?, "primary" = ?, timeline = ?, "left" = ?'
        with self.change() as db:
            db.execute(f"update run set {columns} where id = ?", values)

    def release_cut_off(self, busy: Collection[str] = ()) -> int:
        """Let the events of runs that never ended wait again; return how many. Only the one worker may ask this.

        In a ``busy`` cluster somebody works by hand: there, only the worker's own runs are known to have been cut off.
        """
        with self.change() as db:
            names = ", ".join("?" * len(busy))
            cut = f"ended is null and (cause in ('event', 'retry', 'drift') or cluster not in ({names}))"
            cursor = db.execute(f"update event set run = null where run in (select id from run where {cut})", [*busy])
            db.execute(f"update run set ended = started, ok = 0, again = 1, message = 'cut off' where {cut}", [*busy])
        return cursor.rowcount

    def runs(self, limit: int, cluster: str | None = None, failed: bool = False) -> list[RunRow]:
        """Return the newest runs, oldest first."""
        chosen = "(?1 is null or cluster = ?1) and (not ?2 or ok = 0)"
        rows = self.read(
            f"select {RUN_COLUMNS} from run where {chosen} order by id desc limit ?3", cluster, failed, limit
        )
        return [run_row(row) for row in reversed(rows)]

    def steps(self, run: int) -> list[StepRow]:
        """Return the steps of a run."""
        rows = self.read("select action, what, started, duration, error from step where run = ? order by id", run)
        return [StepRow(*row) for row in rows]

    def prune(self, days: float) -> None:
        """Remove what is older than so many days; what waits, runs, or came last stays."""
        before = time.time() - days * 86400
        old = "select id from run where ended < ? and id not in (select max(id) from run group by cluster)"
        with self.change() as db:
            db.execute(f"delete from step where run in ({old})", (before,))
            db.execute(f"delete from event where run in ({old})", (before,))
            db.execute(f"delete from run where id in ({old})", (before,))
            db.execute("delete from sight where at < ?", (before,))
            # A primary is of the time until the next was found; that of yesterday may be from long ago.
            later = "select 1 from role later where later.cluster = role.cluster and later.id > role.id"
            db.execute(f"delete from role where exists ({later} and later.since < ?)", (before,))

    # -- memory ------------------------------------------------------------------------------------------------------

    def memory(self, cluster: str, within: float = 0.0) -> LastKnownPrimary:
        """Return what is remembered of a cluster, with how often its primary has changed in so many seconds.

        That repmgr promoted a node is believed of what the hook was told, never of an event replayed by hand.
        """
        last = (
            'select "primary", timeline, system_identifier, since from role where cluster = ? order by id desc limit 1'
        )
        rows = self.read(last, cluster)
        if not rows:
            return LastKnownPrimary()
        primary, timeline, system, since = rows[0]
        promoted = self.read(PROMOTED, cluster, since)
        ((changes,),) = self.read(CHANGES, cluster, time.time() - within)
        began = dict(
            self.read("select timeline, node from branch where cluster = ? and system_identifier = ?", cluster, system)
        )
        return LastKnownPrimary(primary, timeline, system, frozenset(node for (node,) in promoted), changes, began)

    def remember(self, cluster: str, memory: LastKnownPrimary) -> None:
        """Remember the primary that was found."""
        values = (cluster, memory.primary, memory.timeline, memory.system_identifier, time.time())
        if memory != self.memory(cluster):
            columns = 'cluster, "primary", timeline, system_identifier, since'
            with self.change() as db:
                db.execute(f"insert into role ({columns}) values (?, ?, ?, ?, ?)", values)
                self._began(db, cluster, memory, "ignore")

    def agreed(self, cluster: str, memory: LastKnownPrimary) -> None:
        """All agrees with this primary, Barman's archive too: from now on its timeline is the one that it began."""
        if self.memory(cluster).began.get(memory.timeline) != memory.primary:
            with self.change() as db:
                self._began(db, cluster, memory, "replace")

    def _began(self, db: sqlite3.Connection, cluster: str, memory: LastKnownPrimary, known: str) -> None:
        values = (cluster, memory.system_identifier, memory.timeline, memory.primary, time.time())
        if memory.primary is not None:
            db.execute(f"insert or {known} into branch values (?, ?, ?, ?, ?)", values)

    def forget(self, cluster: str) -> None:
        """Forget a cluster, after it was restored or made anew."""
        with self.change() as db:
            db.execute("delete from role where cluster = ?", (cluster,))

    def saw(self, cluster: str, sight: Observation) -> None:
        """Keep what a look has seen that the look before had not."""
        with self.change() as db:
            db.execute("insert into sight values (null, ?, ?, ?, ?, ?, ?, ?)", (cluster, *astuple(sight)))

    # -- maintenance ------------------------------------------------------------------------------------------------

    def pause(self, cluster: str, until: float | None, reason: str) -> None:
        """Store events and do nothing from now on."""
        with self.change() as db:
            db.execute("insert or replace into pause values (?, ?, ?, ?)", (cluster, until, reason, time.time()))

    def resume(self, cluster: str) -> bool:
        """End a pause; return whether there was one."""
        with self.change() as db:
            return db.execute("delete from pause where cluster = ?", (cluster,)).rowcount > 0

    def paused(self, cluster: str) -> Pause | None:
        """Return the pause of a cluster, if it has one that is not over."""
        rows = self.read("select until, reason, since from pause where cluster = ?", cluster)
        found = [Pause(*row) for row in rows if row[0] is None or row[0] > time.time()]
        return found[0] if found else None


def open_journal(path: Path) -> Journal:
    """Open the journal; a broken file is set aside, for a failover must not fail for it. Raises OperationFailed."""
    with as_owner(path.parent):
        return _open(path)


def _open(path: Path) -> Journal:
    try:
        journal = Journal(path)
        journal.check()
        return journal
    except OperationFailed as error:
        if not isinstance(error.__cause__, sqlite3.DatabaseError) or isinstance(
            error.__cause__, sqlite3.OperationalError
        ):
            raise
        aside = path.with_name(f"{path.name}.broken-{int(time.time())}")
        log.error("the journal is broken (%s); it is now %s, and a new one begins", error.__cause__, aside)
        try:
            path.rename(aside)
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
        except OSError as refused:
            raise OperationFailed(f"{error}; and it cannot be set aside: {refused}") from error
        return Journal(path)


def primary_finder(settings: Cluster, journal: Journal | None) -> PrimaryFinder:
    """Return what decides for a cluster, with what the journal remembers of it. Raises OperationFailed."""
    known = journal.memory(settings.name, settings.flap_limit.window) if journal else LastKnownPrimary()
    return PrimaryFinder(settings, known)
