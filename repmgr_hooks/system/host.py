"""The real host: programs, SQL (psycopg), packets, and the clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import conninfo

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed, odd_answer
from repmgr_hooks.netfilter import route, ruleset
from repmgr_hooks.netfilter.reset import Flow, send_resets
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.client import brief, is_servers, visit
from repmgr_hooks.system.programs import Programs
from repmgr_hooks.system.steps import Program, Rows, Sql
from repmgr_hooks.system.visit import Visit

MOST_ANSWER = 4 * 1024 * 1024
"""Bytes of a node's answer, all rows together: the names of the WAL files in 2 TB of pg_wal."""
RECONNECT_EVERY = 1.0
SESSION = "-c statement_timeout=10000 -c lock_timeout=5000 -c synchronous_commit=local"
"""Options of every session. ``synchronous_commit=local``: a freshly promoted primary may have no synchronous standby
yet, and a session of ours must not hang on it (repmgr does the same, dbutils.c:200-207)."""


class LocalHost:
    """The real host, for one cluster; ``conninfos`` maps node ids to libpq connection strings.

    ``tell`` takes the alerts; without it nobody is told.
    """

    def __init__(self, conninfos: Mapping[int, str], tell: Callable[[Alert], None] | None = None) -> None:
        self._tell = tell
        self._conninfos = {
            node: conninfo.make_conninfo(dsn, options=SESSION, application_name="repmgr_hooks", client_encoding="UTF8")
            for node, dsn in conninfos.items()
        }
        self._connections: dict[int, psycopg.AsyncConnection[Any]] = {}
        self._programs = Programs()
        self._reconnecting: dict[int, asyncio.Task[None]] = {}
        self._silent: dict[int, str] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Close all connections; when the configuration is read again, a new host is made."""
        self.close_idle()
        asyncio.run_coroutine_threadsafe(self._end_attempts(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end_attempts(self) -> None:
        await asyncio.gather(*self._reconnecting.values(), return_exceptions=True)

    def run(self, program: Program, limit: float) -> str:
        """Run a program in a session of its own and return its stdout; when the time is up, kill all it started.

        Raises OperationFailed with the command, the exit code and what it wrote.
        """
        return self._programs.run(program, limit)

    def fetch(self, sql: Sql, limit: float) -> Rows:
        """Run one statement and return its rows. Raises OperationFailed."""
        result = self.fetch_each([sql], limit)[sql.node]
        if isinstance(result, OperationFailed):
            raise result
        return result

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        """Ask several nodes side by side; all answers, or why there is none, within ``limit`` seconds."""
        return asyncio.run_coroutine_threadsafe(self._fetch_each(list(queries), limit), self._loop).result()

    async def _fetch_each(self, queries: list[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        silent = {sql.node: why for sql in queries if (why := self._still_silent(sql.node)) is not None}
        asking = {sql.node: asyncio.ensure_future(self._ask(sql)) for sql in queries if sql.node not in silent}
        if asking:
            await asyncio.wait(asking.values(), timeout=limit)
        no_answer = {
            node: OperationFailed(f"node {node}: still no answer{silent[node]}", code="no_answer") for node in silent
        }
        return no_answer | {node: await self._answer(node, asked, limit) for node, asked in asking.items()}

    async def _answer(self, node: int, asking: asyncio.Task[Rows], limit: float) -> Rows | OperationFailed:
        if not asking.done():
            # Closed first: psycopg would spend 10 s on asking a silent node to cancel the query.
            await self._forget(node)
            asking.cancel()
            await asyncio.wait({asking})
            self._reconnect(node)
            return OperationFailed(f"node {node}: no answer within {limit:g} s", code="no_answer")
        try:
            return asking.result()
        except psycopg.Error as error:
            await self._forget(node)
            if isinstance(error, psycopg.OperationalError) and not _is_answer(error):
                self._reconnect(node, f" ({brief(error)})")
            return OperationFailed(f"node {node}: {brief(error)}", code=_code(error))
        except Exception as error:  # whatever a node makes psycopg stumble over is that node's
            await self._forget(node)
            return OperationFailed(f"node {node}: {odd_answer(error)}", code="odd_answer")

    def _reconnect(self, node: int, why: str = "") -> None:
        """Try on the side to connect to a node that has let us wait, so that nobody waits for it again."""
        if node not in self._reconnecting:
            self._reconnecting[node] = asyncio.ensure_future(self._until_it_answers(node))
            self._silent[node] = why

    async def _until_it_answers(self, node: int) -> None:
        while True:
            try:
                await self._connect(node)
                return
            except psycopg.Error as error:
                if _is_answer(error):
                    return  # the next question will hear it too
                await asyncio.sleep(RECONNECT_EVERY)
            except Exception:
                return  # as above: the next question will say it

    def _still_silent(self, node: int) -> str | None:
        """Return why nobody waits for a node, in words that may be empty; None if it is to be asked."""
        attempt = self._reconnecting.get(node)
        if attempt and attempt.done():
            del self._reconnecting[node]
        return self._silent[node] if node in self._reconnecting else None

    async def _ask(self, sql: Sql) -> Rows:
        """Ask through the connection that is open; if it has broken since it was last used, through a new one."""
        if sql.walsender:
            return await self._ask_walsender(sql)
        if kept := self._connections.get(sql.node):
            try:
                return await self._rows(kept, sql)
            except psycopg.OperationalError:
                if not kept.broken:
                    raise
            await self._forget(sql.node)
        return await self._rows(await self._connect(sql.node), sql)

    async def _ask_walsender(self, sql: Sql) -> Rows:
        """Ask through a connection that stands only meanwhile: it counts among ``max_wal_senders``."""
        await self._forget(sql.node)
        try:
            return await self._rows(await self._connect(sql.node, replication="database"), sql)
        finally:
            await self._forget(sql.node)

    async def _connect(self, node: int, **more: str) -> psycopg.AsyncConnection[Any]:
        dsn = conninfo.make_conninfo(self._conninfos[node], **more)
        made = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
        self._connections[node] = made
        return made

    async def _rows(self, connection: psycopg.AsyncConnection[Any], sql: Sql) -> Rows:
        cursor = await connection.execute(sql.statement, sql.params)
        if cursor.pgresult:
            check_size(cursor.pgresult)
        return await cursor.fetchall()

    async def _forget(self, node: int) -> None:
        if connection := self._connections.pop(node, None):
            await connection.close()

    def close_idle(self) -> None:
        """Close the connections that are kept for the next look: one would hold up a smart shutdown of its node."""
        for attempt in self._reconnecting.values():
            self._loop.call_soon_threadsafe(attempt.cancel)
        for node in list(self._connections):
            asyncio.run_coroutine_threadsafe(self._forget(node), self._loop).result()

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        """Send each client one SYN from the gateway's address. Raises OperationFailed without CAP_NET_RAW."""
        try:
            send_resets(flows)
        except OSError as error:
            raise OperationFailed(f"cannot send packets (needs CAP_NET_RAW): {error}", code="no_reset") from None
        except ValueError as error:
            raise OperationFailed(f"cannot send packets: {error}", code="no_reset") from None

    def tell(self, alert: Alert) -> None:
        """Hand an alert over to the service; in the foreground the user sees the log."""
        if self._tell:
            self._tell(alert)

    def read(self, path: str) -> str:
        """Return what stands in a file of the kernel's. Raises OperationFailed."""
        try:
            return Path(path).read_text(errors="replace")
        except OSError as error:
            raise OperationFailed(f"{path} cannot be read: {error}", code="unreadable") from None

    def rules_generation(self) -> int | None:
        """Return a number that changes with the rules in nf_tables; None if there is none to be had."""
        return ruleset.rules_generation()

    def nft_tables(self) -> frozenset[tuple[str, str]]:
        """Return family and name of the tables that nf_tables has, iptables' own among them."""
        return ruleset.tables()

    def route(self, address: str) -> Route:
        """Return which way a packet to an address would take from here."""
        return route.route_to(address)

    def answers(self, source: str, address: str, port: int, limit: float) -> bool:
        """Try whether packets from one of our addresses to a host come back."""
        return route.answers(source, address, port, limit)

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        """Log in and write as a client, through each of these connection strings side by side."""
        return asyncio.run_coroutine_threadsafe(self._visit_each(dsns, limit), self._loop).result()

    async def _visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        visits = await asyncio.gather(*(visit(dsn, limit) for dsn in dsns.values()))
        return dict(zip(dsns, visits, strict=True))

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
        return clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        clock.sleep(seconds)


def _is_answer(error: psycopg.Error) -> bool:
    """True if the node itself, or PostgreSQL on it, said no; libpq words its own ends in many ways (ARP, time-outs)."""
    return error.sqlstate is not None or "refused" in str(error) or is_servers(str(error))


def _code(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.OperationalError) and not _is_answer(error):
        return "no_answer"
    return "rejected" if error.sqlstate is None and is_servers(str(error)) else "refused"


def check_size(result: psycopg.pq.abc.PGresult) -> None:
    """Check the size of an answer before it is read. Raises ValueError."""
    left = MOST_ANSWER - result.ntuples  # a row without columns takes its place too
    for row in range(result.ntuples if left >= 0 else 0):
        for column in range(result.nfields):
            left -= len(result.get_value(row, column) or b"") + 1  # and so does null
        if left < 0:
            break
    if left < 0:
        raise ValueError(f"it has {result.ntuples} rows and more than {MOST_ANSWER} bytes")
