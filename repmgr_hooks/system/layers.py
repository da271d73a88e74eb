"""Hosts that wrap another: all ends by a deadline, no helper is waited for twice, no program is run twice."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from repmgr_hooks.errors import OperationFailed, ProgramTimeout
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.steps import POLL, Given, Host, Program, Rows, Sql, Step, Table
from repmgr_hooks.system.visit import Visit


class HostLayer:
    """A host that passes everything to another one; a subclass overrides what it does differently."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def run(self, program: Program, limit: float) -> str:
        return self.host.run(program, limit)

    def fetch(self, sql: Sql, limit: float) -> Rows:
        return self.host.fetch(sql, limit)

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        return self.host.fetch_each(queries, limit)

    def ask_consoles(
        self, asked: Mapping[str, Sequence[str]], limit: float
    ) -> dict[str, list[Table] | OperationFailed]:
        return self.host.ask_consoles(asked, limit)

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

    def had_for(self, address: str) -> float | None:
        return self.host.had_for(address)

    def answers(self, source: str, address: str, port: int, limit: float) -> bool:
        return self.host.answers(source, address, port, limit)

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        return self.host.visit_each(dsns, limit)

    def stay_logged_in(self, way: tuple[str, ...]) -> None:
        self.host.stay_logged_in(way)

    def now(self) -> float:
        return self.host.now()

    def sleep(self, seconds: float) -> None:
        self.host.sleep(seconds)

    def close_idle(self) -> None:
        self.host.close_idle()


class Deadline(HostLayer):
    """The same host, on which everything ends by ``end``."""

    def __init__(self, host: Host, end: float) -> None:
        super().__init__(host)
        self.end = end

    def _left(self, limit: float, what: object) -> float:
        left = self.end - self.host.now()
        if left < -2 * POLL:  # one last look is granted
            raise OperationFailed(f"no time is left for: {what}", code="timeout")
        return min(limit, max(left, 2 * POLL))

    def run(self, program: Program, limit: float) -> str:
        return self.host.run(program, self._left(limit, program))

    def fetch(self, sql: Sql, limit: float) -> Rows:
        return self.host.fetch(sql, self._left(limit, sql))

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        asked = list(queries)
        return self.host.fetch_each(asked, self._left(limit, ", ".join(map(str, asked))))

    def ask_consoles(
        self, asked: Mapping[str, Sequence[str]], limit: float
    ) -> dict[str, list[Table] | OperationFailed]:
        return self.host.ask_consoles(asked, self._left(limit, "an answer of PgBouncer"))

    def answers(self, source: str, address: str, port: int, limit: float) -> bool:
        return self.host.answers(source, address, port, self._left(limit, f"an answer of {address}"))

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        return self.host.visit_each(dsns, self._left(limit, "a client's visit"))


class Sparing(HostLayer):
    """The same host for one run, in which a helper that has let us wait once is not waited for again, and what is
    settled is asked once: before and after the stream is moved the same files are compared, and each time that is a
    Python's start and 16 MB or more to be read on both sides.
    """

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._hung: dict[str, str] = {}
        self._said: dict[Given, str] = {}
        self._rows: dict[Sql, Rows] = {}

    def run(self, program: Program, limit: float) -> str:
        """Run a program, unless it is such a helper, or it has answered already."""
        if not program.settled:
            return self._run(program, limit)
        if program.given not in self._said:
            self._said[program.given] = self._run(program, limit)
        return self._said[program.given]

    def fetch(self, sql: Sql, limit: float) -> Rows:
        """Ask a node, unless it has answered already."""
        if not sql.settled:
            return super().fetch(sql, limit)
        if sql not in self._rows:
            self._rows[sql] = super().fetch(sql, limit)
        return self._rows[sql]

    def _run(self, program: Program, limit: float) -> str:
        if program.helper and (before := self._hung.get(program.argv[0])):
            raise OperationFailed(f"{program}: not tried again: {before}", code="timeout")
        try:
            return super().run(program, limit)
        except ProgramTimeout as error:
            if program.helper:
                self._hung[program.argv[0]] = error.after
            raise


class AskedOnce(HostLayer):
    """The same host for one look, which changes nothing: a program is run once, whoever asks it, also side by side."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self._answers: dict[object, Future[str]] = {}
        self._asking = threading.Lock()

    def run(self, program: Program, limit: float) -> str:
        """Run a program, or wait for the answer that it gives to another."""
        asked = (program.given, program.tolerate, program.expect, program.whole)
        program = replace(program, by_look=True) if program.good_for else program
        with self._asking:
            first = asked not in self._answers
            answer = self._answers.setdefault(asked, Future())
        if first:
            try:
                answer.set_result(super().run(program, limit))
            except BaseException as error:  # whoever waits for it is to hear it too
                answer.set_exception(error)
        return answer.result()


def seconds_for(step: Step, host: Host) -> float:
    """Return how long a step may take now."""
    return min(step.limit, host.end - host.now()) if isinstance(host, Deadline) else step.limit
