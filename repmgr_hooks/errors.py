"""Every error that this program raises on purpose; the command line turns each into an exit code."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HooksError(Exception):
    """Root of our errors: the message says what is wrong, where, and what to do next."""


class UsageError(HooksError, ValueError):
    """A mistake in the configuration or on the command line; nothing was changed (exit code 2)."""


class OperationFailed(HooksError, RuntimeError):
    """A step, or looking at what a step should change, did not work."""


class NoSuchProgram(OperationFailed):
    """A program is not installed."""


class LockTimeout(OperationFailed):
    """Another process holds the lock."""


class PrimaryChanged(OperationFailed):
    """The primary is not what it was when the run began: nothing of this run may be done any more."""


class Stopped(HooksError):
    """The run ends before its next step because it was asked to; what is left is done later."""


def did_you_mean(word: object, known: Iterable[object]) -> str:
    """Return ``; did you mean 'x'?`` when a known word is near, else an empty string."""
    near = difflib.get_close_matches(str(word)[:80], [str(k) for k in known], 1)
    return f"; did you mean '{near[0]}'?" if near else ""
