"""Every error that this program raises on purpose; the command line turns each into an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from repmgr_hooks.text import MOST, one_line, printable


class HooksError(Exception):
    """Root of our errors: the message says what is wrong, where, and what to do next.

    It may hold what a node, a program or a plug-in has said, and is printable and short whoever made it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(printable(message, 2 * MOST))


class UsageError(HooksError, ValueError):
    """A mistake in the configuration or on the command line; nothing was changed (exit code 2)."""


class OperationFailed(HooksError, RuntimeError):
    """A step, or looking at what a step should change, did not work."""


class ProgramTimeout(OperationFailed):
    """A program was not finished in time, and was ended."""


class NoSuchProgram(OperationFailed):
    """A program is not installed."""


class LockTimeout(OperationFailed):
    """Another process holds the lock."""


class PrimaryChanged(OperationFailed):
    """The primary is not what it was when the run began: nothing of this run may be done any more."""


class Stopped(HooksError):
    """The run ends before its next step because it was asked to; what is left is done later."""


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
        raise OperationFailed(f"node {node}: {odd_answer(error)}") from error


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return ``; did you mean 'x'?`` when a known word is near, else an empty string."""
    near = difflib.get_close_matches(str(word)[:80], [str(k) for k in known], 1)
    return f"; did you mean '{near[0]}'?" if near else ""
