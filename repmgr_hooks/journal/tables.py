"""The tables of the journal, and its file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

from repmgr_hooks.errors import OperationFailed

VERSION = 12
"""Of these tables (pragma user_version). Those before the first release had less, and are not read any more."""

SCHEMA = """
create table event (
    id integer primary key,
    spooled text unique,           -- name of the file that it was handed in as, after its host's; none if made by hand
    cluster text not null,
    node integer not null,
    name text not null,
    success integer not null,
    other_node integer,
    timestamp text not null,       -- what repmgr said; its clocks differ, so it orders nothing
    received real not null,
    by_hand integer not null default 0,  -- replayed: proves nothing about the cluster
    run integer references run,    -- the run that covered it; none while it waits
    role integer,                  -- the primary in whose time it came; 0: none was known; none: of an earlier one
    host text,                     -- the database host that handed it over; none: our own hook stored it
    ahead real                     -- seconds that the clock of that host was ahead of ours
);
create index event_waiting on event (cluster) where run is null;
create index event_received on event (cluster, received);
create index event_role on event (cluster, role);
create index event_host on event (cluster, host, node) where host is not null;
create table run (
    id integer primary key,
    cluster text not null,
    cause text not null,           -- event, retry, drift, reconcile, boot, replay, resume, hold, switchover,
                                   -- former_primary
    attempt integer not null,      -- 1, and more for each retry
    started real not null,
    ended real,                    -- none while it runs, or if it was cut off
    ok integer,
    again integer,                 -- it failed, and trying once more may help
    "primary" integer,
    timeline integer,
    message text not null default '',
    code text not null default '', -- what went wrong first; empty: nothing
    hint text not null default ''  -- what to do about it
);
create table failed_action (       -- what a run has left to its retries
    id integer primary key,
    run integer not null references run,
    path text not null,            -- its place in the routes
    action text not null,          -- its title there
    event text not null,           -- of a notification: what it tells of; else empty
    event_node integer,
    code text not null             -- why: not_reached, or the code of the error
);
create index failed_action_run on failed_action (run);
create table step (
    id integer primary key,
    run integer not null references run,
    path text not null,            -- of its action
    action text not null,
    event text not null,           -- of a notification: what it is about; else empty
    event_node integer,
    kind text not null,            -- open_port, create_slot, ...
    target text not null,          -- the port, slot, server or program
    node integer,
    what text not null,            -- the same for people
    started real not null,
    duration real not null,
    error text not null,           -- empty: it worked
    code text not null,            -- of the error
    hint text not null             -- what to do about it
);
create table pause (cluster text primary key, until real, reason text not null, since real not null);
create table role (
    id integer primary key,
    cluster text not null,
    "primary" integer,             -- a primary that was found
    timeline integer not null,     -- and its timeline: a primary on an older one is stale
    system_identifier text not null,
    since real not null
);
create table observation (
    id integer primary key,
    cluster text not null,
    at real not null,              -- when the worker looked and saw something else than in the look before
    before real,                   -- when that look before was; none: the worker has just started
    "primary" integer,             -- none: unknown
    timeline integer not null,
    code text not null,            -- why: only, newest, nobody, behind, ...
    decision text not null,        -- the same for people
    nodes text not null            -- what each node said, a line each
);
-- What was counted since the journal began: it stays when the rows are forgotten, so a counter never goes down.
create table total (
    cluster text not null,
    kind text not null,            -- event, run, step, role
    name text not null,            -- of a run its cause, of a step its action
    count integer not null,
    failed integer not null,
    seconds real not null,
    last real not null,            -- the seconds of the newest
    primary key (cluster, kind, name)
);
create trigger event_counted after insert on event begin
    insert into total values (new.cluster, 'event', '', 1, 0, 0, 0)
        on conflict do update set count = count + 1;
end;
create trigger run_counted after update of ended on run when old.ended is null and new.ended is not null begin
    insert into total values (new.cluster, 'run', new.cause, 1, not new.ok, 0, 0)
        on conflict do update set count = count + 1, failed = failed + excluded.failed;
end;
create trigger step_counted after insert on step begin
    insert into total
        select cluster, 'step', new.action, 1, new.error <> '', new.duration, new.duration
          from run where id = new.run
        on conflict do update set count = count + 1, failed = failed + excluded.failed,
                                  seconds = seconds + excluded.seconds, last = excluded.last;
