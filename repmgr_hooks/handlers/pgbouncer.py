"""PgBouncers pool no connection to a former primary, and let clients go on that we have held.

It stands in a route after ``firewall: {open: app}``. When that port is led elsewhere, netfilter cuts what led to the
former primary and resets it (``handlers/firewall.py``): PgBouncer, as any client, finds at once that these connections
are gone, those too in which a query hangs. RECONNECT ends what is left of them, as where ``reset_clients`` is off, each
when its transaction has ended. One whose transaction never ends, for the server is silent, is ended with its client
where PgBouncer can do that to one (KILL_CLIENT, from 1.24 on). KILL, which 1.18 has, would end every client of the
database, those too that only wait: it is never used.

A PgBouncer that is dead or hangs is none of a failover's steps: it is said on every look, and seen to when it is back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from psycopg import ProgrammingError, conninfo

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.errors import OperationFailed, Problem, mistake
from repmgr_hooks.handlers import contract
from repmgr_hooks.journal import holds
from repmgr_hooks.journal.holds import Hold
from repmgr_hooks.settings import libpq
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.schema import Identifier, NotEmpty
from repmgr_hooks.system import pgbouncer
from repmgr_hooks.system.pgbouncer import KILLS_CLIENTS, LIMIT, Connection, PgBouncer, paused_by_hand, still_paused
from repmgr_hooks.system.steps import Host, Step

fail_open_after = contract.never_fails_open
shared = contract.exists_once
on_tick = contract.looks_on_tick
helper = contract.never_helps
fingerprint = contract.no_fingerprint
warnings = contract.no_warnings
fence = contract.fence_nothing

LOOK_LIMIT = 1.0
"""Seconds for all PgBouncers together, in a run; one that has let us wait is not waited for again."""
RECENT = 1800.0
"""Seconds after a change of the primary in which connections are looked at: for that, PgBouncer lists all clients."""
ROUGHLY = 2.0
"""PgBouncer says when a connection was made in whole seconds. One that may be new is left alone: RECONNECT ends a login
too, and then every client that waits for it gets an error (objects.c, disconnect_server: last_connect_failed)."""
OURS = ("dbname", "application_name", "options", "client_encoding", "replication", "fallback_application_name")


@dataclass(frozen=True)
class Consoles:
    """One connection string of libpq's, or several: host, user, and what else is needed but a password."""

    def keywords(self) -> dict[str, Any]:
        """Return the same as keywords of JSON schema."""
        one = {"type": "string"}
        return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1, "uniqueItems": True}]}

    def problem(self, value: object) -> Problem | None:
        consoles = value if isinstance(value, list) else [value]
        if not consoles:
            return mistake("must not be empty")
        wrong = [problem for console in consoles if (problem := _wrong(console))]
        twice = None if wrong or len(set(consoles)) == len(consoles) else mistake("names one console twice")
        return wrong[0] if wrong else twice


def _wrong(console: object) -> Problem | None:
    """Return what is wrong with a connection string. What cannot be read is not repeated: it may hold a password."""
    example = "such as: host=10.0.0.20 port=6432 user=repmgr_hooks"
    if not isinstance(console, str):
        return mistake("must be a connection string of libpq's, or a list of them", example)
    try:
        given = conninfo.conninfo_to_dict(console)
    except ProgrammingError:
        return mistake("holds a connection string that libpq cannot read", example)
    if "password" in given:
        return mistake("holds a password: the file is not secret", "put it into 'passfile'")
    if "," in str(given.get("host", "")):
        return mistake("names several hosts in one connection string", "write a list: each PgBouncer is asked")
    for name in ("host", "user"):
        if not given.get(name):
            return mistake(f"holds a connection string without '{name}'", example)
    if name := next((name for name in OURS if name in given), ""):
        return mistake(f"sets '{name}', which repmgr_hooks sets itself", libpq.TAKE_OUT)
    wrong = (libpq.problem(name, value) for name, value in given.items())
    return next((mistake(f"'{name}': {found}") for name, found in zip(given, wrong, strict=True) if found), None)


@dataclass(frozen=True)
class Config:
    """``{databases: [app], on: host=10.0.0.20 user=repmgr_hooks}``: PgBouncer's names of the databases that it leads
    through our port, and how to connect to its admin console, or a list of these. The password is in ``passfile``, or
    in that of ``postgres``.
    """

    databases: Annotated[tuple[Identifier, ...], NotEmpty()]
    on: Annotated[Any, Consoles()]

    def consoles(self, cluster: Cluster) -> tuple[str, ...]:
        """Return how each console is connected to."""
        given = self.on if isinstance(self.on, list) else [self.on]
        passfile = {"passfile": cluster.postgres.passfile} if cluster.postgres.passfile else {}
        return tuple(conninfo.make_conninfo("", **{**passfile, **conninfo.conninfo_to_dict(each)}) for each in given)


