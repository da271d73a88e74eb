"""The real host: programs, SQL (psycopg), packets, and the clock."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import copy_context
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter import route, ruleset
from repmgr_hooks.netfilter.address import had_for
from repmgr_hooks.netfilter.reset import Flow, send_resets
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.answers import Answers
from repmgr_hooks.system.client import visit_each
from repmgr_hooks.system.connections import Connections
from repmgr_hooks.system.consoles import Consoles
from repmgr_hooks.system.login import Logins
from repmgr_hooks.system.programs import Programs, start_login
from repmgr_hooks.system.steps import Program, Rows, Sql, Table
from repmgr_hooks.system.visit import Visit

log = logging.getLogger(__name__)

LOGINS = Logins(start_login)
"""Those of this process, for all clusters: one Barman may serve several."""


class LocalHost:
    """The real host, for one cluster; ``conninfos`` maps node ids to libpq connection strings.

    ``tell`` takes the alerts; without it nobody is told. ``noticed`` is called, in another thread, when a node ends
    a kept connection, or a program that should go on running has ended: it may be time to look. ``logins``: those on
    other hosts that are kept open; without it there are none. ``answers``: what programs print that is the same for
    all clusters that share these.
    """

    def __init__(
        self,
        conninfos: Mapping[int, str],
        tell: Callable[[Alert], None] | None = None,
        noticed: Callable[[], None] | None = None,
        logins: Logins | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._tell = tell
        self._connections, self._consoles = Connections(conninfos, noticed), Consoles()
        self._programs = Programs(ended=noticed or (lambda: None), logins=logins, answers=answers)

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
        return self._connections.fetch_each(queries, limit)

    def close_idle(self) -> None:
        """Close the connections that are kept for the next look: one would hold up a smart shutdown of its node."""
        self._connections.close_idle()
        self._consoles.close()

    def ask_consoles(
        self, asked: Mapping[str, Sequence[str]], limit: float
    ) -> dict[str, list[Table] | OperationFailed]:
        """Give commands to PgBouncers side by side; all answers, or why there is none, within ``limit`` seconds."""
        return self._consoles.ask_each(asked, limit)

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        """Send each client one SYN from the gateway's address, on the side: with thousands it takes seconds.

        A thread that ``reconcile`` waits for at its end too.
        """
        sending = copy_context().run
        try:
            threading.Thread(target=sending, args=(_reset, flows), name="resets", daemon=False).start()
        except RuntimeError as error:
            raise OperationFailed(f"cannot begin to send packets: {error}", code="no_reset") from None

    def tell(self, alert: Alert) -> None:
        """Hand an alert over to the service; in the foreground the user sees the log."""
        if self._tell:
            self._tell(alert)

    def read(self, path: str) -> str:
        """Return what stands in a file of the kernel's. Raises OperationFailed."""
        try:
            with Path(path).open("rb", buffering=0) as file:  # a look at each cluster asks this
                return file.read().decode(errors="replace")
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

    def had_for(self, address: str) -> float | None:
        """Return the seconds for which this host has had an address."""
        return had_for(address)

    def answers(self, source: str, address: str, port: int, limit: float) -> bool:
        """Try whether packets from one of our addresses to a host come back."""
        return route.answers(source, address, port, limit)

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        """Log in and write as a client, through each of these connection strings side by side."""
        return visit_each(dsns, limit)

    def stay_logged_in(self, way: tuple[str, ...]) -> None:
        """Have a login open on another host, for what is to be run there."""
        self._programs.stay_logged_in(way)

    def now(self) -> float:
        """Seconds on a clock that never jumps."""
        return clock.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        clock.sleep(seconds)


def _reset(flows: Iterable[Flow]) -> None:
    try:
        if sent := send_resets(flows):
            log.info("         reset sent to %d client(s)", sent)
    except OSError as error:
        log.warning("clients not reset: cannot send packets (needs CAP_NET_RAW): %s", error)
    except ValueError as error:
        log.warning("clients not reset: cannot send packets: %s", error)
