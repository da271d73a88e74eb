"""A host on which something is not as a handler's author expects it: nothing answers, or the answer is foreign text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, cast

from repmgr_hooks.errors import OperationFailed, ProgramTimeout
from repmgr_hooks.system.layers import HostLayer
from repmgr_hooks.system.steps import ConsoleCommand, DropConnections, Host, Program, Rows, Sql, Step, Table
from repmgr_hooks.testing.host import ended

T = TypeVar("T")
MARK = "foreign4711"
TEXTS: Mapping[str, str] = {
    "nothing": "",
    "terminal escapes": f"\x1b[2J\x1b]0;{MARK}\x07",
    "control characters": f"{MARK}\x00\x08\r\x85\u202e",
    "bytes that are not UTF-8": f"{MARK}\ufffd\ufffd\udcff",
    "words of a shell": f"$(reboot); {MARK}\n`reboot`\n'; drop table {MARK}; --",
    "an option": f"--{MARK}=/etc/shadow",
    "far too much": f"{MARK} " * 100_000,
    "digits that are not ASCII": "١٢٣ ٤",
    "a number of 5,000 digits": "9" * 5000,
    "no number": "nan -1 1e999",
    "JSON without end": "[" * 20_000,
    "JSON of another shape": '{"a": [null]}',
    "many short lines": "a b c d e f g h\n" * 1000,
}
"""What a program may print that its author has not thought of."""


class Odd(HostLayer):
    """A host on which the answer to one question, or to every one (``number`` None), is another."""

    def __init__(self, host: Host, number: int | None, text: str | None) -> None:
        super().__init__(host)
        self._number, self._text, self.asked = number, text, 0

    def _is_odd(self) -> bool:
        self.asked += 1
        return self._number in (None, self.asked - 1)

    def _silence(self, limit: float) -> OperationFailed:
        """Nothing answers, and all the time that was given for it is over."""
        self.host.sleep(limit)
        return ProgramTimeout("nothing answers", limit)

    def run(self, program: Program, limit: float) -> str:
        if not self._is_odd():
            return super().run(program, limit)
        if self._text is None:
            raise self._silence(limit)
        return ended(program, 0, self._text)

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        if not self._is_odd():
            return super().fetch_each(queries, limit)
        asked = list(queries)
        if self._text is None:
            error = self._silence(limit)
            return {sql.node: error for sql in asked}
        return {node: _with(self._text, rows) for node, rows in super().fetch_each(asked, limit).items()}

    def fetch(self, sql: Sql, limit: float) -> Rows:
        answer = self.fetch_each([sql], limit)[sql.node]
        if isinstance(answer, OperationFailed):
            raise answer
        return answer

    def ask_consoles(
        self, asked: Mapping[str, Sequence[str]], limit: float
    ) -> dict[str, list[Table] | OperationFailed]:
        if not self._is_odd():
            return super().ask_consoles(asked, limit)
        if self._text is None:
            error = self._silence(limit)
            return dict.fromkeys(asked, error)
        return {name: _with(self._text, tables) for name, tables in super().ask_consoles(asked, limit).items()}

    def read(self, path: str) -> str:
        if not self._is_odd():
            return super().read(path)
        if self._text is None:
            raise OperationFailed(f"{path} cannot be read", code="unreadable")
        return self._text


def _with(text: str, answer: T) -> T:
    """Return an answer with this text in it: how many columns a statement has, and of which types, it says itself."""
    changed: Any = answer
    if isinstance(answer, str):
        changed = text
    elif isinstance(answer, dict):
        changed = {name: _with(text, value) for name, value in answer.items()}
    elif isinstance(answer, list | tuple):
        changed = type(answer)(_with(text, value) for value in answer)
    return cast(T, changed)


def foreign_words(steps: Iterable[Step], text: str) -> Iterator[str]:
    """Return where a foreign text has got into what is run."""
    for step in steps:
        for question in (step.do, step.until):
            for place, word in _words(question):
                if MARK in word or (len(text) > 3 and text in word):
                    yield f"{place} of the step {step.what!r}"


def _words(do: object) -> Iterator[tuple[str, str]]:
    match do:
        case Program():
            yield from (("an argument", word) for word in do.argv)
            yield from (("the environment", word) for word in do.env.values())
            yield "the input", do.stdin
        case Sql():
            yield "the statement", do.statement  # its parameters are quoted by psycopg
        case ConsoleCommand():
            yield "the command", do.command
        case DropConnections():
            yield from _words(do.forget)
