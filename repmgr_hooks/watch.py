"""Looking without an event: events get lost, and a promotion by hand sends none.

While there is no primary the looks come ten times a second, for repmgr itself looks once a second only; not longer than
a minute, for a cluster may stay down.
"""

from __future__ import annotations

import logging

from repmgr_hooks import dispatcher
from repmgr_hooks.cluster import Verdict
from repmgr_hooks.config import Managed
from repmgr_hooks.records import Memory, RunRow
from repmgr_hooks.steps import World

log = logging.getLogger(__name__)

NEVER = 3600.0
HURRY_EVERY = 0.1
HURRY_FOR = 60.0


class Watch:
    """When to look next, and what was seen last; ``tick`` in seconds, 0 for never."""

    def __init__(self, managed: Managed, world: World, tick: float) -> None:
        self._managed, self._world, self._tick = managed, world, tick
        self._next = world.now()
        self._last_primary = world.now()
        self._said = ""
        self.verdict: Verdict | None = None
        """Of the last look."""

    def due_in(self) -> float:
        """Return the seconds until the next look."""
        return max(self._next - self._world.now(), 0.0) if self._tick else NEVER

    def look_now(self) -> None:
        """Look next: an event has come, and may be the first sign that the primary is gone."""
        self._next = self._world.now()

    def sees_work(self, memory: Memory, failed: RunRow | None) -> bool:
        """Look; True if something is to be done that no event has asked for.

        What a failed run could not mend is left to its retries, unless there is another primary now.
        """
        verdict, missing = dispatcher.drift(self._managed, self._world, memory)
        self.verdict = verdict
        now = self._world.now()
        if verdict.primary is not None:
            self._last_primary = now
        hurry = verdict.primary is None and now < self._last_primary + HURRY_FOR
        self._next = now + (HURRY_EVERY if hurry else self._tick)
        said = "; ".join(missing) if verdict.primary else f"the primary is unknown: {verdict.reason}"
        if said and said != self._said:
            log.warning("%s: not as it should be: %s", self._managed.cluster.name, said)
        self._said = said
        known = failed is not None and (verdict.primary, verdict.timeline) == (failed.primary, failed.timeline)
        return bool(missing) and not known
