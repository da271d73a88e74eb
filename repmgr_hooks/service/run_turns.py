"""How many runs of one service are made at once: after a boot, a hundred clusters may have something to do.

Each change of a rule makes every run that is under way read all rules again, those of all clusters. With a hundred runs
side by side, 476 of 1,000 ports were open after 350 s; with four at a time, all of them after 131 s.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from repmgr_hooks import clock
from repmgr_hooks.errors import Stopped
from repmgr_hooks.journal.heartbeat import Progress
from repmgr_hooks.lock import LOCK_WAIT

AT_ONCE = 4
LEASE = 1.5
"""Seconds without progress until the next one may begin, though a run goes on: it waits for a node or for Barman."""
MOST = 15.0
"""Seconds until then, whatever progress a run makes."""
LONGEST = 240.0
"""Seconds after which a run begins, whatever there is: a gateway that has seen no primary for 300 s counts as away."""
ONE_LOSS = 20.0
"""Seconds for which the losses of several clusters are one: a firewall that was loaded again has flushed all chains."""
POLL = 1.0
"""Seconds until it is noticed that something else is to be done."""


class RunTurns:
    """The turns of the runs of all clusters. One that is urgent waits for none; else who has waited longest is next."""

    def __init__(self, at_once: int = AT_ONCE, lease: float = LEASE) -> None:
        self._at_once, self._lease = at_once, lease
        self._changed = threading.Condition()
        self._waiting: list[int] = []
        self._holding: dict[int, tuple[float, Progress]] = {}
        """The runs that hold others up: until when at most, and how far each is."""
        self._number = 0
        self.losses = 0
        """How often something was gone that was well before, and nobody's primary had changed: the next look at each
        cluster is at everything."""
        self._lost_at = -ONE_LOSS

    def lost(self) -> None:
        """A look has found such a loss."""
        with self._changed:
            if clock.monotonic() >= self._lost_at + ONE_LOSS:
                self._lost_at, self.losses = clock.monotonic(), self.losses + 1

    @contextmanager
    def turn(self, urgent: bool, gives_way: Callable[[], bool], progress: Progress) -> Iterator[None]:
        """Wait for the turn of a run, and hold it until the run ends or its time is up.

        Raises Stopped as soon as it ``gives_way`` to something else that is to be done.
        """
        progress.expect(LONGEST)
        with self._changed:
            self._number += 1
            mine = self._number
            self._waiting.append(mine)
        try:
            end = clock.monotonic() + LONGEST
            while not self._takes(mine, progress, urgent or clock.monotonic() >= end):
                if gives_way():
                    raise Stopped("something else is to be done before its turn")
            yield
        finally:
            with self._changed:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                self._holding.pop(mine, None)
                self._changed.notify_all()

    @property
    def are_taken(self) -> bool:
        """Whether runs are getting on, or wait for their turn."""
        with self._changed:
            return bool(self._waiting or self._until(clock.monotonic()))

    def _takes(self, mine: int, progress: Progress, in_any_case: bool) -> bool:
        """Return whether it is its turn; if not, after a while."""
        with self._changed:
            until = self._until(now := clock.monotonic())
            if in_any_case or (mine == self._waiting[0] and len(until) < self._at_once):
                self._waiting.remove(mine)
                progress.expect(LOCK_WAIT)
                self._holding[mine] = now + MOST, progress
                self._changed.notify_all()
                return True
            self._changed.wait(min([now + POLL, *until]) - now)
            return False

    def _until(self, now: float) -> list[float]:
        """Return until when each run holds others up, without those that hold nobody up just now."""
        self._holding = {run: held for run, held in self._holding.items() if held[0] > now}
        until = [min(most, progress.last + self._lease) for most, progress in self._holding.values()]
        return [moment for moment in until if moment > now]


RUNS = RunTurns()
"""Those of this process."""
