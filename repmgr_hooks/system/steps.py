"""What a step is. What steps and observations may use of the outside is ``Host``.

A handler's ``plan`` returns steps; it never runs one. Each step carries its own limit in seconds.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.visit import Visit

Rows = list[tuple[Any, ...]]
Given = tuple[tuple[str, ...], str, tuple[tuple[str, str], ...]]
Table = list[dict[str, Any]]
"""Rows with the names of their columns: PgBouncer has more of them in each version."""

POLL = 0.1
FIRST_POLL = 0.02
"""What is waited for mostly comes soon; the longer it takes, the less often it is looked for, down to every POLL."""
PGBOUNCER_PORT = 6432


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
    ahead: bool = False
    """A constant one that is asked before anybody needs it: while others are asked theirs, it is refused (``busy``)."""
    counted: str | None = None
    """A regular expression: what it prints and matches are rules of nf_tables, the same until the kernel has counted
    another change of these. It is asked once for each."""
    whole: bool = True
    """Its output is needed, all of it; else more than a little is neither kept nor a failure."""
    helper: bool = False
    """What it is for matters less than what comes after it: once it has hung, a run does not wait for it again."""
    over: tuple[str, ...] = ()
    """The words of ``argv`` that lead to another host, by ssh. It is run over a login there that is kept open, where
    there is one; if that breaks, again: so it must do no harm to run it twice."""
    resident: bool = False
    """It goes on running, even when we have ended: it is started, unless it still runs, and not waited for. What the
    one before it wrote until it ended is returned."""
    settled: bool = False
    """What it says follows from what it is given, as long as a run lasts, in which it is asked once."""
    good_for: float = 0.0
    """For so many seconds what it has printed is good enough for a look that changes nothing, whichever cluster's:
    what is settled in any case, all else until the kernel counts a change of the rules (not of iptables-legacy's)."""
    passing: str = ""
    """A regular expression: an answer that matches may soon be another, and is not taken over."""
    by_look: bool = False
    """Such a look asks it."""
    heavy: bool = False
    """A resident of which only few run at once, those of all clusters; the next one is refused."""

    @property
    def given(self) -> Given:
        """All that it is given: two programs that are given the same are asked the same."""
        return self.argv, self.stdin, tuple(sorted(self.env.items()))

    def __str__(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class Sql:
    """One statement for one node; a command of the replication protocol goes to a ``walsender`` of it."""

    node: int
    statement: str
    params: tuple[Any, ...] = ()
    walsender: bool = False
    settled: bool = False
    """As a program's: in a run it is asked once."""

    def __str__(self) -> str:
        text = " ".join(self.statement.split())
        for value in self.params:
            text = text.replace("%s", repr(value), 1)
        return f"node {self.node}: {text}"


@dataclass(frozen=True)
class ConsoleCommand:
    """A command for the admin console of a PgBouncer; ``console`` is how to connect, as libpq takes it."""

    console: str
    command: str

    def __str__(self) -> str:
        return f"PgBouncer {console_name(self.console)}: {self.command}"


def console_name(console: str) -> str:
    """Return which PgBouncer is meant, in few words.

    >>> console_name("host=10.0.0.20 port=6432 user=hooks"), console_name("host=/run/postgresql user=hooks")
    ('10.0.0.20:6432', '/run/postgresql:6432')
    """
    from psycopg.conninfo import conninfo_to_dict  # whoever asks no PgBouncer does not wait for it

    given = conninfo_to_dict(console)
    return f"{given['host']}:{given.get('port', PGBOUNCER_PORT)}"


@dataclass(frozen=True)
class DropConnections:
    """Delete entries of the connection-tracking table, and reset the clients of these (``netfilter/reset.py``)."""

    forget: Program
    reset_clients: bool = True

    def __str__(self) -> str:
        return f"{self.forget}{', and reset the clients' if self.reset_clients else ''}"


@dataclass(frozen=True)
class Step:
    """Something to do, and how to see that it worked.

    ``do`` runs, and again every ``every`` seconds, until ``until`` is true, at most ``limit`` seconds in all: the first
    column of a statement, where null says that it cannot become true, and is not waited for; or what a program prints:
    anything, or what it is to ``expect``. Without ``until``, ``do`` runs once within ``limit``.
    """

    what: str
    """A sentence for people; no code reads it back."""
    do: Program | Sql | ConsoleCommand | DropConnections | Alert
    limit: float
    kind: str = ""
    """What is done, as a short name (``open_port``, ``create_slot``); a handler may have its own. Without one it is
    the handler's name."""
    target: str = ""
    """To what: the name of a port, a slot, a server, a program."""
    node: int | None = None
    """On which node, or to which node something is routed."""
    until: Sql | Program | None = None
    every: float = 5.0
    hint: str = ""
    """What to look at if ``until`` does not become true."""
    helper: bool = False
    """What comes after it matters more, and is done even if it fails; the failure is still reported."""


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

    def ask_consoles(
        self, asked: Mapping[str, Sequence[str]], limit: float
    ) -> dict[str, list[Table] | OperationFailed]:
        """Give commands to the admin consoles of PgBouncers side by side; return all answers, or why there is none."""

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        """Make clients notice that their connections are gone."""

    def tell(self, alert: Alert) -> None:
        """Have an alert sent, in the background."""

    def read(self, path: str) -> str:
        """Return what stands in a file of the kernel's."""

    def rules_generation(self) -> int | None:
        """Return a number that changes with the rules in nf_tables; None if there is none to be had."""

    def nft_tables(self) -> frozenset[tuple[str, str]]:
        """Return family and name of the tables that nf_tables has, iptables' own among them."""

    def route(self, address: str) -> Route:
        """Return which way a packet to an address would take from here."""

    def had_for(self, address: str) -> float | None:
        """Return the seconds for which this host has had an address; None if it has not, or that is not known."""

    def answers(self, source: str, address: str, port: int, limit: float) -> bool:
        """Try whether packets from one of our addresses to a host come back."""

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        """Log in and write as a client, through each of these connection strings side by side."""

    def stay_logged_in(self, way: tuple[str, ...]) -> None:
        """Have a login open on another host, by these words, for what is to be run there; it is not waited for."""

    def now(self) -> float:
        """Seconds on a clock that never jumps."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def close_idle(self) -> None:
        """Close the connections that are kept for the next look."""
