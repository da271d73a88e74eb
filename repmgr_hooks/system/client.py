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

import re
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from functools import lru_cache

from psycopg import conninfo

from repmgr_hooks import clock
from repmgr_hooks.system.link import Link, Talk, linked, side_by_side
from repmgr_hooks.system.visit import LATE, Visit
from repmgr_hooks.text import one_line

PREFIX = "repmgr_hooks"
APPLICATION = "repmgr_hooks probe"
ASK = """
select host(inet_server_addr()), pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', pg_backend_pid(),
       inet_server_port()
"""
SPILL = """
set work_mem = 64; set temp_tablespaces = ''; select count(*) from generate_series(1, 10000); reset work_mem;
reset temp_tablespaces
"""
READ_ONLY_BY = "select source from pg_settings where name = 'default_transaction_read_only'"
WRITE = f"select pg_logical_emit_message(true, '{PREFIX}', '')"


def visit_each(dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
    """Pay a visit through each of these connection strings side by side; they are over after ``limit`` seconds."""
    visitors = {name: _Visitor() for name in dsns}
    ended = side_by_side({name: visitor.visit(dsns[name]) for name, visitor in visitors.items()}, limit)
    return {name: _seen(visitor, ended.get(name, LATE)) for name, visitor in visitors.items()}


def _seen(visitor: _Visitor, end: Exception | str | None) -> Visit:
    if not isinstance(end, Exception):
        return replace(visitor.seen, error=end or "")
    sqlstate = getattr(end, "sqlstate", None) or ""
    rejected = not sqlstate and is_servers(str(end))
    return replace(visitor.seen, error=brief(end), sqlstate=sqlstate, rejected=rejected)


class _Visitor:
    """A client, and what it has come to know so far."""

    def __init__(self) -> None:
        self.seen = Visit()

    def visit(self, dsn: str) -> Talk[None]:
        """Go as far as it goes. Raises psycopg.Error."""
        begun = clock.monotonic()
        try:
            link = yield from linked(_named(dsn))
            with closing(link):
                yield from self._write(link)
        finally:
            self.seen = replace(self.seen, seconds=clock.monotonic() - begun)

    def _write(self, link: Link) -> Talk[None]:
        self.seen = replace(self.seen, stage="ask")
        ((server, in_recovery, read_only, pid, port),) = yield from link.ask(ASK)
        self.seen = replace(self.seen, server=server or "", in_recovery=in_recovery, pid=pid, port=port or 0)
        if in_recovery or read_only:
            ((source,),) = (yield from link.ask(READ_ONLY_BY)) if read_only else [("",)]
            self.seen = replace(self.seen, read_only=source)
            return
        yield from link.say(SPILL)
        self.seen = replace(self.seen, stage="commit")
        yield from link.ask(WRITE)
        self.seen = replace(self.seen, stage="done")


@lru_cache(4096)
def _named(dsn: str) -> str:
    return conninfo.make_conninfo(dsn, application_name=APPLICATION, client_encoding="UTF8")


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
        re.sub(r'^(connection failed: )?connection to server at "[^"]*"(, port \d+)? failed: ', "", first_line)
    )