end;
create trigger role_counted after insert on role
when (select "primary" from role where cluster = new.cluster and id < new.id order by id desc limit 1)
     <> new."primary" begin
    insert into total values (new.cluster, 'role', '', 1, 0, 0, 0)
        on conflict do update set count = count + 1;
end;
create table probe (
    id integer primary key,
    cluster text not null,
    at real not null,              -- when a client found something else than the one before
    before real,                   -- when that one came; none: the worker has just started
    port text not null,
    code text not null,            -- writes, or why not
    node integer,                  -- who answered
    said text not null             -- the same for people
);
-- A timeline is a number and the node that began it; it stays when the roles are forgotten, as the archive does.
create table branch (
    cluster text not null,
    system_identifier text not null,
    timeline integer not null,
    node integer not null,         -- the first that was seen as a primary on it, or the one that all agreed with
    since real not null,
    primary key (cluster, system_identifier, timeline)
);
create table wal_check (           -- what check-wal showed last
    cluster text not null,
    part text not null,            -- all, newest: how much of the records; no_backup, ...: what is wrong
    at real not null,
    "primary" integer not null,    -- whose timeline it was
    timeline integer not null,
    problem text not null,         -- empty: nothing is wrong, as far as was looked
    unable text not null,          -- why it could not be looked at; empty: it was
    text text not null,            -- what was followed
    primary key (cluster, part)
);
create table alert (
    cluster text not null,
    condition text not null,       -- primary, client, backup, wal_check, no_backup, gate, run, or an event
    severity text not null,
    summary text not null,
    details text not null,
    hint text not null,            -- what to do
    momentary integer not null,    -- it has happened, and does not go on
    since real not null,
    ended real,
    flapping integer not null,
    deliveries text not null,      -- JSON: what was sent to each receiver last, and when
    primary key (cluster, condition)
);
"""


RUN_INDEX = "create index if not exists run_cluster on run (cluster)"
"""Every look asks for the last run of its cluster; without this all later runs of the others were read for it."""


class OlderTables(sqlite3.DatabaseError):
    """The journal was written by a version before the first release."""


def connect(path: Path, busy_limit: float) -> sqlite3.Connection:
    """Open the file; a new one gets its tables, and the pauses that last: the one before it may have been broken.

    Raises sqlite3.Error, OlderTables among them, and OperationFailed for one of a newer version.

    One connection for all threads of the worker: SQLite serialises, and nothing here takes long.
    """
    _prepare(path)
    db = sqlite3.connect(path, timeout=busy_limit, isolation_level=None, check_same_thread=False)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    (version,) = db.execute("pragma user_version").fetchone()
    if version > VERSION:
        db.close()
        what = f"{path} is of a newer version ({version}) than this program"
        raise OperationFailed(what, code="newer_journal", hint="upgrade repmgr_hooks")
    if 0 < version < VERSION:
        db.close()
        raise OlderTables(f"its tables are of version {version}, from before the first release")
    if version == 0:
        from repmgr_hooks.journal.pauses import all_known  # which needs a journal itself

        try:
            db.executescript(f"begin immediate; {SCHEMA}; pragma user_version = {VERSION};")
            rows = [(cluster, *pause) for cluster, pause in all_known(path.parent).items()]
            db.executemany("insert into pause values (?, ?, ?, ?)", rows)
            db.execute("commit")
        except sqlite3.OperationalError:
            if db.in_transaction:
                db.execute("rollback")
            if db.execute("pragma user_version").fetchone() != (VERSION,):  # else somebody was quicker
                raise
    # Not waited for: a lock that somebody holds would hold up whoever only reads.
    db.execute("pragma busy_timeout = 0")
    with contextlib.suppress(sqlite3.OperationalError):  # locked, or read-only: without it there is only more to read
        db.execute(RUN_INDEX)
    db.execute(f"pragma busy_timeout = {1000 * busy_limit:.0f}")
    return db


def _prepare(path: Path) -> None:
    """Make the file for nobody but us: who can read it can lock it (sqlite.org/lockingv3.html), and hold up a failover.

    SQLite gives the files beside it the same mode. Raises sqlite3.DatabaseError if something else stands there.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        return
    except FileExistsError:
        status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise sqlite3.DatabaseError("it is not a file")
    for rest in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            path.with_name(path.name + rest).chmod(0o600)


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one of that name; None if there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
