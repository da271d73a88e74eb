"""Lets clients go on that another gateway has held and cannot let go: it is dead, or cut off from them.

A hold is written down where it is held (``journal/holds.py``), and a gateway that is dead shows nobody its record. But
each gateway sees the PgBouncers that the routes name. A database that was last seen unpaused in the minute before the
address came here was paused while the other gateway had it, by a switchover there, or by hand in that same minute. What
was paused longer ago, or while the address was here, somebody has paused by hand, and it is left alone; also when the
address goes and comes, as where keepalived is started anew. During a pause of the service all is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from repmgr_hooks.engine import hold as engine
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.journal import pauses
from repmgr_hooks.switchover.phases import HOLD_LIMIT
from repmgr_hooks.system import pgbouncer
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.pgbouncer import PgBouncer
from repmgr_hooks.system.steps import Host, console_name

log = logging.getLogger(__name__)


class OthersHold:
    """Watches the PgBouncers of one cluster for one of several gateways; ``tell`` has an alert sent."""

    def __init__(self, managed: ManagedCluster, tell: Callable[[Alert], None], make_host: Callable[[], Host]) -> None:
        self._cluster, self._tell = managed.cluster, tell
        self._asked = engine.pgbouncers_of(managed) if managed.cluster.gateway.hosts else {}
        self._host = make_host()
        """Its own, which keeps a connection to each console."""
        self._free_at: dict[tuple[str, str], float] = {}
        """When each database was last seen unpaused, if the address was not here then."""

    def look(self) -> None:
        """Look, while no hold of ours is written down; let go what another gateway should have let go by now."""
        if not self._asked:
            return
        now, left = self._host.now(), dict[str, list[str]]()
        had_for = self._host.had_for(self._cluster.gateway.address)
        for console, seen in pgbouncer.look(self._asked, self._host).items():
            if isinstance(seen, PgBouncer):
                names = self._asked[console]
                paused = pgbouncer.still_paused(seen, names)
                self._note([(console, name) for name in names if name not in paused], now, had_for)
                if over := [name for name in paused if self._is_left((console, name), now, had_for)]:
                    left[console] = over
        if pauses.known(Path(self._cluster.state_dir), self._cluster.name):
            self.close()  # a PgBouncer that is to end waits for each client (janitor.c), and its admin console has us
        elif left:
            self._resume(left)

    def close(self) -> None:
        """Let go of the connections."""
        self._host.close_idle()

    def _note(self, free: list[tuple[str, str]], now: float, had_for: float | None) -> None:
        for each in free:
            if had_for is None:
                self._free_at[each] = now
            else:
                self._free_at.pop(each, None)

    def _is_left(self, paused: tuple[str, str], now: float, had_for: float | None) -> bool:
        """Whether it was paused shortly before the address came, and for longer than a gateway holds clients."""
        free_at = self._free_at.get(paused)
        if free_at is None or had_for is None:
            return False
        return 0 <= now - had_for - free_at <= HOLD_LIMIT <= had_for

    def _resume(self, left: dict[str, list[str]]) -> None:
        failed = pgbouncer.resume(left, self._host)
        for error in failed.values():
            log.error("%s", error)
        if done := [console for console in left if console not in failed]:
            self._say([f"{name} of PgBouncer {console_name(console)}" for console in done for name in left[console]])

    def _say(self, databases: list[str]) -> None:
        who = f"the gateway that had {self._cluster.gateway.address} before"
        what = f"{who} held the clients of {', '.join(databases)}, and has not let them go: they go on"
        hint = "a switchover there may have left repmgrd paused: repmgr-hooks status"
        log.warning("%s", what)
        self._tell(Alert(self._cluster.name, "hold", "warning", what, hint=hint, momentary=True))
