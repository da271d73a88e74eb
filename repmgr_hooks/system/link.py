"""A connection to PostgreSQL that is asked without waiting, and several of them side by side, in the caller's thread.

These are libpq's own functions, without psycopg's cursors and without an event loop in a thread of its own: a question
that the service asks every few seconds, of every node, takes less than half of the processor time. What is sent and how
an answer is read is psycopg's affair as before.
"""

from __future__ import annotations

import re
import select
from collections.abc import Generator, Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeVar

import psycopg
from psycopg import conninfo, pq
from psycopg.adapt import PyFormat, Transformer

from repmgr_hooks import clock
from repmgr_hooks.system.steps import Rows

K = TypeVar("K")
T = TypeVar("T")
Wait = tuple[int, int, float]
"""What a talk waits for: a descriptor, the events of poll(2), and until when, on the clock that never jumps."""
Talk = Generator[Wait, None, T]
"""Goes on until it has to wait; what ends one that is not over closes its connection."""

FOREVER = float("inf")
CONNECT_LIMIT = 130.0
"""Seconds for a connection without ``connect_timeout``: as long as Linux tries (tcp_syn_retries), as psycopg has it."""
MOST_ANSWER = 4 * 1024 * 1024
"""Bytes of a node's answer, all rows together: the names of the WAL files in 2 TB of pg_wal."""
PREPARE_AFTER = 5
MOST_RESULTS = 100
"""Of one question: a server that does not stop would keep us from everything else."""
READ, WRITE = select.POLLIN, select.POLLOUT


class _Prepared:
    """A statement that is prepared. The server lets the types of its result not change (plancache.c,
    RevalidateCachedQuery), so they are looked at once."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self._transformer: Any = None

    def rows(self, result: pq.abc.PGresult) -> Rows:
        """Return the rows of a result of it."""
        if self._transformer is None:
            self._transformer = Transformer()
            self._transformer.set_pgresult(result)
            self._transformer.set_pgresult(None, set_loaders=False)  # or it would keep the first as long as it lives
        return [self._transformer.load_sequence(row) for row in raw_rows(result)]


class Link:
    """A connection; every failure is a psycopg.Error, or whatever an odd answer makes psycopg raise."""

    def __init__(self, dsn: str) -> None:
        self._pgconn = pq.PGconn.connect_start(dsn.encode())
        self._transformer = Transformer()
        self._asked: dict[tuple[Any, ...], int] = {}
        """How often each question was asked, which is a statement with the types of its parameters."""
        self._prepared: dict[tuple[Any, ...], _Prepared] = {}
        self._dumps: dict[str, tuple[tuple[Any, str], tuple[Any, Any, Any]]] = {}
        """The last parameters of each question, and what was made of them: 1 equals True, but is not written so, and
        psycopg's Jsonb shows no more than its beginning."""
        self.broken = False
        """Whether it had broken before it was closed."""

    @property
    def descriptor(self) -> int:
        """That of its socket; -1 once it has broken."""
        return self._pgconn.socket if self._pgconn.status == pq.ConnStatus.OK else -1

    def close(self) -> None:
        """Close it, whatever it was at."""
        self.broken = self.broken or self._pgconn.status == pq.ConnStatus.BAD
        self._pgconn.finish()

    def connect(self, limit: float) -> Talk[None]:
        """Log in. It is polled only when its socket is ready (libpq, PQconnectPoll)."""
        end = clock.monotonic() + limit
        while self._pgconn.status != pq.ConnStatus.BAD:
            state = self._pgconn.connect_poll()
            if state == pq.PollingStatus.OK:
                self._pgconn.nonblocking = 1
                return
            if state == pq.PollingStatus.FAILED:
                break
            yield self._pgconn.socket, READ if state == pq.PollingStatus.READING else WRITE, end
            if clock.monotonic() >= end:
                raise psycopg.OperationalError("connection timeout expired")
        raise psycopg.OperationalError(self._pgconn.error_message.decode("utf-8", "replace").strip())

    def ask(self, statement: str, params: tuple[Any, ...] = ()) -> Talk[Rows]:
        """Ask, and return the rows; what is asked often is prepared, for that spares the node the planning."""
        values, types, formats = self._dumped(statement, params)
        question, command = (statement, types), numbered(statement)
        asked = self._asked[question] = self._asked.get(question, 0) + 1
        if asked > PREPARE_AFTER and question not in self._prepared:
            name = b"q%d" % len(self._prepared)
            self._pgconn.send_prepare(name, command, types)
            yield from self._result()
            self._prepared[question] = _Prepared(name)
        if (prepared := self._prepared.get(question)) is None:
            self._pgconn.send_query_params(command, values, types, formats)
            return self._rows((yield from self._result()))
        self._pgconn.send_query_prepared(prepared.name, values, formats)
        return prepared.rows((yield from self._result()))

    def _dumped(self, statement: str, params: tuple[Any, ...]) -> tuple[Any, Any, Any]:
        if not params:
            return None, None, None
        shown = params, repr(params)
        if (known := self._dumps.get(statement)) and known[0] == shown:
            return known[1]
        values = self._transformer.dump_sequence(params, [PyFormat.AUTO] * len(params))
        dumped = values, self._transformer.types, self._transformer.formats
        self._dumps[statement] = shown, dumped
        return dumped

    def say(self, statements: str) -> Talk[Rows]:
        """Send statements, or a command of the replication protocol, as they are; return the rows of the last."""
        self._pgconn.send_query(statements.encode())
        return self._rows((yield from self._result()))

    def _result(self) -> Talk[pq.abc.PGresult]:
        """Return the last result of what was sent; an error of the server's counts more than its end after that."""
        while self._pgconn.flush():
            yield self._pgconn.socket, READ | WRITE, FOREVER
            self._pgconn.consume_input()
        last: pq.abc.PGresult | None = None
        error: psycopg.Error | None = None
        for _ in range(MOST_RESULTS):
            try:
                while self._pgconn.is_busy():
                    yield self._pgconn.socket, READ, FOREVER
                    self._pgconn.consume_input()
            except psycopg.OperationalError as end:
                raise error or end from None
            result = self._pgconn.get_result()
            if result is None:
                break
            if result.status == pq.ExecStatus.FATAL_ERROR:
                error = error or psycopg.errors.error_from_result(result, "utf-8")
            elif result.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
                raise ValueError(f"a result of kind {result.status}")
            last = result
        while self._pgconn.notifies():
            pass  # we listen to none, and libpq would keep them
        if error:
            raise error
        if last is None or result is not None:
            raise ValueError("no result, or too many")
        return last

    def _rows(self, result: pq.abc.PGresult) -> Rows:
        self._transformer.set_pgresult(result)
        return [self._transformer.load_sequence(row) for row in raw_rows(result)]


