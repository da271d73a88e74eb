"""The clocks of this program: no other module asks the time, so that each says which of them it means.

What has a ``Host`` measures and waits with ``host.now`` and ``host.sleep``; on a real one that is the monotonic clock.
``hook.py`` and what runs on Barman's host (``barman/agent``) import nothing of ours, and ask the time themselves.
"""

from __future__ import annotations

import time
import zlib


def wall() -> float:
    """Return the seconds since the epoch, to be stored and shown; they jump when somebody sets the clock."""
    return time.time()


def monotonic() -> float:
    """Return seconds that never jump, to measure how long something takes, and to end it."""
    return time.monotonic()


def since_boot() -> float:
    """Return seconds since the boot, suspended or not: the same for every process, and nobody sets them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def turn(name: str, now: float, every: float) -> float:
    """Return the number of the turn, of so many seconds, in which somebody is.

    Of a hundred each begins its turns at another moment: what they do once in each turn they would else do all at once.

    >>> [turn(name, 1000.0, 600.0) - turn(name, 700.0, 600.0) for name in ("c1", "c2")]
    [1.0, 0.0]
    """
    return (now + zlib.crc32(name.encode()) % 3600) // every


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)
