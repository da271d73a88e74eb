"""The thread that looks after one cluster."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from repmgr_hooks import clock
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.turns import Turns

log = logging.getLogger(__name__)

AFTER_BUG = 20.0
FIRST = Turns()
STOPPED_EVERY = 0.2
END_LIMIT = 130.0
"""Seconds for the step that the loop before is in."""


class Loop(threading.Thread):
    """Runs the queue of one cluster whenever something is due.

    First the loop ``before`` it ends, and ``begin`` is done; at the end ``close`` lets go of what it works with.
    ``first``: when it works for the first time, unless it is woken.
    """

    def __init__(
        self,
        queue: ClusterController,
        before: Loop | None,
        begin: Callable[[], None],
        close: Callable[[], None],
        first: Turns = FIRST,
    ) -> None:
        super().__init__(name=queue.name, daemon=True)
        self._queue, self._begin, self._close, self._first = queue, begin, close, first
        # One that has not begun, for it waits itself, will never begin: it has been stopped.
        self._before: Loop | None = before._before or before if before else None
        self._woken = threading.Event()
        self._resting = threading.Event()

    def wake(self) -> None:
        """Look at the queue now."""
        self._resting.clear()
        self._woken.set()

    def lost_events(self) -> None:
        """Look after the cluster: some event may have been lost."""
        self._queue.blind.set()
        self.wake()

    def stirs(self) -> None:
        """Look now: a node has ended a connection, or Barman's receiver has ended."""
        self._queue.stirred.set()
        self.wake()

    def pause(self) -> None:
        """A pause has begun: a run ends after the current step, and its events wait."""
        self._queue.pausing.set()
        self.wake()

    def stop(self) -> None:
        """End after the current step."""
        self._queue.stopping.set()
        self._woken.set()

    def idle(self) -> bool:
        """True when nothing runs and nothing waits (a retry later on does not count)."""
        return self._resting.is_set() and not self._woken.is_set()

    def stands_still(self) -> bool:
        """True if it should have got on by now."""
        return not self._resting.is_set() and self._queue.progress.stands_still()

    def run(self) -> None:
        """Work until stopped."""
        if self._before:
            self._queue.progress.expect(END_LIMIT)
            while self._before.is_alive() and not self._queue.stopping.is_set():
                self._before.join(STOPPED_EVERY)
        self._woken.wait(self._first.nodes)
        if not self._queue.stopping.is_set():
            self._before = None
            self._begin()
            self._wait_for_turn()
        while not self._queue.stopping.is_set():
            self._woken.clear()
            try:
                wait = self._queue.work()
            except BaseException:  # nothing ends a loop
                log.exception("%s: a bug in repmgr_hooks; please report it", self.name)
                wait = AFTER_BUG
            self._queue.progress.expect(wait)
            if not self._woken.is_set():
                self._resting.set()
            self._woken.wait(wait)
            self._queue.progress.expect()
            self._resting.clear()
        self._close()

    def _wait_for_turn(self) -> None:
        """Look at the nodes, as often as ever; what else there is to look at has its turn later, while they are as
        remembered.
        """
        end = clock.monotonic() + self._first.everything - self._first.nodes
        try:
            while (left := end - clock.monotonic()) > 0 and not self._woken.is_set() and (tick := self._queue.glance()):
                self._queue.progress.expect(tick)
                self._woken.wait(min(left, tick))
        except BaseException:
            log.exception("%s: a bug in repmgr_hooks; please report it", self.name)