def linked(dsn: str) -> Talk[Link]:
    """Connect, within the ``connect_timeout`` of the connection string."""
    link = Link(dsn)
    try:
        yield from link.connect(connect_limit(dsn))
    except BaseException:
        link.close()
        raise
    return link


@lru_cache(4096)
def connect_limit(dsn: str) -> float:
    """Return the seconds that a connection may take; libpq rounds 1 up to 2 (fe-connect.c, connectDBComplete).

    >>> connect_limit("connect_timeout=1"), connect_limit("connect_timeout=0")
    (2.0, 130.0)
    """
    seconds = int(conninfo.conninfo_to_dict(dsn).get("connect_timeout") or 0)
    return max(float(seconds), 2.0) if seconds > 0 else CONNECT_LIMIT


@lru_cache(4096)
def numbered(statement: str) -> bytes:
    """Return a statement with its parameters as the server numbers them.

    >>> numbered("select format('%%s', %s), %s")
    b"select format('%s', $1), $2"
    """
    parts = re.split("(%[s%])", statement)
    seen = 0
    for index in range(1, len(parts), 2):
        seen += parts[index] == "%s"
        parts[index] = f"${seen}" if parts[index] == "%s" else "%"
    return "".join(parts).encode()


def raw_rows(result: pq.abc.PGresult) -> Iterator[list[bytes | None]]:
    """Return the rows as they came. Raises ValueError for more than is read of an answer."""
    left = MOST_ANSWER - result.ntuples  # a row without columns takes its place too
    for row in range(result.ntuples if left >= 0 else 0):
        values = [result.get_value(row, column) for column in range(result.nfields)]
        left -= sum(len(value or b"") + 1 for value in values)  # and so does null
        if left < 0:
            break
        yield values
    if left < 0:
        raise ValueError(f"it has {result.ntuples} rows and more than {MOST_ANSWER} bytes")


def side_by_side(talks: Mapping[K, Talk[T]], limit: float) -> dict[K, T | Exception]:
    """Let each go on when what it waits for is there; return how they ended. What is late is closed, and not in it."""
    end = clock.monotonic() + limit
    ended: dict[K, T | Exception] = {}
    waiting: dict[K, Wait] = {}
    ready, late = list(talks), False
    try:
        while True:
            for key in ready:
                waiting.pop(key, None)
                try:
                    waiting[key] = next(talks[key])
                except StopIteration as result:
                    ended[key] = result.value
                except Exception as error:
                    ended[key] = error
            if late or not waiting:
                return ended
            late = clock.monotonic() >= end  # what is there by then is still read
            ready = _ready(waiting, end)
    finally:
        for key in waiting:
            talks[key].close()


def _ready(waiting: Mapping[K, Wait], end: float) -> list[K]:
    """Wait until some can go on, or the time is up, and return which."""
    poll = select.poll()  # select(2) ends at descriptor 1024
    for descriptor, events, _ in waiting.values():
        poll.register(descriptor, events)
    until = min(end, *(until for _, _, until in waiting.values()))
    found = dict(poll.poll(1000 * max(until - clock.monotonic(), 0.0)))
    now = clock.monotonic()
    return [key for key, (descriptor, _, until) in waiting.items() if descriptor in found or now >= until]
