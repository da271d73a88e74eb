"""What a step is, and the only place that touches the world: programs (through ``sh``), SQL (psycopg), packets.

A handler's ``plan`` returns steps; it never runs one. Each step carries its own limit in seconds.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
import sh
from psycopg import conninfo

from repmgr_hooks.errors import StepFailed
from repmgr_hooks.poke import Flow, send_pokes

Rows = list[tuple[Any, ...]]

POLL = 0.1
REPEAT = 0.3
CONNECT_LIMIT = 5.0


@dataclass(frozen=True)
class Program:
    """A program to run: no shell, its argument list as given, ``stdin`` as its whole input."""

    argv: tuple[str, ...]
    stdin: str = ""
    tolerate: str = ""
    """A regular expression: a non-zero exit whose stderr matches it is a success."""
    expect: str = ""
    """A regular expression that the output must match, for programs that answer 0 whatever happened."""
    env: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Sql:
    """One statement for one node."""

    node: int
    statement: str
    params: tuple[Any, ...] = ()

    def __str__(self) -> str:
        text = " ".join(self.statement.split())
        for value in self.params:
            text = text.replace("%s", repr(value), 1)
        return f"node {self.node}: {text}"


@dataclass(frozen=True)
class Poke:
    """Make clients notice at once that their connection is gone (see ``poke.py``)."""

    flows: tuple[Flow, ...]

    def __str__(self) -> str:
        return "poke " + ", ".join(f"{f.client}:{f.client_port}" for f in self.flows)


@dataclass(frozen=True)
class Step:
    """Something to do, and how to see that it worked.

    ``do`` runs, and again every ``every`` seconds, until the first column of ``until`` is true, at most ``limit``
    seconds in all. Without ``until``, ``do`` runs once within ``limit``.
    """

    what: str
    do: Program | Sql | Poke
    limit: float
    until: Sql | None = None
    every: float = 5.0
    hint: str = ""
    """Where to look when it is not seen to work."""
    meanwhile: Sql | None = None
    """Asked over and over while ``do`` runs; what it answers, and whether it works, does not matter."""


class World(Protocol):
    """What steps and observations may use of the outside; ``System`` is the real one."""

    def run(self, program: Program, limit: float) -> str: ...
    def fetch(self, sql: Sql, limit: float) -> Rows: ...
    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | StepFailed]: ...
    def poke(self, flows: Iterable[Flow]) -> None: ...
    def now(self) -> float: ...
    def sleep(self, seconds: float) -> None: ...


def apply(step: Step, world: World, limit: float) -> None:
    """Do one step within ``limit`` seconds (never more than its own). Raises StepFailed."""
    end = world.now() + min(step.limit, limit)
    while True:
        with _repeating(step.meanwhile, world):
            _do(step.do, world, end - world.now())
        if step.until is None or _becomes_true(step.until, world, min(end, world.now() + step.every)):
            return
        if world.now() >= end:
            waited = f"{step.what}: not seen within {min(step.limit, limit):.0f} s"
            raise StepFailed(f"{waited}; {step.hint}" if step.hint else waited)


def _do(action: Program | Sql | Poke, world: World, limit: float) -> None:
    match action:
        case Program():
            world.run(action, limit)
        case Sql():
            world.fetch(action, limit)
        case Poke():
            world.poke(action.flows)


@contextmanager
def _repeating(sql: Sql | None, world: World) -> Iterator[None]:
    if sql is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_repeat, args=(sql, world, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _repeat(sql: Sql, world: World, over: threading.Event) -> None:
    while not over.wait(REPEAT):
        with suppress(StepFailed):
            world.fetch(sql, CONNECT_LIMIT)


def _becomes_true(question: Sql, world: World, end: float) -> bool:
    while True:
        rows = world.fetch(question, max(end - world.now(), 1.0))
        if rows and rows[0][0]:
            return True
        if world.now() >= end:
            return False
        world.sleep(POLL)


SESSION = "-c statement_timeout=10000 -c lock_timeout=5000 -c synchronous_commit=local"
"""Options of every session. ``synchronous_commit=local``: a freshly promoted primary may have no synchronous standby
yet, and a session of ours must not hang on it (repmgr does the same, dbutils.c:200-207)."""


class System:
    """The real world of one cluster; ``conninfos`` maps node ids to libpq connection strings."""

    def __init__(self, conninfos: Mapping[int, str]) -> None:
        self._conninfos = {
            node: conninfo.make_conninfo(dsn, options=SESSION, application_name="repmgr_hooks")
            for node, dsn in conninfos.items()
        }

    def run(self, program: Program, limit: float) -> str:
        """Run a program in a session of its own and return its stdout; when the time is up, kill all it started.

        Raises StepFailed with the command, the exit code and what it wrote.
        """
        try:
            command = sh.Command(program.argv[0])
        except sh.CommandNotFound:
            raise StepFailed(f"{program.argv[0]}: no such program; install it or correct its path") from None
        running = command(
            *program.argv[1:],
            _in=program.stdin,
            _env={**os.environ, "LC_ALL": "C.UTF-8", **program.env},
            _bg=True,
            _bg_exc=False,
            _new_session=True,
            _tty_in=False,
            _tty_out=False,
            _truncate_exc=False,
            _decode_errors="replace",
        )
        # Not sh's own time-outs: one leaves grandchildren alive, the other (wait) may lose the end of the output.
        too_late = threading.Event()
        timer = threading.Timer(max(limit, 0.1), _kill, (running, too_late))
        timer.start()
        try:
            running.wait()
        except sh.ErrorReturnCode as error:
            if too_late.is_set():
                raise StepFailed(f"{program}: not finished after {limit:.0f} s; killed") from None
            stderr = _text(error.stderr)
            if not (program.tolerate and re.search(program.tolerate, stderr)):
                said = (stderr or _text(error.stdout)).strip() or "nothing written"
                raise StepFailed(f"{program}: exit code {error.exit_code}: {said}") from None
        finally:
            timer.cancel()
        output = _text(running.stdout)
        if program.expect and not re.search(program.expect, output):
            raise StepFailed(f"{program}: answered 0, but its output is not what was asked for: {output.strip()}")
        return output

    def fetch(self, sql: Sql, limit: float) -> Rows:
        """Run one statement and return its rows. Raises StepFailed."""
        result = self.fetch_each([sql], limit)[sql.node]
        if isinstance(result, StepFailed):
            raise result
        return result

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | StepFailed]:
        """Ask several nodes side by side; all answers, or why there is none, within ``limit`` seconds."""
        return asyncio.run(self._fetch_each(list(queries), limit))

    async def _fetch_each(self, queries: list[Sql], limit: float) -> dict[int, Rows | StepFailed]:
        answers = await asyncio.gather(*(self._fetch(sql, limit) for sql in queries))
        return {sql.node: answer for sql, answer in zip(queries, answers, strict=True)}

    async def _fetch(self, sql: Sql, limit: float) -> Rows | StepFailed:
        try:
            async with (
                asyncio.timeout(limit),
                await psycopg.AsyncConnection.connect(self._conninfos[sql.node], autocommit=True) as connection,
            ):
                cursor = await connection.execute(sql.statement, sql.params)
                return await cursor.fetchall()
        except TimeoutError:
            return StepFailed(f"node {sql.node}: no answer within {limit:.0f} s")
        except psycopg.Error as error:
            return StepFailed(f"node {sql.node}: {_brief(error)}")

    def poke(self, flows: Iterable[Flow]) -> None:
        """Send each client one SYN from the gateway's address. Raises StepFailed without CAP_NET_RAW."""
        try:
            send_pokes(flows)
        except OSError as error:
            raise StepFailed(f"cannot send packets (needs CAP_NET_RAW): {error}") from None

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


def _brief(error: psycopg.Error) -> str:
    """Return libpq's message without the lines after the first and without the address, which the caller names."""
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return re.sub(r'^connection failed: connection to server at "[^"]*"(, port \d+)? failed: ', "", first_line)


def _kill(running: Any, too_late: threading.Event) -> None:
    too_late.set()
    running.kill_group()


def _text(data: bytes | str) -> str:
    return data if isinstance(data, str) else data.decode(errors="replace")
