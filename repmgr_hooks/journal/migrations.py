"""The tables of the journal, as SQLite migrations: each is applied once, in order, and never changed."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

from repmgr_hooks.errors import OperationFailed

MIGRATIONS = (
    """
    create table event (
        id integer primary key,
        spooled text unique,           -- name of the file that it was handed in as; none if made by hand
        cluster text not null,
        node integer not null,
        name text not null,
        success integer not null,
        other_node integer,
        timestamp text not null,       -- what repmgr said; its clocks differ, so it orders nothing
        received real not null,
        run integer references run     -- the run that covered it; none while it waits
    );
    create index event_waiting on event (cluster) where run is null;
    create table run (
        id integer primary key,
        cluster text not null,
        cause text not null,           -- event, retry, drift, reconcile, boot
        attempt integer not null,      -- 1, and more for each retry
        started real not null,
        ended real,                    -- none while it runs, or if it was cut off
        ok integer,
        again integer,                 -- it failed, and trying once more may help
        "primary" integer,
        timeline integer,
        message text not null default ''
    );
    create table step (
        id integer primary key,
        run integer not null references run,
        action text not null,
        what text not null,
        started real not null,
        duration real not null,
        error text not null            -- empty: it worked
    );
    create table pause (cluster text primary key, until real, reason text not null, since real not null);
    """,
    """
    create table memory (
        cluster text primary key,
        "primary" integer,             -- the last primary that was found
        timeline integer not null,     -- and its timeline: an older one has come back from the dead
        system_identifier text not null
    );
    """,
    """
    create table role (
        id integer primary key,
        cluster text not null,
        "primary" integer,             -- a primary that was found
        timeline integer not null,     -- and its timeline: an older one has come back from the dead
        system_identifier text not null,
        since real not null
    );
    insert into role (cluster, "primary", timeline, system_identifier, since)
        select cluster, "primary", timeline, cast(system_identifier as text), strftime('%s', 'now') from memory;
    drop table memory;
    alter table event add column by_hand integer not null default 0;  -- replayed: proves nothing about the cluster
    alter table run add column "left" text not null default '';  -- the actions that failed, a line each
    create index event_received on event (cluster, received);
    """,
    """
    create table sight (
        id integer primary key,
        cluster text not null,
        at real not null,              -- when the worker looked and saw something else than in the look before
        before real,                   -- when that look before was; none: the worker has just started
        "primary" integer,             -- none: unknown
        timeline integer not null,
        verdict text not null,
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
    insert into total select cluster, 'event', '', count(*), 0, 0, 0 from event group by cluster;
    insert into total
        select cluster, 'run', cause, count(*), sum(not ok), 0, 0
          from run where ended is not null group by cluster, cause;
    insert into total
        select cluster, 'step', action, count(*), sum(error <> ''), sum(duration), 0
          from step join run on run.id = step.run group by cluster, action;
    insert into total
        select cluster, 'role', '', count(*), 0, 0, 0
          from (select cluster, "primary" <> lag("primary") over (partition by cluster order by id) as changed
                  from role)
         where changed group by cluster;
    """,
    """
    create table alert (
        cluster text not null,
        condition text not null,       -- primary, zombie, backup, gate, run, warning, or an event
        severity text not null,
        summary text not null,
        details text not null,
        next text not null,            -- what to type
        momentary integer not null,    -- it has happened, and does not go on
        since real not null,
        ended real,
        flapping integer not null,
        told text not null,            -- JSON: what each target was told last, and when
        primary key (cluster, condition)
    );
    """,
    """
    -- The primary in whose time it was told; 0: none was known yet; none: it is of an earlier one.
    alter table event add column role integer;
    update event set role = (select max(id) from role where role.cluster = event.cluster and since <= received);
    create index event_role on event (cluster, role);
    """,
    """
    create table probe (
        id integer primary key,
        cluster text not null,
        at real not null,              -- when a client found something else than the one before
        before real,                   -- when that one came; none: the worker has just started
        port text not null,
        code text not null,            -- writes, or why not
        node integer,                  -- who answered
        said text not null
    );
    """,
    """
    -- A timeline is a number and the node that began it; it stays when the roles are forgotten, as the archive does.
    create table branch (
        cluster text not null,
        system_identifier text not null,
        timeline integer not null,
        node integer not null,         -- the first that was seen as a primary on it, or the one that all agreed with
        since real not null,
        primary key (cluster, system_identifier, timeline)
    );
    insert or ignore into branch
        select cluster, system_identifier, timeline, "primary", since from role where "primary" is not null order by id;
    """,
)


def connect(path: Path, busy_limit: float) -> sqlite3.Connection:
    """Open the file, made new or brought up to date.

    Raises sqlite3.Error, and OperationFailed for one of a newer version.

    One connection for all threads of the worker: SQLite serialises, and nothing here takes long.
    """
    _prepare(path)
    db = sqlite3.connect(path, timeout=busy_limit, isolation_level=None, check_same_thread=False)
    db.execute("pragma journal_mode = wal")
    db.execute("pragma synchronous = full")
    (version,) = db.execute("pragma user_version").fetchone()
    if version > len(MIGRATIONS):
        raise OperationFailed(f"{path} is of a newer version ({version}) than this program; upgrade repmgr_hooks")
    for number in range(version, len(MIGRATIONS)):
        db.executescript(f"begin; {MIGRATIONS[number]}; pragma user_version = {number + 1}; commit;")
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
        raise sqlite3.DatabaseError("it is no file")
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
