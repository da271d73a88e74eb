"""What happened, durably: every event, the run that covered it, every step, and what a restart must remember.

SQLite (``journal.db`` in the state directory), readable with plain ``sqlite3``. Times are seconds since the epoch,
durations are seconds.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.event import Event, Report
from repmgr_hooks.journal import memory, queries
from repmgr_hooks.journal.maintenance import Maintenance
from repmgr_hooks.journal.memory import TOLD_UNDER
from repmgr_hooks.journal.prune import FORGET, PRUNE
from repmgr_hooks.journal.queries import LEFT_COLUMNS, DueRows
from repmgr_hooks.journal.rows import (
    Due,
    Failed,
    Observation,
    Place,
    ProbeRow,
    RunRow,
    StepRow,
    Waiting,
)
from repmgr_hooks.journal.store import opened

STEP_COLUMNS = "path, action, event, event_node, kind, target, node, what, started, duration, error, code, hint"

ADD_EVENT = f"""
insert into event (spooled, cluster, node, name, success, other_node, timestamp, received, by_hand, role, host, ahead)
values (:spooled, :cluster, :node, :name, :success, :other_node, :timestamp, :received, :by_hand, ({TOLD_UNDER}),
        :host, :ahead)
on conflict (spooled) do nothing
"""


class Journal(Maintenance):
    """The journal of one state directory. Every method is one transaction; each may raise OperationFailed."""

    def __init__(self, path: Path, later: bool = False) -> None:
        self._due = DueRows()  # before the thread is there that asks it
        super().__init__(path, later)

    # -- events -----------------------------------------------------------------------------------------------------

    def add_event(
        self, cluster: str, event: Event, received: float, spooled: str | None = None, by_hand: bool = False
    ) -> int:
        """Store an event and return its number; one that was stored before (the same spool file) is stored once."""
        values = _event_values(Report(cluster, event), received, spooled, by_hand)
        return self.change(lambda db: db.execute(ADD_EVENT, values).lastrowid) or 0

    def add_events(self, events: Iterable[tuple[Report, float, str]]) -> None:
        """Store many at once: each when it was received, and its spool file.

        One that another host handed over is known by its number there, however often and by which way it comes.
        """
        rows = [_event_values(*values) for values in events]
        self.change(lambda db: db.executemany(ADD_EVENT, rows))

    def waiting(self, cluster: str) -> list[Waiting]:
        """Return the events that wait, oldest first."""
        return self.ask(lambda db: queries.waiting(db, cluster))

    def waited(self, cluster: str, now: float) -> float:
        """Return for how many seconds the oldest event that waits has done so; 0 if none waits."""
        oldest = self.read("select min(received) from event where run is null and cluster = ?", cluster)[0][0]
        return 0.0 if oldest is None else float(now - oldest)

    def awaited(self) -> set[str]:
        """Return the clusters for which events wait."""
        return {cluster for (cluster,) in self.read("select distinct cluster from event where run is null")}

    def events_of(self, run: int) -> list[Waiting]:
        """Return the events that a run covered."""
        return self._events("where run = ?", run)

    def event(self, number: int) -> tuple[str, Event] | None:
        """Return the cluster and the event of a number."""
        found = self.read("select cluster from event where id = ?", number)
        return (found[0][0], self._events("where id = ?", number)[0].event) if found else None

    def last_event(self, cluster: str) -> tuple[float, Event] | None:
        """Return when the event that came last was received, and the event."""
        rows = self.read("select received, id from event where cluster = ? order by id desc limit 1", cluster)
        return (rows[0][0], self._events("where id = ?", rows[0][1])[0].event) if rows else None

    def latest_events(self, cluster: str, limit: int) -> list[tuple[int, str]]:
        """Return the numbers of the latest events, and what each says, the newest first."""
        rows = self.read("select id from event where cluster = ? order by id desc limit ?", cluster, limit)
        return [(number, str(self._events("where id = ?", number)[0].event)) for (number,) in rows]

    def due(self, cluster: str, within: float = 0.0) -> Due:
        """Return all that decides what is to be done for a cluster, and what is remembered, as ``last_known`` does."""
        return self.ask(lambda db: self._due.read(db, cluster, within))

    def _events(self, condition: str, value: object) -> list[Waiting]:
        return self.ask(lambda db: queries.events(db, condition, value))

    # -- runs -------------------------------------------------------------------------------------------------------

    def begin_run(self, cluster: str, cause: str, attempt: int, events: Iterable[int]) -> int:
        """Open a run that covers these events, and return its number."""
        values = (cluster, cause, attempt, clock.wall())

        def begin(db: sqlite3.Connection) -> int:
            run = db.execute("insert into run (cluster, cause, attempt, started) values (?, ?, ?, ?)", values).lastrowid
            db.executemany("update event set run = ? where id = ?", [(run, number) for number in events])
            assert run is not None
            return run

        return self.change(begin)

    def add_step(self, run: int, step: StepRow) -> None:
        """Record a step that has ended."""
        place, *rest = step
        values = (run, *place, *rest)
        self._write(f"insert into step (run, {STEP_COLUMNS}) values ({', '.join('?' * len(values))})", *values)

    def end_run(
        self,
        run: int,
        ok: bool,
        again: bool,
        message: str,
        primary: int | None,
        timeline: int,
        code: str = "",
        hint: str = "",
        left: Iterable[Failed] = (),
    ) -> None:
        """Close a run; ``left``: the actions that failed."""
        values = (clock.wall(), ok, again, message, primary, timeline, code, hint, run)
        columns = 'ended = ?, ok = ?, again = ?, message = ?, "primary" = ?, timeline = ?, code = ?, hint = ?'
        failed = [(run, *item.place, item.code) for item in left]

        def end(db: sqlite3.Connection) -> None:
            db.execute(f"update run set {columns} where id = ?", values)
            db.executemany(f"insert into failed_action (run, {LEFT_COLUMNS}) values (?, ?, ?, ?, ?, ?)", failed)

        self.change(end)

    def release_cut_off(self, busy: Collection[str] = (), only: str | None = None) -> int:
        """Let the events of runs that never ended wait again; return how many. Only the one worker may ask this.

        In a ``busy`` cluster somebody works by hand: there, only the worker's own runs are known to have been cut off.
        """
        names = ", ".join("?" * len(busy))
        whose = f"(cause in ('event', 'retry', 'drift') or cluster not in ({names})) and (? is null or cluster = ?)"
        cut, values = f"ended is null and {whose}", [*busy, only, only]

        def release(db: sqlite3.Connection) -> int:
            cursor = db.execute(f"update event set run = null where run in (select id from run where {cut})", values)
            db.execute(
                f"update run set ended = started, ok = 0, again = 1, message = 'cut off', code = 'cut_off' where {cut}",
                values,
            )
            return cursor.rowcount

        return self.change(release)

    def runs(self, limit: int, cluster: str | None = None, failed: bool = False) -> list[RunRow]:
        """Return the newest runs, oldest first."""
        return self.ask(lambda db: queries.runs(db, limit, cluster, failed))

    def last_run(self, cluster: str) -> list[RunRow]:
        """Return the last run that was to make the routes true, if there was one."""
        found = self.ask(lambda db: queries.last_run(db, cluster))
        return [found] if found else []

    def steps(self, run: int) -> list[StepRow]:
        """Return the steps of a run."""
        rows = self.read(f"select {STEP_COLUMNS} from step where run = ? order by id", run)
        return [StepRow(Place(*row[:4]), *row[4:]) for row in rows]

    def prune(self, days: float) -> None:
        """Remove what is older than so many days; what waits, runs, came last, or may prove a promotion stays."""
        before = clock.wall() - days * 86400
        self.change(lambda db: [db.execute(statement, (before,)) for statement in PRUNE])

    # -- memory ------------------------------------------------------------------------------------------------------

    def last_known(self, cluster: str, within: float = 0.0) -> LastKnownPrimary:
        """Return what is remembered of a cluster, with how often its primary has changed in so many seconds.

        That repmgr promoted a node is believed of what the hook was told since this primary was found, never of an
        event replayed by hand.
        """
        return self.ask(lambda db: memory.last_known(db, cluster, within))

    def remember(self, cluster: str, last_known: LastKnownPrimary) -> None:
        """Remember the primary that was found."""
        values = (cluster, last_known.primary, last_known.timeline, last_known.system_identifier, clock.wall())
        if last_known != self.last_known(cluster):
            columns = 'cluster, "primary", timeline, system_identifier, since'
            self._write(f"insert into role ({columns}) values (?, ?, ?, ?, ?)", *values)
            self._began(cluster, last_known, "ignore")

    def agreed(self, cluster: str, last_known: LastKnownPrimary) -> None:
        """All agrees with this primary, Barman's archive too: from now on its timeline is the one that it began."""
        if self.last_known(cluster).began.get(last_known.timeline) != last_known.primary:
            self._began(cluster, last_known, "replace")

    def _began(self, cluster: str, last_known: LastKnownPrimary, known: str) -> None:
        values = (cluster, last_known.system_identifier, last_known.timeline, last_known.primary, clock.wall())
        if last_known.primary is not None:
            self._write(f"insert or {known} into branch values (?, ?, ?, ?, ?)", *values)

    def forget(self, cluster: str) -> None:
        """Forget a cluster, after it was restored or made anew."""
        self.change(lambda db: [db.execute(statement, (cluster,)) for statement in FORGET])

    def saw(self, cluster: str, observation: Observation) -> None:
        """Keep what a look has seen that the look before had not."""
        self._write("insert into observation values (null, ?, ?, ?, ?, ?, ?, ?, ?)", cluster, *observation)

    def probed(self, cluster: str, rows: Iterable[ProbeRow]) -> None:
        """Keep what clients have found that the clients before had not."""
        values = [(cluster, *row) for row in rows]
        self.change(lambda db: db.executemany("insert into probe values (null, ?, ?, ?, ?, ?, ?, ?)", values))

    def last_probes(self, cluster: str) -> dict[str, str]:
        """Return the code of what clients have found last through each port, also through ports that are no more."""
        rows = self.read("select port, code, max(id) from probe where cluster = ? group by port", cluster)
        return {port: code for port, code, _ in rows}


def _event_values(report: Report, received: float, spooled: str | None, by_hand: bool = False) -> dict[str, object]:
    said = {**vars(report.event), "cluster": report.cluster, "by_hand": by_hand, "now": clock.wall()}
    if not (origin := report.origin):
        return {**said, "received": received, "spooled": spooled, "host": None, "ahead": None}
    # When repmgr reported it, on our clock: what was handed over late is not news.
    stored = min(origin.stored - origin.ahead, received)
    return {**said, "received": stored, "spooled": origin.key, "host": origin.host, "ahead": origin.ahead}


def open_journal(path: Path, later: bool = False) -> Journal:
    """Open the journal, see ``store.opened``. Raises OperationFailed."""
    return opened(Journal, path, later)
