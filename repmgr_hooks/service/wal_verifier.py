"""Has the records around the switchpoint followed after each failover, by ``check-wal --deep``, and reads its result.

That is a program of its own, with the lowest priority and limits of its own: nothing waits for it, and a restart of the
service does not end it. What decides is what the journal has of this primary's timeline, not an event.
"""

from __future__ import annotations

import logging
import math

from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.config import Config
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.hook import PROGRAM
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.wal_checks import WalCheckRow, last_checks
from repmgr_hooks.system.answers import BUSY
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host, Program

log = logging.getLogger(__name__)

SETTLED = 30.0
"""So many seconds has all been as it should be: first come those who wait for the failover."""
READ_EVERY = 30.0
"""So often, in seconds, the journal is asked for the last result, which a program of its own writes."""
AGAIN = 3600.0
"""What could not be looked at, or lacks a backup, is looked at again after so many seconds."""
DEEP = ("--deep", "--newest", "1GB", "--within", "15m")
LIMIT = 10.0


class WalVerifier:
    """Of one cluster."""

    def __init__(self, managed: ManagedCluster, journal: Journal, host: Host, loaded: Config) -> None:
        self._cluster, self._journal, self._host, self._path = managed.cluster, journal, host, loaded.path
        self._wanted = managed.cluster.barman is not None and managed.cluster.barman.check_after_failover
        self._settled: tuple[object, float] = (None, 0.0)
        self._tried: tuple[object, float] = (None, 0.0)
        self._read_at = -math.inf
        self.found: tuple[WalCheckRow, ...] = ()
        """What was shown last."""

    def look(self, decision: PrimaryDecision | None, in_desired_state: bool) -> None:
        """Read what was shown; start to look, if this timeline has not been looked at."""
        if self._cluster.barman is None:
            return
        now = self._host.now()
        if now >= self._read_at + READ_EVERY:
            try:
                self.found = tuple(last_checks(self._journal, self._cluster.name))
            except OperationFailed:
                return  # whoever uses the journal says so
            self._read_at = now
        this = (decision.primary, decision.timeline) if decision and decision.primary and in_desired_state else None
        if this != self._settled[0]:
            self._settled = (this, now)
        shown = any(row.good and (row.primary, row.timeline) == this for row in self.found)
        lacking = any(row.of_backup for row in self.found)
        whole = shown and not lacking
        tried = this == self._tried[0] and now - self._tried[1] < AGAIN
        due = this and not whole and not tried and now - self._settled[1] >= SETTLED
        if not (due and self._wanted):
            return
        follows = self._cluster.barman.on_each_gateway or serves(self._cluster.gateway, self._host)
        # What one of several gateways has found to be lacking, it looks for also when another has the address.
        if (follows or lacking) and self._start(shown or not follows):
            self._tried = (this, now)

    def _start(self, shown: bool) -> bool:
        """Start it; False if others of its kind run already, and it is tried again at the next look.

        What was ``shown`` of the records holds; there may be a backup now.
        """
        words = ("check-wal", *(() if shown else DEEP), "--cluster", self._cluster.name)
        program = Program(("nice", "-n", "19", PROGRAM, "--config", str(self._path), *words), resident=True, heavy=True)
        try:
            self._host.run(program, LIMIT)
            what = (
                "looking again for a backup that can be restored"
                if shown
                else "the newest records of Barman's WAL are followed now"
            )
            log.info("%s: %s: %s", self._cluster.name, what, program)
        except OperationFailed as error:
            if error.code == BUSY:
                return False
            log.warning("%s: %s", self._cluster.name, error)
        return True
