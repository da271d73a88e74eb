"""One visit to a cluster, as an application makes it: log in through a port, ask where we are, commit something, leave.

What is committed is an empty transactional message (``pg_logical_emit_message``). It gets a transaction id and a commit
record, and its commit waits for synchronous standbys, as that of any write does (logical/message.c,
LogLogicalMessage; xact.c, RecordTransactionCommit: only what has an id *and* has written WAL waits in
SyncRepWaitForLSN). No table, catalogue or sequence is touched: what remains is some hundred bytes of WAL. A write that
is rolled back would prove less and leave more: it never waits for a standby, and its dead rows are for vacuum. Whoever
decodes this database's WAL logically and asks for messages sees one with the prefix PREFIX and no content.

WAL has files of its own, often on another disk, and goes on when no table can grow any more. So before that some rows
are made to spill into a temporary file, in the database's own tablespace, which is gone at once (tuplestore.c): on a
full disk it fails as an insert does (53100). With ``log_temp_files`` = 0 the server logs it.

It needs no right, only a login. Of a read-only session it says nothing, so that is asked for by name.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from typing import Any

import psycopg

from repmgr_hooks import clock
from repmgr_hooks.system.visit import LATE, Visit
from repmgr_hooks.text import one_line

PREFIX = "repmgr_hooks"
APPLICATION = "repmgr_hooks probe"
ASK = """
select host(inet_server_addr()), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', pg_backend_pid()
"""
SPILL = """
set work_mem = 64; set temp_tablespaces = ''; select count(*) from generate_series(1, 10000); reset work_mem;
reset temp_tablespaces
"""
READ_ONLY_BY = "select source from pg_settings where name = 'default_transaction_read_only'"
WRITE = f"select pg_logical_emit_message(true, '{PREFIX}', '')"


async def visit(dsn: str, limit: float) -> Visit:
    """Pay one visit; it is over after ``limit`` seconds, whatever the network does."""
    progress = _Progress()
    begun = clock.monotonic()
    going = asyncio.ensure_future(progress.go(dsn, limit))
    await asyncio.wait({going}, timeout=limit)
    if not going.done():
        # Closed first: psycopg would spend 10 s on asking a silent server to cancel the query.
        await progress.close()
        going.cancel()
        await asyncio.wait({going})
        progress.seen = replace(progress.seen, error=LATE)
    elif error := going.exception():
        sqlstate = getattr(error, "sqlstate", None) or ""
        rejected = not sqlstate and is_servers(str(error))
        progress.seen = replace(progress.seen, error=brief(error), sqlstate=sqlstate, rejected=rejected)
    await progress.close()
    return replace(progress.seen, seconds=clock.monotonic() - begun)


class _Progress:
    """What a client has come to know so far."""

    def __init__(self) -> None:
        self.seen = Visit()
        self._connection: psycopg.AsyncConnection[Any] | None = None

    async def go(self, dsn: str, limit: float) -> None:
        self._connection = await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, application_name=APPLICATION, connect_timeout=max(2, round(limit))
        )
        self.seen = replace(self.seen, stage="ask")
        server, in_recovery, read_only, pid = await self._row(ASK)
        self.seen = replace(self.seen, server=server or "", in_recovery=in_recovery, pid=pid)
        if in_recovery or read_only:
            source = (await self._row(READ_ONLY_BY))[0] if read_only else ""
            self.seen = replace(self.seen, read_only=source)
            return
        await self._connection.execute(SPILL)
        self.seen = replace(self.seen, stage="commit")
        await self._row(WRITE)
        self.seen = replace(self.seen, stage="done")

    async def _row(self, statement: str) -> tuple[Any, ...]:
        assert self._connection is not None
        cursor = await self._connection.execute(statement)
        row = await cursor.fetchone()
        assert row is not None
        return tuple(row)

    async def close(self) -> None:
        if self._connection is not None:
            await self._connection.close()


def is_servers(message: str) -> bool:
    """True if a message of libpq's is one of the server's: in front of it stands how severe it is, in its language.

    Two blanks follow that (fe-protocol3.c, pqBuildErrorMessage3), and none of libpq's own messages has them.

    >>> is_servers("failed: FATAL:  x"), is_servers("ÖLÜMCÜL (FATAL):  x"), is_servers("failed: Connection refused")
    (True, True, False)
    """
    return re.search(r"\S:  \S", message) is not None


def brief(error: BaseException) -> str:
    """Return libpq's message without the lines after the first and without the address, which the caller names."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return one_line(
        re.sub(r'^connection failed: connection to server at "[^"]*"(, port \d+)? failed: ', "", first_line)
    )
