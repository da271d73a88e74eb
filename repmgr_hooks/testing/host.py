"""A host for tests: its programs and statements are functions of the test, and its clock goes only when it waits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.steps import Program, Rows, Sql, Table
from repmgr_hooks.system.visit import Visit

Q = TypeVar("Q")
T = TypeVar("T")
MOST_SECONDS = 10_000.0


class NotScripted(AssertionError):
    """A handler asks what the test has no answer for."""


class ScriptedHost:
    """The world of a test. A subclass keeps what there is in attributes, and says what each program does to it.

    ``programs`` are called by the name of the program (``/usr/bin/dig`` is ``dig``), ``statements`` by their text, and
    ``consoles`` by how they are connected to. ``ended`` ends a program as the real host would.
    """

    def __init__(self) -> None:
        self.programs: dict[str, Callable[[Program], str]] = {}
        self.statements: dict[str, Callable[[Sql], Rows]] = {}
        self.consoles: dict[str, Callable[[Sequence[str]], list[Table]]] = {}
        self.files: dict[str, str] = {}
        """Of the kernel's."""
        self.state: ClusterState | None = None
        """The cluster as the handler is told that it is."""
        self.ran: list[Program] = []
        self.told: list[Alert] = []
        self.changes: list[tuple[float, str]] = []
        self.rests = 0
        self._clock = 0.0
        self._later: list[tuple[float, Callable[[], None]]] = []
        self._reactions: list[tuple[str, Callable[[], None]]] = []

    # What a test scripts and reads.

    def at(self, moment: float, happens: Callable[[], None]) -> None:
        """Let something happen when the clock reaches a moment."""
        self._later.append((moment, happens))

    def after(self, change: str, happens: Callable[[], None]) -> None:
        """Let something happen right after the first change whose text begins so."""
        self._reactions.append((change, happens))

    def what_changed(self) -> list[str]:
        """The changes, in order."""
        return [what for _, what in self.changes]

    def note(self, change: str) -> None:
        """Something has been changed."""
        self.changes.append((self._clock, change))
        for prefix, happens in [reaction for reaction in self._reactions if change.startswith(reaction[0])]:
            self._reactions.remove((prefix, happens))
            happens()

    def wrong(self) -> str:
        """Say what is not as ``state`` wants it; it is asked when the handler says that nothing is missing.

        A test overrides this: without it a handler that never plans anything is found good.
        """
        return ""

    def enter(self, state: ClusterState) -> None:
        """The cluster is in this state from now on: what happened in it is not the handler's doing."""
        self.state = state

    def confirmed(self, state: ClusterState) -> ClusterState:
        """Return what the nodes say now: they are asked before each look.

        A test overrides this if its handler goes by ``state.states``, such as by their slots.
        """
        return state

    # repmgr_hooks.system.steps.Host

    def now(self) -> float:
        return self._clock

    def sleep(self, seconds: float) -> None:
        end = self._clock + seconds
        assert end < MOST_SECONDS, "this run does not end"
        for moment, happens in sorted((entry for entry in self._later if entry[0] <= end), key=lambda entry: entry[0]):
            self._later.remove((moment, happens))
            self._clock = max(self._clock, moment)
            happens()
        self._clock = end

    def close_idle(self) -> None:
        self.rests += 1

    def tell(self, alert: Alert) -> None:
        self.told.append(alert)

    def run(self, program: Program, limit: float) -> str:
        self.ran.append(program)
        return _known(self.programs, program.argv[0].rpartition("/")[2], "programs")(program)

    def fetch(self, sql: Sql, limit: float) -> Rows:
        answer = self.fetch_each([sql], limit)[sql.node]
        if isinstance(answer, OperationFailed):
            raise answer
        return answer

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        return {sql.node: _answer(_known(self.statements, sql.statement, "statements"), sql) for sql in queries}

    def ask_consoles(
        self, asked: Mapping[str, Sequence[str]], limit: float
    ) -> dict[str, list[Table] | OperationFailed]:
        return {name: _answer(_known(self.consoles, name, "consoles"), commands) for name, commands in asked.items()}

    def read(self, path: str) -> str:
        return _known(self.files, path, "files")

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        if list(flows):
            self.note("reset clients")

    def rules_generation(self) -> int | None:
        return None

    def nft_tables(self) -> frozenset[tuple[str, str]]:
        return frozenset()

    def route(self, address: str) -> Route:
        raise NotScripted("this test has no routes: override 'route'")

    def had_for(self, address: str) -> float | None:
        raise NotScripted("this test has no addresses: override 'had_for'")

    def answers(self, source: str, address: str, port: int, limit: float) -> bool:
        raise NotScripted("this test has no network: override 'answers'")

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        raise NotScripted("this test has no clients: override 'visit_each'")

    def stay_logged_in(self, way: tuple[str, ...]) -> None:
        """There is no other host."""


def ended(program: Program, exit_code: int, stdout: str, stderr: str = "") -> str:
    """End a program: its output, or OperationFailed if its exit code, or what it wrote, is not what was asked for."""
    if exit_code and not (program.tolerate and re.search(program.tolerate, stderr)):
        raise OperationFailed(f"{program}: exit code {exit_code}: {stderr}", code="program_failed")
    if program.expect and not re.search(program.expect, stdout):
        raise OperationFailed(f"{program}: answered 0, but its output is not what was asked for: {stdout}")
    return stdout


def _known(there: Mapping[str, T], name: str, kind: str) -> T:
    if name not in there:
        raise NotScripted(f"the test has no answer for {name!r}: add it to '{kind}'")
    return there[name]


def _answer(answer: Callable[[Q], T], asked: Q) -> T | OperationFailed:
    try:
        return answer(asked)
    except OperationFailed as error:
        return error
