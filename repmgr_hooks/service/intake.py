"""Takes events out of the spool into the journal, not more than both can bear.

An event is a hint. Where too many come, or none can be taken in, the clusters are looked at instead.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.background import Aside
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.service.spool import Spool, make_spool, readable

log = logging.getLogger(__name__)

OPEN_AGAIN = 20.0
LIMIT = 20.0
"""Seconds for the spool's disk to take out so many events as are taken at once."""
MOST = 10_000
"""Events that are taken in at a stretch; they come back at the rate of ..."""
PER_SECOND = 10.0
"""... so many: a day of events that never end is some 900,000 rows of the journal."""

HANGS = "the disk of the spool does not answer"


@dataclass(frozen=True)
class Taken:
    """Whether anything was taken out of the spool, and why events are lost, if some are."""

    any: bool = False
    lost: str = ""


class Intake:
    """The spool of a state directory, opened when that is possible."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._spool: Spool | None = None
        self._open_at = 0.0
        self._aside = Aside("spool")
        self._room, self._counted = float(MOST), clock.monotonic()

    def open(self) -> None:
        """Open the spool for the first time."""
        try:
            self._aside.ask(self._opened, LIMIT)
        except (OperationFailed, OSError) as error:
            log.error("%s; going on without events", str(error) or HANGS)

    def take_in(self, journal: Journal, clusters: Mapping[str, ManagedCluster]) -> Taken:
        """Take some events in. While the spool's disk hangs, nothing is waited for."""
        try:
            return self._aside.ask(partial(self._take_in, journal, clusters), LIMIT)
        except (OperationFailed, OSError) as error:
            why = str(error) or HANGS
            return Taken(lost=f"{why}; events stay in the spool, and every cluster is looked after without them")

    def _take_in(self, journal: Journal, clusters: Mapping[str, ManagedCluster]) -> Taken:
        if not (spool := self._opened()):
            return Taken()
        now = clock.monotonic()
        self._room = min(self._room + (now - self._counted) * PER_SECOND, MOST)
        self._counted = now
        taken = spool.take_in(journal, clusters, int(self._room))
        self._room -= taken
        if not spool.dropped:
            return Taken(taken > 0)
        more = "event(s) more than can be taken in were dropped unread; every cluster is looked at instead"
        return Taken(True, f"{spool.dropped} {more}")

    def _opened(self) -> Spool | None:
        """Return the spool; None while it cannot be opened. Raises OperationFailed, OSError."""
        if self._spool is None and clock.monotonic() >= self._open_at:
            self._open_at = clock.monotonic() + OPEN_AGAIN
            make_spool(self._state_dir / "spool")
            self._spool = Spool(self._state_dir)
        return self._spool

    def deafen(self) -> None:
        """Stop listening: from now on ``event`` finds nobody and starts a worker itself."""
        if self._spool:
            with suppress(OSError):
                self._aside.ask(self._spool.deafen, LIMIT)

    def wait(self, seconds: float, also: int) -> bool:
        """Sleep until somebody knocks (True), the file descriptor ``also`` can be read, or the time is up."""
        if self._spool and not self._aside.stands_still():
            return self._spool.wait(seconds, also)
        readable([also], seconds)
        return False

    def close(self) -> None:
        """Stop listening, for good."""
        self.deafen()
        if self._spool:
            with suppress(OSError):
                self._aside.ask(self._spool.close, LIMIT)
        self._spool = None
        self._aside.end()
