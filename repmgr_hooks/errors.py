"""Every error that this program raises on purpose; the command line turns each into an exit code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from repmgr_hooks.text import MOST, one_line, printable


class HooksError(Exception):
    """Root of our errors: the message says what is wrong and where, the ``hint`` what to do about it.

    Each may hold what a node, a program or a plug-in has said, and is printable and short whoever made it. ``code``
    names the kind of fault for programs; no code of ours reads a message.
    """

    code = ""

    def __init__(self, message: str = "", *, code: str = "", hint: str = "") -> None:
        super().__init__(printable(message, 2 * MOST))
        self.code = code or type(self).code
        self.hint = printable(hint, 2 * MOST)


class UsageError(HooksError, ValueError):
    """A mistake in the configuration or on the command line; nothing was changed (exit code 2)."""

    code = "usage"


class OperationFailed(HooksError, RuntimeError):
    """A step, or looking at what a step should change, did not work."""

    code = "failed"


class ProgramTimeout(OperationFailed):
    """A program was not finished in time, and was ended; what it had ``said`` until then may be why."""

    code = "timeout"

    def __init__(self, program: object, seconds: float, said: str = "") -> None:
        self.after = f"not finished after {seconds:{'.0f' if seconds >= 1 else '.1f'}} s; killed{said and f' ({said})'}"
        super().__init__(f"{program}: {self.after}")


class NoSuchProgram(OperationFailed):
    """A program is not installed."""

    code = "no_such_program"


class LockTimeout(OperationFailed):
    """Another process holds the lock."""

    code = "lock_timeout"


class PrimaryChanged(OperationFailed):
    """The primary is not what it was when the run began: nothing of this run may be done any more."""

    code = "primary_changed"


class Stopped(HooksError):
    """The run ends before its next step because it was asked to; what is left is done later."""

    code = "stopped"


class Problem(NamedTuple):
    """What is wrong: a ``code`` for programs; for people a ``message``, and a ``hint`` that says what to do.

    No dataclass: importing those takes longer than the rest of ``pause``.
    """

    code: str
    message: str
    hint: str = ""

    @classmethod
    def of(cls, error: Exception) -> Problem:
        """Return the same as an error says it."""
        if isinstance(error, HooksError):
            return cls(error.code, str(error), error.hint)
        return cls("bug", str(error))

    def __str__(self) -> str:
        return self.message


def mistake(message: str, hint: str = "") -> Problem:
    """Return what is wrong with an option or an argument."""
    return Problem(UsageError.code, message, hint)


def hint_lines(*hints: str) -> list[str]:
    """Return the lines that say what to do, each hint once, as PostgreSQL prints them."""
    return [f"HINT: {hint}" for hint in dict.fromkeys(hints) if hint]


def listed(title: str, problems: Iterable[Problem]) -> str:
    """Return a title, and below it each problem with its hint.

    >>> print(listed("2 mistakes:", [mistake("unknown option", "did you mean 'nodes'?"), mistake("empty")]))
    2 mistakes:
      unknown option
        HINT: did you mean 'nodes'?
      empty
    """
    lines = (f"  {line}" for each in problems for line in (str(each), *(f"  {hint}" for hint in hint_lines(each.hint))))
    return "\n".join([title, *lines])


def odd_answer(error: Exception) -> str:
    """Say that a node has answered what cannot be read."""
    return f"an answer that cannot be read: {one_line(f'{type(error).__name__}: {error}')}"


@contextmanager
def answer_of(node: int) -> Iterator[None]:
    """What cannot be read of a node's answer is a failure of that node. Raises OperationFailed."""
    try:
        yield
    except HooksError:
        raise
    except Exception as error:
        raise OperationFailed(f"node {node}: {odd_answer(error)}", code="odd_answer") from error


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return the hint ``did you mean 'x'?`` when a known word is near, else an empty string."""
    import difflib  # for mistakes alone

    near = difflib.get_close_matches(str(word)[:80], [str(k) for k in known], 1)
    return f"did you mean '{near[0]}'?" if near else ""


KEEPS_OUT = ("too many c", "remaining connection slots", "authentication failed", "not permitted", "pg_hba.conf")


def keeps_us_out(error: OperationFailed) -> bool:
    """True if a node has answered that it lets us not in, and not because it is being started or stopped; in English
    alone: in other words it counts as silent."""
    return error.code == "rejected" and any(words in str(error) for words in KEEPS_OUT)
