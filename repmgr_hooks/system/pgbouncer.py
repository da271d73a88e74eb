"""PgBouncers, by their admin consoles: what they say of themselves, as data, and what they are asked to do.

All are asked side by side, each within the limit; one that is dead or hangs is an OperationFailed in its own place.

``PAUSE`` of a database closes its server connections as soon as each is released, and lets clients wait; it ends with
``RESUME``, or with PgBouncer. A second PAUSE of a database is no error, and after it one RESUME suffices: who has
paused it cannot be asked. While *everything* is paused (PAUSE without a name), PAUSE of a database is refused
(admin.c, admin_cmd_pause).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.conninfo import conninfo_to_dict

from repmgr_hooks.errors import OperationFailed, Problem, odd_answer
from repmgr_hooks.system.steps import ConsoleCommand, Host, Table, console_name
from repmgr_hooks.text import one_line

LIMIT = 2.0
"""Seconds for what a PgBouncer answers at once."""
NAMED = 5
"""So many of those that a PAUSE waits for are named."""
KILLS_CLIENTS = (1, 24)
"""From this version on there is KILL_CLIENT (NEWS.md)."""

Paused = Mapping[str, Sequence[str]]
"""Of each console, the databases."""


@dataclass(frozen=True)
class Database:
    """A line of SHOW DATABASES: where a database leads to, and whether clients wait (``paused``)."""

    name: str
    host: str
    port: int
    paused: bool
    disabled: bool
    connections: int
    pool_mode: str


@dataclass(frozen=True)
class Connection:
    """A line of SHOW SERVERS or SHOW CLIENTS.

    ``age``: seconds since it was made, by PgBouncer's own clock, or None if that was not asked. ``closing``: it is
    closed as soon as it is released. ``number``: what KILL_CLIENT takes; 0 before 1.24.
    """

    database: str
    user: str
    state: str
    address: str
    since: str
    age: float | None
    closing: bool
    own: str
    link: str
    application: str
    number: int


@dataclass(frozen=True)
class PgBouncer:
    """What one PgBouncer says."""

    console: str
    version: tuple[int, ...]
    databases: tuple[Database, ...]
    servers: tuple[Connection, ...] = ()
    clients: tuple[Connection, ...] = ()

    @property
    def name(self) -> str:
        """Which PgBouncer this is, for people."""
        return f"PgBouncer {console_name(self.console)}"

    def database(self, name: str) -> Database | None:
        """Return a database; None if PgBouncer does not know it, or not yet (``*``)."""
        return next((database for database in self.databases if database.name == name), None)

    def client_of(self, server: Connection) -> Connection | None:
        """Return the client that has a server connection now."""
        return next((client for client in self.clients if client.own == server.link), None) if server.link else None


SETTINGS = "SHOW CONFIG"
BRIEF = ("SHOW VERSION", "SHOW DATABASES")
FULL = (*BRIEF, "SHOW SERVERS", "SHOW CLIENTS")


def look(
    consoles: Iterable[str], host: Host, limit: float = LIMIT, connections: bool = False
) -> dict[str, PgBouncer | OperationFailed]:
    """Return what each PgBouncer says; with ``connections`` also who is connected, which may be thousands."""
    answers = host.ask_consoles(dict.fromkeys(consoles, FULL if connections else BRIEF), limit)
    return {console: _read(console, answer) for console, answer in answers.items()}


def settings_of(consoles: Iterable[str], host: Host) -> dict[str, dict[str, str] | OperationFailed]:
    """Return the settings of each PgBouncer."""
    answers = host.ask_consoles(dict.fromkeys(consoles, (SETTINGS,)), LIMIT)
    return {console: _settings(console, answer) for console, answer in answers.items()}


def _settings(console: str, answer: list[Table] | OperationFailed) -> dict[str, str] | OperationFailed:
    if isinstance(answer, OperationFailed):
        return answer
    try:
        return {str(row["key"]): str(row["value"]) for row in answer[0]}
    except Exception as error:  # what it says is foreign text
        return OperationFailed(f"PgBouncer {console_name(console)}: {odd_answer(error)}", code="odd_answer")


def shares_its_port(console: str, settings: Mapping[str, str]) -> Problem | None:
    """Return what is wrong if several processes listen there: Linux gives each connection to one of them
    (``SO_REUSEPORT``, socket(7)), so PAUSE would reach one, and RESUME another, whose clients do not wait.
    """
    if settings.get("so_reuseport") not in ("1", "yes", "on", "true") or str(
        conninfo_to_dict(console).get("host", "")
    ).startswith("/"):
        return None
    what = f"PgBouncer {console_name(console)}: several processes may share its port (so_reuseport = 1)"
    return Problem("shared_port", what, "in 'on', name each process by its own unix_socket_dir: host=/run/pgbouncer1")


def _read(console: str, answer: list[Table] | OperationFailed) -> PgBouncer | OperationFailed:
    if isinstance(answer, OperationFailed):
        return answer
    try:
        return parsed(console, answer)
    except Exception as error:  # what it says is foreign text
        what = f"PgBouncer {console_name(console)}: {odd_answer(error)}"
        return OperationFailed(what, code="odd_answer")


def parsed(console: str, tables: Sequence[Table]) -> PgBouncer:
    """Return what a PgBouncer has said to BRIEF or FULL, in the form of whatever version. Raises what cannot be read.

    The newest moment in SHOW CLIENTS is that of our own question, for our connection is one of the clients.
    """
    version, databases, *connections = tables
    now = max((_moment(row["request_time"]) for rows in connections[1:] for row in rows), default=None)
    servers, clients = ([tuple(_connection(row, now) for row in rows) for rows in connections] + [(), ()])[:2]
    return PgBouncer(console, _version(version[0]["version"]), tuple(map(_database, databases)), servers, clients)


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split()[-1].split(".")[:2] if part.isdigit())


def _database(row: Mapping[str, object]) -> Database:
    said = {name: str(row[name] or "") for name in ("name", "host", "pool_mode")}
    port, connections = int(str(row["port"] or 0)), int(str(row["current_connections"]))
    paused, disabled = (str(row[name]) == "1" for name in ("paused", "disabled"))
    return Database(one_line(said["name"]), said["host"], port, paused, disabled, connections, said["pool_mode"])


def _connection(row: Mapping[str, object], now: datetime | None) -> Connection:
    database, user, state, address, since, own, link, application = (
        one_line(str(row.get(name) or ""))
        for name in ("database", "user", "state", "addr", "connect_time", "ptr", "link", "application_name")
    )
    age = (now - _moment(row["connect_time"])).total_seconds() if now else None
    closing, number = str(row["close_needed"]) == "1", int(str(row.get("id") or 0))
    return Connection(database, user, state, address, since, age, closing, own, link, application, number)


def _moment(said: object) -> datetime:
    """Return a time as PgBouncer shows it, in its own zone, whose name strptime(3) may not know."""
    return datetime.strptime(" ".join(str(said).split()[:2]), "%Y-%m-%d %H:%M:%S")


def command(verb: str, console: str, database: str) -> ConsoleCommand:
    """Return PAUSE, RESUME, RECONNECT or KILL for a database; names are quoted, for only some need not be."""
    return ConsoleCommand(console, f'{verb} "{database}"')


def kill_client(console: str, client: Connection) -> ConsoleCommand:
    """Return what ends one client and its server connection; ``number`` must be known (KILLS_CLIENTS)."""
    return ConsoleCommand(console, f"KILL_CLIENT {client.number}")


def pause(asked: Paused, host: Host, limit: float) -> dict[str, OperationFailed]:
    """Let the clients of these databases wait; return where that was not done within ``limit`` seconds, and why.

    One that is not done in time is in force all the same: ``resume`` takes it back.
    """
    commands = {
        console: [command("PAUSE", console, name).command for name in names] for console, names in asked.items()
    }
    failed = _failures(host.ask_consoles({console: each for console, each in commands.items() if each}, limit))
    late = [console for console, error in failed.items() if error.code == "timeout"]
    for console, seen in look(late, host, connections=True).items() if late else ():
        if isinstance(seen, PgBouncer) and (names := blocking(seen, asked[console])):
            said = f"{failed[console]}: it waits for {', '.join(names)}"
            failed[console] = OperationFailed(said, code="timeout", hint="end these transactions, and try again")
    return failed


def resume(asked: Paused, host: Host, limit: float = LIMIT) -> dict[str, OperationFailed]:
    """Let the clients of these databases go on; return where that cannot be seen to be true, and why.

    What is not paused any more (somebody has resumed it, or PgBouncer was started anew) is as it should be.
    """
    seen = look(asked, host, limit)
    commands = {
        console: [command("RESUME", console, name).command for name in still_paused(each, asked[console])]
        for console, each in seen.items()
        if isinstance(each, PgBouncer)
    }
    failed = {console: each for console, each in seen.items() if isinstance(each, OperationFailed)}
    refused = _failures(host.ask_consoles({console: each for console, each in commands.items() if each}, limit))
    for console, each in look(refused, host, limit).items() if refused else ():
        if not isinstance(each, PgBouncer) or still_paused(each, asked[console]):
            failed[console] = refused[console]
    return failed


def still_paused(seen: PgBouncer, names: Iterable[str]) -> list[str]:
    """Return which of these databases are paused."""
    return [name for name in names if (found := seen.database(name)) and found.paused]


def _failures(answers: Mapping[str, list[Table] | OperationFailed]) -> dict[str, OperationFailed]:
    return {console: answer for console, answer in answers.items() if isinstance(answer, OperationFailed)}


def blocking(seen: PgBouncer, names: Sequence[str]) -> list[str]:
    """Return who keeps a PAUSE of these databases from ending, in words: those whose transaction or session is open."""
    busy = [server for server in seen.servers if server.database in names and server.state not in ("idle", "used")]
    said = list(map(str, map(_Blocker, busy, map(seen.client_of, busy))))
    return said if len(said) <= NAMED else [*said[:NAMED], f"{len(said) - NAMED} more"]


@dataclass(frozen=True)
class _Blocker:
    server: Connection
    client: Connection | None

    def __str__(self) -> str:
        who = self.client or self.server
        application = f" ({who.application})" if who.application else ""
        where = f"client {who.address}" if self.client else f"server {who.address}"
        return f"database {who.database}, user {who.user}, {where}{application}, connected since {who.since}"


def paused_by_hand(seen: PgBouncer, names: Sequence[str], ours: Sequence[str]) -> Iterator[Problem]:
    """What somebody has paused and we have not."""
    for name in still_paused(seen, names):
        if name not in ours:
            what = f"{seen.name}: database {name} is paused, and not by us: its clients wait"
            yield Problem("paused_by_hand", what, f'on its admin console: RESUME "{name}"')
