"""What the journal holds, as values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repmgr_hooks.event import Event

RUN_COLUMNS = 'id, cluster, cause, attempt, started, ended, ok, again, "primary", timeline, message, "left"'


@dataclass(frozen=True)
class Waiting:
    """An event that no finished run has covered yet."""

    id: int
    event: Event


@dataclass(frozen=True)
class StepRow:
    """One step of a run."""

    action: str
    what: str
    started: float
    duration: float
    error: str


@dataclass(frozen=True)
class RunRow:
    """One run. ``ok`` is None while it runs, or if it was cut off."""

    id: int
    cluster: str
    cause: str
    attempt: int
    started: float
    ended: float | None
    ok: bool | None
    again: bool
    primary: int | None
    timeline: int | None
    message: str
    left: tuple[str, ...] = ()
    """The actions that failed, or were not reached."""


def run_row(row: Sequence[Any]) -> RunRow:
    """Return a row of ``RUN_COLUMNS`` as a value."""
    id_, cluster, cause, attempt, started, ended, ok, again, primary, timeline, message, left = row
    ok, actions = None if ok is None else bool(ok), tuple(left.splitlines())
    return RunRow(id_, cluster, cause, attempt, started, ended, ok, bool(again), primary, timeline, message, actions)


@dataclass(frozen=True)
class Pause:
    """Maintenance: events are stored and nothing is done, until a moment (None: until ``resume``)."""

    until: float | None
    reason: str
    since: float


@dataclass(frozen=True)
class Observation:
    """What the worker saw, when that was something else than in the look before (``before``; None: its first)."""

    at: float
    before: float | None
    primary: int | None
    timeline: int
    decision: str
    nodes: str


@dataclass(frozen=True)
class ProbeRow:
    """What a client found through a port, when that was something else than before; ``before``: when that was tried.

    ``code``: ``writes``, or why not; ``node``: who answered.
    """

    at: float
    before: float | None
    port: str
    code: str
    node: int | None
    said: str


@dataclass(frozen=True)
class Total:
    """What was counted since the journal began: of ``kind`` event, run (``name``: its cause), step (its action), role.

    ``last``: the seconds of the newest.
    """

    kind: str
    name: str
    count: int
    failed: int
    seconds: float
    last: float