@dataclass(frozen=True)
class Seen:
    """The PgBouncers that answer, the hold, if there is one, and how long ago the primary changed, if lately."""

    there: tuple[PgBouncer, ...]
    hold: Hold | None
    changed: float | None


def validate(config: Config, cluster: Cluster) -> Iterable[Problem]:
    """The types of the options say all but this."""
    if "pgbouncer" in config.databases:
        yield mistake("'pgbouncer' is the admin console itself", "name the databases that applications use")


def observe(config: Config, state: ClusterState, host: Host) -> Seen:
    """Ask every PgBouncer; those that do not answer are left out."""
    since = clock.wall() - state.last_known.since if state.last_known.since else None
    changed = since if since is not None and since < RECENT else None
    answers = pgbouncer.look(config.consoles(state.cluster), host, LOOK_LIMIT, connections=changed is not None)
    there = tuple(each for each in answers.values() if isinstance(each, PgBouncer))
    return Seen(there, _hold(state.cluster), changed)


def _hold(cluster: Cluster) -> Hold | None:
    try:
        return holds.read(cluster)
    except OperationFailed:
        return None  # the service sees to it


def plan(config: Config, state: ClusterState, seen: Seen) -> list[Step]:
    """Return the steps after which clients are served by today's primary: none is ours that another one waits for."""
    over = seen.hold is not None and (seen.hold.over or _is_followed(seen.hold, state))
    resumed = _paused_by_us(seen, config) if over else []
    steps = []
    for each in seen.there:
        former = _former(each, config, seen.changed)
        steps += [
            _step("RECONNECT", "reconnect", each, name)
            for name in config.databases
            if any(server.database == name and not server.closing for server in former)
        ]
        steps += _killed(each, [server for server in former if server.closing])
    # Last: RECONNECT ends a connection in the middle of its login too, which fails the clients that wait for it.
    return [*steps, *(_step("RESUME", "resume", each, name) for each, name in resumed)]


def _is_followed(hold: Hold, state: ClusterState) -> bool:
    """Whether there is another primary than the one that was there when the clients were held."""
    return (hold.primary, hold.timeline) != (state.primary, state.timeline)


def _paused_by_us(seen: Seen, config: Config) -> list[tuple[PgBouncer, str]]:
    ours = ((each, seen.hold.ours(each.console) if seen.hold else ()) for each in seen.there)
    return [(each, name) for each, names in ours for name in still_paused(each, names) if name in config.databases]


def _former(each: PgBouncer, config: Config, changed: float | None) -> list[Connection]:
    """Return the server connections that were certainly made before the primary changed."""
    if changed is None:
        return []
    old = (server for server in each.servers if server.age is not None and server.age - ROUGHLY > changed)
    return [server for server in old if server.database in config.databases and server.state != "new"]


def _killed(each: PgBouncer, hanging: Iterable[Connection]) -> list[Step]:
    """Return what ends the clients whose transactions do not end, for the node that they wait for is gone."""
    clients = {client for server in hanging if (client := each.client_of(server))}
    return [
        Step(
            f"end a client of {each.name} that waits for the former primary ({client.address}, user {client.user})",
            pgbouncer.kill_client(each.console, client),
            LIMIT,
            kind="kill_client",
            target=client.database,
            helper=True,
        )
        for client in sorted(clients, key=lambda client: client.number)
        if each.version >= KILLS_CLIENTS and client.number
    ]


def _step(verb: str, kind: str, each: PgBouncer, database: str) -> Step:
    what = f"{kind} {database} on {each.name}"
    return Step(what, pgbouncer.command(verb, each.console, database), LIMIT, kind=kind, target=database, helper=True)


def housekeep(config: Config, state: ClusterState, host: Host) -> None:
    """Say which PgBouncers do not answer, and what somebody else has paused. Raises OperationFailed."""
    hold = _hold(state.cluster)
    found: list[Problem] = []
    for console, each in pgbouncer.look(config.consoles(state.cluster), host, LOOK_LIMIT).items():
        if isinstance(each, OperationFailed):
            found.append(Problem.of(each))
        else:
            found += paused_by_hand(each, config.databases, hold.ours(console) if hold else ())
    if found:
        hints: Mapping[str, None] = dict.fromkeys(problem.hint for problem in found if problem.hint)
        raise OperationFailed("; ".join(map(str, found)), code=found[0].code, hint="; ".join(hints))
