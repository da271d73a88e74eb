"""How many runs of one service begin at once: after a boot, a hundred clusters may have something to do.

Each change of a rule makes every run that is under way read all rules again, those of all clusters. With a hundred runs
side by side, 74 of 100 clusters with ten ports each had theirs after 100 s, and the others none after 400 s.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from repmgr_hooks import clock
from repmgr_hooks.journal.heartbeat import Progress
from repmgr_hooks.lock import LOCK_WAIT

AT_ONCE = 4
LEASE = 1.5
"""Seconds without progress until the next one may begin, though a run goes on: it waits for a node or for Barman."""
MOST = 15.0
"""Seconds until then, whatever progress a run makes."""
LONGEST = 600.0
"""Seconds after which a run begins, whatever there is."""
POLL = 1.0
"""Seconds until it is noticed that the service stops."""


class RunTurns:
    """The turns of the runs of all clusters: those for an event come first, then who has waited longest."""

    def __init__(self, at_once: int = AT_ONCE, lease: float = LEASE) -> None:
        self._at_once, self._lease = at_once, lease
        self._changed = threading.Condition()
        self._waiting: list[tuple[bool, int]] = []
        self._holding: dict[int, tuple[float, Progress]] = {}
        """The runs that hold others up: until when at most, and how far each is."""
        self._number = 0

    @contextmanager
    def turn(self, urgent: bool, stopping: threading.Event, progress: Progress) -> Iterator[None]:
        """Wait for the turn of a run, and hold it until the run ends or its time is up."""
        number = self._wait(urgent, stopping, progress)
        try:
            yield
        finally:
            with self._changed:
                self._holding.pop(number, None)
                self._changed.notify_all()

    def _wait(self, urgent: bool, stopping: threading.Event, progress: Progress) -> int:
        with self._changed:
            self._number += 1
            mine = (not urgent, self._number)
            self._waiting.append(mine)
            end = clock.monotonic() + LONGEST
            try:
                while (now := clock.monotonic()) < end and not stopping.is_set():
                    until = self._until(now)
                    if mine == min(self._waiting) and len(until) < self._at_once:
                        break
                    self._changed.wait(min([end, now + POLL, *until]) - now)
            finally:
                self._waiting.remove(mine)
            progress.expect(LOCK_WAIT)
            self._holding[mine[1]] = clock.monotonic() + MOST, progress
            self._changed.notify_all()
            return mine[1]

    def _until(self, now: float) -> list[float]:
        """Return until when each run holds others up, those that do no longer left out."""
        until = {run: min(most, progress.last + self._lease) for run, (most, progress) in self._holding.items()}
        self._holding = {run: held for run, held in self._holding.items() if until[run] > now}
        return [until[run] for run in self._holding]


RUNS = RunTurns()
"""Those of this process."""
