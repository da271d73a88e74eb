"""What the journal holds, as values. A named tuple is made in a sixth of the time that a dataclass takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.event import Event
from repmgr_hooks.journal.maintenance import Pause

RUN_COLUMNS = 'id, cluster, cause, attempt, started, ended, ok, again, "primary", timeline, message, code, hint'


class Place(NamedTuple):
    """An action: where it stands in the routes, and its title there; of a notification, also the event that it is for.

    With the title, for the routes may be others by the time that this is read.
    """

    path: str
    action: str
    event: str = ""
    node: int | None = None


class Failed(NamedTuple):
    """An action that failed or was not reached, and why, as a code."""

    place: Place
    code: str


class Waiting(NamedTuple):
    """An event that no finished run has covered yet."""

    id: int
    event: Event


class StepRow(NamedTuple):
    """One step of a run, of an action at its place. ``what`` and ``error`` are sentences for people."""

    place: Place
    kind: str
    target: str
    node: int | None
    what: str
    started: float
    duration: float
    error: str = ""
    code: str = ""
    hint: str = ""

    @property
    def action(self) -> str:
        """The title of its action."""
        return self.place.action


class RunRow(NamedTuple):
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
    code: str = ""
    hint: str = ""
    left: tuple[Failed, ...] = ()


def run_row(row: Sequence[Any], left: Iterable[Sequence[Any]] = ()) -> RunRow:
    """Return a row of ``RUN_COLUMNS``, and those of its failed actions, as a value."""
    id_, cluster, cause, attempt, started, ended, ok, again, *rest = row
    failed = tuple(Failed(Place(*place), code) for *place, code in left)
    ok = None if ok is None else bool(ok)
    primary, timeline, message, code, hint = rest
    how = (ok, bool(again), primary, timeline, message, code, hint, failed)
    return RunRow(id_, cluster, cause, attempt, started, ended, *how)


class Due(NamedTuple):
    """What decides what is to be done for a cluster: its pause, the events that wait, the last run; and what is
    remembered of its primary.
    """

    pause: Pause | None = None
    waiting: tuple[Waiting, ...] = ()
    last: RunRow | None = None
    known: LastKnownPrimary | None = None

    @property
    def interrupts(self) -> bool:
        """True if a run that waits for its turn has been overtaken: there is a pause, or an event."""
        return self.pause is not None or bool(self.waiting)


class Observation(NamedTuple):
    """What the worker saw, when that was something else than in the look before (``before``; None: its first)."""

    at: float
    before: float | None
    primary: int | None
    timeline: int
    code: str
    decision: str
    nodes: str


class ProbeRow(NamedTuple):
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
