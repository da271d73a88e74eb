"""While a switchover is under way the service looks often; what one that is gone has left, it takes back.

Where nobody serves then, and repmgrd would promote no node, it lets one serve, as the command would have done
(``switchover/way_back.py``).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from pathlib import Path

from repmgr_hooks import background, clock
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal import holds
from repmgr_hooks.journal.finder import primary_finder
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.pauses import pause_of
from repmgr_hooks.journal.queries import SWITCHOVER
from repmgr_hooks.lock import exclusive
from repmgr_hooks.service.monitor import Monitor
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover import on_node, take_back
from repmgr_hooks.switchover.on_node import RepmgrState
from repmgr_hooks.switchover.record import Record, lock_name, may_be_there_for
from repmgr_hooks.switchover.way_back import LATE, START_LIMIT, WayBack
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

LOOK_EVERY, RETRY_EVERY = 1.0, 5.0
"""Seconds between two looks at a switchover that is under way, and at one that cannot be taken back yet."""
ASK_EVERY, ASK_LIMIT = 2.0, 15.0
"""Seconds between two questions to a node, and for its answer."""
RECENT = 3600.0
"""Seconds after a switchover in which the service lets a node serve: later, others have seen to it."""
AFTER_BOOT = float(START_LIMIT)
"""Seconds that a primary is given to come back after a boot of ours: its host may have been started anew, too."""


class SwitchoverGuard:
    """Looks after the switchover of a cluster, if there is one. What takes time is done in a thread, with a host of its
    own (``make_host``): the run that leads the ports waits for no ssh, and for no promotion."""

    def __init__(
        self,
        cluster: Cluster,
        journal: Journal | None,
        monitor: Monitor,
        host: Host,
        make_host: Callable[[Cluster], Host] = lambda cluster: LocalHost(cluster.conninfos()),
    ) -> None:
        self._cluster, self._journal, self._monitor, self._host = cluster, journal, monitor, host
        self._make_host = make_host
        self._said = self._warned = ""
        self._job: tuple[float, bool, Future[bool]] | None = None
        """What settles a switchover: when that began, whether its time was over, and what has come of it."""
        self._next_job = 0.0
        self._wait = math.inf

    def look(self) -> None:
        """repmgr promotes a node at any moment while it is at work, and clients wait for that."""
        if math.isinf(self._wait) and not may_be_there_for(self._cluster):
            return
        decision, said, self._wait = self._monitor.decision, "", RETRY_EVERY
        try:
            primary = decision.primary if decision else None
            under_way = take_back.look(self._cluster, primary, self._host, self._settled)
            if under_way and under_way.repmgr:
                self._monitor.look_now(hurry=True)
            self._wait = LOOK_EVERY if under_way else math.inf
        except OperationFailed as error:
            said = str(error)
            if said != self._said:
                log.error("%s: %s", self._cluster.name, error)
        except Exception:  # events are handled all the same
            said = "bug"
            if said != self._said:
                log.exception("%s: a bug in repmgr_hooks; please report it", self._cluster.name)
        self._said = said

    def due_in(self) -> float:
        """Return the seconds until it is to look again."""
        return self._wait

    def _settled(self, found: Record, over: bool) -> bool:
        """True once nothing more is to be done for a switchover; with its time over, whatever has come of it."""
        if self._job and self._job[0] == found.since:
            _, was_over, answer = self._job
            if not answer.done():
                return False
            self._job = None
            self._warn(problem := answer.exception())
            if was_over or (problem is None and answer.result()):
                return True
        if self._host.now() >= self._next_job:
            self._next_job = self._host.now() + ASK_EVERY
            self._job = found.since, over, background.begun(partial(self._settle, found, over))
        return False

    def _warn(self, problem: BaseException | None) -> None:
        if problem and str(problem) != self._warned:
            log.warning("%s: a switchover was cut off, and not settled yet: %s", self._cluster.name, problem)
        self._warned = str(problem or "")

    def _settle(self, found: Record, over: bool) -> bool:
        """Where repmgr has ended, and nobody serves, let a node serve. Raises OperationFailed.

        False while repmgr is at work, or may be. The lock is the command's: it is free, for that is gone.
        """
        cluster, host = self._cluster, self._make_host(self._cluster)
        try:
            with exclusive(Path(cluster.state_dir) / lock_name(cluster.name), 0.0):
                repmgr = self._repmgr_state(found, over, host)
                if repmgr is RepmgrState.AT_WORK:
                    return False
                promoting = found.promoting and repmgr is not RepmgrState.UNPROMOTED
                if self._may_let_serve(found):
                    self._let_serve(replace(found, promoting=promoting), host)
                return True
        finally:
            host.close_idle()

    def _repmgr_state(self, found: Record, over: bool, host: Host) -> RepmgrState:
        """How it goes with repmgr on its node; with its time over it has ended. Raises OperationFailed."""
        command = self._cluster.nodes[found.target].shell if found.target in self._cluster.nodes else ()
        if not found.repmgr or not found.place or not command:
            return RepmgrState.OVER if over or not found.repmgr else RepmgrState.AT_WORK
        try:
            said = on_node.look(command, found.place, host, ASK_LIMIT)
        except OperationFailed:
            if not over:
                raise
            return RepmgrState.OVER
        return RepmgrState.OVER if over and said is RepmgrState.AT_WORK else said

    def _may_let_serve(self, found: Record) -> bool:
        paused = pause_of(self._cluster.name, self._journal, Path(self._cluster.state_dir))
        if found.holder.boot == holds.this_process().boot:  # then by the clock that nobody sets
            return paused is None and clock.monotonic() < found.until + RECENT
        return paused is None and clock.wall() - found.since < RECENT

    def _let_serve(self, found: Record, host: Host) -> None:
        """Do what the command would have done. Raises OperationFailed."""
        cluster, us = self._cluster, holds.this_process()
        late = LATE if found.holder.boot == us.boot else AFTER_BOOT
        left = replace(found, holder=us, repmgr=False)
        way = WayBack(cluster, left, lambda: primary_finder(cluster, self._journal), host, late)
        served = way.somebody_serves()
        if way.did and self._journal:
            said = f"a switchover to node {found.target} was cut off ({found.phase}); {way.did}"
            run = self._journal.begin_run(cluster.name, SWITCHOVER, 1, [])
            self._journal.end_run(run, served, False, said, None, 0)
