"""What a step is, and how one is done. What steps and observations may use of the outside is ``Host``.

A handler's ``plan`` returns steps; it never runs one. Each step carries its own limit in seconds.
"""

from __future__ import annotations

import logging
import shlex
import threading
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from repmgr_hooks.background import meanwhile
from repmgr_hooks.errors import OperationFailed, ProgramTimeout
from repmgr_hooks.netfilter.conntrack import parse_conntrack
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.client import Visit

log = logging.getLogger(__name__)

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
    constant: bool = False
    """It prints the same as long as the service runs, and is asked once."""
    whole: bool = True
    """Its output is needed, all of it; else more than a little is neither kept nor a failure."""
    helper: bool = False
    """What it is for matters less than what comes after it: once it has hung, a run does not wait for it again."""

    def __str__(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Sql:
    """One statement for one node; a command of the replication protocol goes to a ``walsender`` of it."""

    node: int
    statement: str
    params: tuple[Any, ...] = ()
    walsender: bool = False

    def __str__(self) -> str:
        text = " ".join(self.statement.split())
        for value in self.params:
            text = text.replace("%s", repr(value), 1)
        return f"node {self.node}: {text}"


@dataclass(frozen=True)
class DropConnections:
    """Delete entries of the connection-tracking table, and ``tell`` the clients of exactly these (see ``poke.py``)."""

    forget: Program
    tell: bool = True

    def __str__(self) -> str:
        return f"{self.forget}{', and reset the clients' if self.tell else ''}"


@dataclass(frozen=True)
class Step:
    """Something to do, and how to see that it worked.

    ``do`` runs, and again every ``every`` seconds, until the first column of ``until`` is true, at most ``limit``
    seconds in all; null says that it cannot become true, and is not waited for. Without ``until``, ``do`` runs once
    within ``limit``.
    """

    what: str
    do: Program | Sql | DropConnections | Alert
    limit: float
    until: Sql | None = None
    every: float = 5.0
    hint: str = ""
    """Where to look when it is not seen to work."""
    meanwhile: Sql | None = None
    """Asked over and over while ``do`` runs; what it answers, and whether it works, does not matter."""
    helper: bool = False
    """What comes after it matters more, and is done although it failed; the failure is said all the same."""


class Host(Protocol):
    """What steps and observations may use of the outside; ``host.LocalHost`` is the real one.

    Limits are in seconds; what cannot be done within them, or at all, raises OperationFailed.
    """

    def run(self, program: Program, limit: float) -> str:
        """Run a program and return its stdout."""

    def fetch(self, sql: Sql, limit: float) -> Rows:
        """Run one statement and return its rows."""

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        """Ask several nodes side by side; return all answers, or why there is none."""

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        """Make clients notice that their connections are gone."""

    def tell(self, alert: Alert) -> None:
        """Let somebody be told, on the side."""

    def read(self, path: str) -> str:
        """Return what stands in a file of the kernel's."""

    def rules_generation(self) -> int | None:
        """Return a number that changes with the netfilter rules; None if there is none to be had."""

    def nft_tables(self) -> frozenset[tuple[str, str]]:
        """Return family and name of the tables that nf_tables has, iptables' own among them."""

    def route(self, address: str) -> Route:
        """Return which way a packet to an address would take from here."""

    def answers(self, source: str, address: str, port: int, limit: float) -> bool:
        """Try whether packets from one of our addresses to a host come back."""

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        """Log in and write as a client, through each of these connection strings side by side."""

    def now(self) -> float:
        """Seconds on a clock that never jumps."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def close_idle(self) -> None:
        """Let go of the connections that are kept for the next look."""


class HostLayer:
    """A host that lets another do everything; what a kind of it does otherwise, it overrides."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def run(self, program: Program, limit: float) -> str:
        return self.host.run(program, limit)

    def fetch(self, sql: Sql, limit: float) -> Rows:
        return self.host.fetch(sql, limit)

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        return self.host.fetch_each(queries, limit)

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        self.host.reset_clients(flows)

    def tell(self, alert: Alert) -> None:
        self.host.tell(alert)

    def read(self, path: str) -> str:
        return self.host.read(path)

    def rules_generation(self) -> int | None:
        return self.host.rules_generation()

    def nft_tables(self) -> frozenset[tuple[str, str]]:
        return self.host.nft_tables()

    def route(self, address: str) -> Route:
        return self.host.route(address)

    def answers(self, source: str, address: str, port: int, limit: float) -> bool:
        return self.host.answers(source, address, port, limit)

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        return self.host.visit_each(dsns, limit)

    def now(self) -> float:
        return self.host.now()

    def sleep(self, seconds: float) -> None:
        self.host.sleep(seconds)

    def close_idle(self) -> None:
        self.host.close_idle()


class Deadline(HostLayer):
    """The same host, on which nothing takes longer than until ``end``."""

    def __init__(self, host: Host, end: float) -> None:
        super().__init__(host)
        self.end = end

    def _left(self, limit: float, what: object) -> float:
        left = self.end - self.host.now()
        if left < -2 * POLL:  # one last look is granted
            raise OperationFailed(f"no time is left for: {what}")
        return min(limit, max(left, 2 * POLL))

    def run(self, program: Program, limit: float) -> str:
        return self.host.run(program, self._left(limit, program))

    def fetch(self, sql: Sql, limit: float) -> Rows:
        return self.host.fetch(sql, self._left(limit, sql))

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        asked = list(queries)
        return self.host.fetch_each(asked, self._left(limit, ", ".join(map(str, asked))))

    def answers(self, source: str, address: str, port: int, limit: float) -> bool:
        return self.host.answers(source, address, port, self._left(limit, f"an answer of {address}"))

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        return self.host.visit_each(dsns, self._left(limit, "a client's visit"))


class Sparing(HostLayer):
    """The same host for one run, in which a helper that has let us wait once is not waited for again."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._hung: dict[str, str] = {}

    def run(self, program: Program, limit: float) -> str:
        """Run a program, unless it is such a helper."""
        if program.helper and (before := self._hung.get(program.argv[0])):
            raise OperationFailed(f"{program}: not tried again: {before}")
        try:
            return super().run(program, limit)
        except ProgramTimeout as error:
            if program.helper:
                self._hung[program.argv[0]] = str(error).removeprefix(f"{program}: ")
            raise


def seconds_for(step: Step, host: Host) -> float:
    """Return how long a step may take now."""
    return min(step.limit, host.end - host.now()) if isinstance(host, Deadline) else step.limit


def apply(step: Step, host: Host) -> None:
    """Do one step within its limit. Raises OperationFailed."""
    begun = host.now()
    end = begun + seconds_for(step, host)
    while True:
        with meanwhile(partial(_repeat, step.meanwhile, host)) if step.meanwhile else nullcontext():
            _do(step.do, host, end - host.now())
        if step.until is None or _becomes_true(step, step.until, host, min(end, host.now() + step.every)):
            return
        if host.now() >= end:
            waited = f"{step.what}: not seen within {host.now() - begun:.0f} s"
            raise OperationFailed(f"{waited}; {step.hint}" if step.hint else waited)


def _do(action: Program | Sql | DropConnections | Alert, host: Host, limit: float) -> None:
    match action:
        case Program():
            host.run(action, limit)
        case Sql():
            host.fetch(action, limit)
        case DropConnections():
            _tell(host.run(action.forget, limit), host, action.tell)
        case Alert():
            host.tell(action)


def _tell(deleted: str, host: Host, wanted: bool) -> None:
    """Tell the clients of what conntrack has deleted; the rest does not depend on it."""
    clients = [found.flow for found in parse_conntrack(deleted) if found.alive]
    if clients and wanted:
        try:
            host.reset_clients(clients)
            log.info("         %d client(s) told", len(clients))
        except OperationFailed as error:
            log.warning("%d client(s) not told that they are cut: %s; going on without it", len(clients), error)


def _repeat(sql: Sql, host: Host, over: threading.Event) -> None:
    while not over.wait(REPEAT):
        with suppress(OperationFailed):
            host.fetch(sql, CONNECT_LIMIT)


def _becomes_true(step: Step, question: Sql, host: Host, end: float) -> bool:
    while True:
        rows = host.fetch(question, max(end - host.now(), 1.0))
        if rows and rows[0][0]:
            return True
        if rows and rows[0][0] is None:
            raise OperationFailed(f"{step.what}: cannot be seen any more, for something else has been undone meanwhile")
        if host.now() >= end:
            return False
        host.sleep(POLL)
