"""Connections to the admin consoles of PgBouncers: one for each, kept; a PgBouncer that hangs is not waited for twice.

The console knows the simple query protocol only, no parameters and no transactions (pgbouncer.org/usage.html, "Admin
console"): without parameters psycopg sends just that. It refuses the startup parameter ``options``, which libpq would
take from the environment.
"""

from __future__ import annotations

import asyncio
import ipaddress
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.rows import dict_row

from repmgr_hooks.errors import OperationFailed, odd_answer
from repmgr_hooks.settings.cluster import UNPLUGGED
from repmgr_hooks.system.client import brief, is_servers
from repmgr_hooks.system.steps import PGBOUNCER_PORT, Table, console_name

Connection = psycopg.AsyncConnection[dict[str, Any]]
DATABASE = "pgbouncer"
PAUSE = "PAUSE"
"""This command waits for transactions: it gets a connection of its own, and that it is not done is no sign of death."""
WAKE_LIMIT, WAKE_EVERY = 30, 1.0
CLOSE_LIMIT = 5.0


def connection_string(console: str) -> str:
    """Return how a console is connected to: nothing that matters is taken from the environment."""
    given = conninfo.conninfo_to_dict(console)
    host = str(given["host"])
    fixed = {"dbname": DATABASE, "options": "", "application_name": "repmgr_hooks", "client_encoding": "UTF8"}
    ours = {"port": PGBOUNCER_PORT, "hostaddr": host if _is_address(host) else "", **UNPLUGGED}
    return conninfo.make_conninfo("", **{**ours, **given, **fixed})


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Consoles:
    """The consoles that are connected to, within one event loop, which runs from the first question on."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changing = threading.Lock()
        self._kept: dict[str, Connection] = {}
        self._pausing: dict[str, Connection] = {}
        self._waking: dict[str, asyncio.Task[None]] = {}

    def ask_each(self, asked: Mapping[str, Sequence[str]], limit: float) -> dict[str, list[Table] | OperationFailed]:
        """Give each console its commands, side by side; all answers, or why there is none, within ``limit`` seconds."""
        with self._changing:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), name="consoles", daemon=True).start()
            asking = asyncio.run_coroutine_threadsafe(self._ask(asked, limit), self._loop)
        try:
            return asking.result()
        except CancelledError:  # closed meanwhile
            return {console: _failed(console, "nobody waits for its answer now", "no_answer") for console in asked}

    def close(self) -> None:
        """Close all connections, and try no more; the next question begins anew."""
        with self._changing:
            loop, self._loop = self._loop, None
            if loop:
                asyncio.run_coroutine_threadsafe(self._close(), loop).result()
                loop.call_soon_threadsafe(loop.stop)

    async def _ask(self, asked: Mapping[str, Sequence[str]], limit: float) -> dict[str, list[Table] | OperationFailed]:
        asking = {
            console: asyncio.ensure_future(self._tables(console, commands))
            for console, commands in asked.items()
            if not self._still_silent(console)
        }
        if asking:
            await asyncio.wait(asking.values(), timeout=limit)
        return {
            console: await self._answer(console, asking[console], limit, _waits(commands))
            if console in asking
            else _failed(console, "still no answer", "no_answer")
            for console, commands in asked.items()
        }

    async def _close(self) -> None:
        """End all that is under way, within the limit."""
        await self._end(*self._kept.values(), *self._pausing.values())
        self._kept.clear()
        self._waking.clear()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=CLOSE_LIMIT)

    async def _answer(
        self, console: str, asking: asyncio.Task[list[Table]], limit: float, waits: bool
    ) -> list[Table] | OperationFailed:
        if not asking.done():
            await self._give_up(console, asking, waits)
            if waits:
                return _failed(console, f"not finished within {limit:g} s", "timeout")
            self._waking[console] = asyncio.ensure_future(self._wake(console))
            return _failed(console, f"no answer within {limit:g} s", "no_answer")
        try:
            return asking.result()
        except psycopg.Error as error:
            return _failed(console, brief(error), _code(error))
        except Exception as error:  # whatever PgBouncer makes psycopg stumble over
            await self._forget(console)
            return _failed(console, odd_answer(error), "odd_answer")

    def _still_silent(self, console: str) -> bool:
        """Whether one that has let us wait has not answered since."""
        attempt = self._waking.get(console)
        if attempt and attempt.done():
            del self._waking[console]
        return console in self._waking

    async def _wake(self, console: str) -> None:
        """Try on the side until a console answers, or refuses, so that nobody waits for it again."""
        while True:
            asking = asyncio.ensure_future(self._tables(console, ["SHOW VERSION"]))
            await asyncio.wait({asking}, timeout=WAKE_LIMIT)
            if asking.done():
                asking.exception()  # the next question will hear it too
                return
            await self._give_up(console, asking)
            await asyncio.sleep(WAKE_EVERY)

    async def _give_up(self, console: str, asking: asyncio.Task[list[Table]], waits: bool = False) -> None:
        """Wait no more. Closed first: psycopg would ask a silent PgBouncer to cancel the query, and wait for that."""
        if not waits:
            await self._forget(console)
        elif own := self._pausing.pop(console, None):
            await self._end(own)
        asking.cancel()
        await asyncio.wait({asking})

    async def _tables(self, console: str, commands: Sequence[str]) -> list[Table]:
        """Ask through the connection that is open; if it has broken since it was last used, through a new one."""
        if _waits(commands):
            own = self._pausing[console] = await self._connect(console)
            try:
                return await _all(own, commands)
            finally:
                self._pausing.pop(console, None)
                await own.close()
        if kept := self._kept.get(console):
            try:
                return await _all(kept, commands)
            except psycopg.OperationalError:
                if not kept.broken:
                    raise
            await self._forget(console)
        self._kept[console] = await self._connect(console)
        return await _all(self._kept[console], commands)

    async def _connect(self, console: str) -> Connection:
        dsn = connection_string(console)
        # Else psycopg would prepare what it is asked for the sixth time, by the extended protocol.
        return await Connection.connect(dsn, autocommit=True, row_factory=dict_row, prepare_threshold=None)

    async def _forget(self, console: str) -> None:
        if connection := self._kept.pop(console, None):
            await self._end(connection)

    async def _end(self, *connections: Connection) -> None:
        for connection in connections:
            with suppress(psycopg.Error):
                await connection.close()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Run an event loop until it is stopped, and leave none of its descriptors open."""
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _all(connection: Connection, commands: Sequence[str]) -> list[Table]:
    tables = []
    for command in commands:
        cursor = await connection.execute(command.encode())
        tables.append(await cursor.fetchall() if cursor.description else [])
    return tables


def _waits(commands: Sequence[str]) -> bool:
    return any(command.startswith(PAUSE) for command in commands)


def _failed(console: str, why: str, code: str) -> OperationFailed:
    return OperationFailed(f"PgBouncer {console_name(console)}: {why}", code=code)


def _code(error: psycopg.Error) -> str:
    """``refused``: PgBouncer itself says no to a command; ``rejected``: to us; else it is not there."""
    if error.sqlstate is not None:
        return "refused"
    return "rejected" if is_servers(str(error)) else "no_answer"
