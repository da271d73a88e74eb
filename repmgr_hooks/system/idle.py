"""Kept connections that nobody asks through: what comes through one is its end (57P01), mostly, and worth a look."""

from __future__ import annotations

import contextlib
import logging
import select
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

ENDS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT


class IdleConnections:
    """One thread watches those of all clusters, and sleeps until the kernel wakes it (epoll(7))."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._noticed: dict[int, Callable[[], None]] = {}
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, descriptor: int, noticed: Callable[[], None]) -> None:
        """Call ``noticed``, in the thread, when something comes; once."""
        self._start()
        self._noticed[descriptor] = noticed
        with contextlib.suppress(OSError):  # closed meanwhile: then whoever asks next will hear it
            self._epoll.register(descriptor, ENDS)

    def leave(self, descriptor: int) -> None:
        """Watch it no more: it is asked through, or closed."""
        self._noticed.pop(descriptor, None)
        with contextlib.suppress(OSError):
            self._epoll.unregister(descriptor)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._watch, name="idle connections", daemon=True)
                with contextlib.suppress(RuntimeError):  # there are no threads left: the next look will see it
                    thread.start()
                    self._thread = thread

    def _watch(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                if noticed := self._noticed.pop(descriptor, None):
                    try:
                        noticed()
                    except Exception:  # the others are to be noticed too
                        log.exception("a bug in repmgr_hooks; please report it")


IDLE = IdleConnections()
