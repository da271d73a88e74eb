"""The connections to the nodes of one cluster: kept for the next question, and made again on the side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg
from psycopg import conninfo

from repmgr_hooks.errors import OperationFailed, odd_answer
from repmgr_hooks.system.client import brief, is_servers
from repmgr_hooks.system.idle import IDLE
from repmgr_hooks.system.link import FOREVER, Link, Talk, linked, side_by_side
from repmgr_hooks.system.steps import Rows, Sql

RECONNECT_EVERY = 1.0
SESSION = "-c statement_timeout=10000 -c lock_timeout=5000 -c synchronous_commit=local"
"""Options of every session. ``synchronous_commit=local``: a freshly promoted primary may have no synchronous standby
yet, and a session of ours must not hang on it (repmgr does the same, dbutils.c:200-207)."""


@dataclass(frozen=True)
class _Attempt:
    """To reach a node that has let us wait, and ``why`` nobody waits for it; ``over``: what comes of it is not kept."""

    why: str
    over: threading.Event = field(default_factory=threading.Event)


class Connections:
    """One for each node at most, while nobody asks; ``conninfos`` maps node ids to libpq connection strings.

    Who asks has the connection for himself: somebody else who asks the node meanwhile makes one of his own.
    ``noticed`` is called, in another thread, when something comes through one that is kept: its end, mostly.
    """

    def __init__(self, conninfos: Mapping[int, str], noticed: Callable[[], None] | None = None) -> None:
        self._noticed = noticed
        self._conninfos = {
            node: conninfo.make_conninfo(dsn, options=SESSION, application_name="repmgr_hooks", client_encoding="UTF8")
            for node, dsn in conninfos.items()
        }
        self._kept: dict[int, Link] = {}
        self._silent: dict[int, _Attempt] = {}
        self._changing = threading.Lock()

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        """Ask several nodes side by side; all answers, or why there is none, within ``limit`` seconds."""
        asked = {sql.node: sql for sql in queries}
        silent = {node: attempt.why for node in asked if (attempt := self._silent.get(node))}
        talks = {node: self._ask(sql) for node, sql in asked.items() if node not in silent}
        ended = side_by_side(talks, limit)
        return {
            node: OperationFailed(f"node {node}: still no answer{silent[node]}", code="no_answer")
            if node in silent
            else self._answer(node, ended.get(node), limit)
            for node in asked
        }

    def _answer(self, node: int, ended: Rows | Exception | None, limit: float) -> Rows | OperationFailed:
        match ended:
            case None:
                self._reconnect(node)
                return OperationFailed(f"node {node}: no answer within {limit:g} s", code="no_answer")
            case psycopg.Error() as error:
                if isinstance(error, psycopg.OperationalError) and not _is_answer(error):
                    self._reconnect(node, f" ({brief(error)})")
                return OperationFailed(f"node {node}: {brief(error)}", code=_code(error))
            case Exception() as error:  # whatever a node makes psycopg stumble over is that node's
                return OperationFailed(f"node {node}: {odd_answer(error)}", code="odd_answer")
            case rows:
                return rows

    def _ask(self, sql: Sql) -> Talk[Rows]:
        """Ask through the connection that is kept; if it has broken since it was last used, through a new one."""
        if sql.walsender:
            return (yield from self._ask_walsender(sql))
        if kept := self._taken(sql.node):
            try:
                with self._keeping(sql.node, kept):
                    return (yield from kept.ask(sql.statement, sql.params))
            except psycopg.OperationalError:
                if not kept.broken:
                    raise
        link = yield from linked(self._conninfos[sql.node])
        with self._keeping(sql.node, link):
            return (yield from link.ask(sql.statement, sql.params))

    def _ask_walsender(self, sql: Sql) -> Talk[Rows]:
        """Ask through a connection that stands only meanwhile: it counts among ``max_wal_senders``."""
        link = yield from linked(conninfo.make_conninfo(self._conninfos[sql.node], replication="database"))
        try:
            return (yield from link.say(sql.statement))
        finally:
            link.close()

    @contextmanager
    def _keeping(self, node: int, link: Link) -> Iterator[None]:
        """Keep the connection afterwards, unless a question has failed: closed, it costs the node nothing more."""
        try:
            yield
        except BaseException:
            link.close()
            raise
        self._keep(node, link)

    def _keep(self, node: int, link: Link) -> None:
        if link.descriptor < 0:
            link.close()  # it has broken since it was asked
            return
        if self._noticed and node not in self._kept:
            IDLE.watch(link.descriptor, self._noticed)  # before somebody else may take it
        if self._kept.setdefault(node, link) is not link:
            link.close()

    def _taken(self, node: int) -> Link | None:
        """Return the connection that is kept, for whoever asks now; None if there is none."""
        if (link := self._kept.pop(node, None)) and self._noticed:
            IDLE.leave(link.descriptor)
        return link

    def _reconnect(self, node: int, why: str = "") -> None:
        """Try on the side to connect to a node that has let us wait, so that nobody waits for it again."""
        with self._changing:
            if node in self._silent:
                return
            attempt = self._silent[node] = _Attempt(why)
        trying = threading.Thread(target=self._until_it_answers, args=(node, attempt), daemon=True)
        try:
            trying.start()
        except RuntimeError:  # there are no threads left: it is waited for again, until the service ends for that
            self._has_ended(node, attempt)

    def _until_it_answers(self, node: int, attempt: _Attempt) -> None:
        made: Link | Exception | None = None
        try:
            while not attempt.over.is_set():
                made = side_by_side({node: linked(self._conninfos[node])}, FOREVER)[node]
                if not isinstance(made, psycopg.Error) or _is_answer(made):
                    return  # what is wrong with an answer, the next question will hear too
                attempt.over.wait(RECONNECT_EVERY)
        finally:
            self._has_ended(node, attempt, made)

    def _has_ended(self, node: int, attempt: _Attempt, made: Link | Exception | None = None) -> None:
        with self._changing:
            wanted = not attempt.over.is_set()
            if wanted:
                del self._silent[node]
            if isinstance(made, Link):
                self._keep(node, made) if wanted else made.close()

    def close_idle(self) -> None:
        """Close what is kept for the next look: a connection would hold up a smart shutdown of its node."""
        with self._changing:
            for attempt in self._silent.values():
                attempt.over.set()
            self._silent.clear()
        for node in list(self._kept):
            if link := self._taken(node):
                link.close()


def _is_answer(error: psycopg.Error) -> bool:
    """True if the node itself, or PostgreSQL on it, said no; libpq words its own ends in many ways (ARP, time-outs)."""
    return error.sqlstate is not None or "refused" in str(error) or is_servers(str(error))


def _code(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.OperationalError) and not _is_answer(error):
        return "no_answer"
    return "rejected" if error.sqlstate is None and is_servers(str(error)) else "refused"
