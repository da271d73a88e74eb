"""The tables of the journal, as SQLite migrations: each is applied once, in order, and never changed."""

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
)
