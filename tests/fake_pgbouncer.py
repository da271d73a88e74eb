"""A fake PgBouncer: what its admin console answers, as the real ones print it (``tests/unit/system/pgbouncer``)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.steps import Table

RECORDED = Path(__file__).parent / "unit/system/pgbouncer"
BEGIN = datetime(2026, 11, 26, 12, 0, 0)  # noqa: DTZ001 - PgBouncer's time of day, in its own zone


def recorded(version: str) -> dict[str, Table]:
    """Return what a PgBouncer has said to each command; an empty column is null."""
    tables = {}
    for part in (RECORDED / f"{version}.txt").read_text().split("== ")[1:]:
        command, names, *rows = part.splitlines()
        cells = ([cell or None for cell in row.split("|")] for row in rows)
        tables[command] = [dict(zip(names.split("|"), row, strict=True)) for row in cells]
    return tables


@dataclass
class FakeServer:
    """A server connection, which a client has (``client``: its address) or not; made at so many seconds."""

    made: float
    client: str = ""
    database: str = "app"
    closing: bool = False


@dataclass
class FakePgBouncer:
    """One PgBouncer. ``failed``: why it does not answer; ``busy``: a PAUSE of the database does not end."""

    version: str = "1.18.0"
    databases: dict[str, tuple[str, int]] = field(default_factory=lambda: {"app": ("10.0.0.20", 54322)})
    servers: list[FakeServer] = field(default_factory=list)
    config: dict[str, str] = field(
        default_factory=lambda: {
            "admin_users": "hooks",
            "pool_mode": "transaction",
            "server_login_retry": "1",
            "query_wait_timeout": "120",
            "query_timeout": "0",
        }
    )
    paused: set[str] = field(default_factory=set)
    wholly_paused: bool = False
    busy: bool = False
    failed: OperationFailed | None = None
    said: list[str] = field(default_factory=list)
    """The commands that are no SHOW."""

    def answer(self, commands: Sequence[str], now: float) -> list[Table] | OperationFailed:
        """Do as the console does: the first error ends it."""
        tables = []
        for command in commands:
            table = self.failed or self._one(command, now)
            if isinstance(table, OperationFailed):
                return table
            tables.append(table)
        return tables

    def _one(self, command: str, now: float) -> Table | OperationFailed:
        if command.startswith("SHOW "):
            return self._shown(command, now)
        self.said.append(command)
        found = re.fullmatch(r'(PAUSE|RESUME|RECONNECT) "(\w+)"|KILL_CLIENT (\d+)', command)
        assert found, command
        verb, name, number = found.groups()
        if number:
            del self.servers[int(number) - 1]
        elif name not in self.databases:
            return _refused(f"no such database: {name}")
        elif verb == "PAUSE":
            return self._paused(name)
        elif verb == "RESUME":
            if name not in self.paused:
                return _refused(f"database {name} is not paused")
            self.paused.remove(name)
        else:
            self._reconnect(name)
        return []

    def _paused(self, name: str) -> Table | OperationFailed:
        if self.wholly_paused:
            return _refused("already suspended/paused")
        self.paused.add(name)
        self.servers = [server for server in self.servers if server.client]
        return OperationFailed("PgBouncer: not finished within 20 s", code="timeout") if self.busy else []

    def _reconnect(self, name: str) -> None:
        self.servers = [server for server in self.servers if server.client or server.database != name]
        for server in self.servers:
            server.closing |= server.database == name

    def _shown(self, command: str, now: float) -> Table:
        if command == "SHOW CONFIG":
            return [{"key": key, "value": value} for key, value in self.config.items()]
        first, *_ = table = recorded(self.version)[command]
        if command == "SHOW VERSION":
            return table
        if command == "SHOW DATABASES":
            return [
                {**first, "name": name, "host": host, "port": port, "paused": int(name in self.paused)}
                for name, (host, port) in self.databases.items()
            ]
        servers = [self._server(first, number, server) for number, server in enumerate(self.servers, 1)]
        if command == "SHOW SERVERS":
            return servers
        us = {**first, "database": "pgbouncer", "connect_time": moment(0), "request_time": moment(now), "ptr": "0x1"}
        return [
            {**row, "addr": row["client"], "ptr": row["link"], "link": row["ptr"]} for row in servers if row["link"]
        ] + [us]

    @staticmethod
    def _server(first: Mapping[str, object], number: int, server: FakeServer) -> dict[str, object]:
        row = {**first, "database": server.database, "state": "active" if server.client else "idle"}
        row |= {"connect_time": moment(server.made), "request_time": moment(server.made), "client": server.client}
        row |= {
            "close_needed": int(server.closing),
            "ptr": f"0xs{number}",
            "link": f"0xc{number}" * bool(server.client),
        }
        return row | ({"id": number} if "id" in first else {})


def moment(seconds: float) -> str:
    """Return a time as PgBouncer prints it."""
    return f"{BEGIN + timedelta(seconds=int(seconds)):%Y-%m-%d %H:%M:%S} CET"


def _refused(why: str) -> OperationFailed:
    return OperationFailed(f"PgBouncer: {why}", code="refused")
