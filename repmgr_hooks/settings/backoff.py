"""When to try again what has failed, on a clock that may be set back."""

from __future__ import annotations

from dataclasses import dataclass

from repmgr_hooks.settings.schema import Positive, Timeout


@dataclass(frozen=True)
class Backoff:
    """A failed run is tried again after ``initial_delay`` seconds, then after twice as long each time, at most
    ``max_delay`` seconds; after ``max_attempts`` it is a standing failure, until something new happens."""

    initial_delay: Timeout = 5
    max_delay: Positive = 300
    max_attempts: Positive = 20

    def after(self, attempt: int) -> float:
        """Return the seconds to wait after an attempt (the first is 1).

        >>> [Backoff().after(attempt) for attempt in (1, 2, 3, 20)]
        [5.0, 10.0, 20.0, 300.0]
        """
        return float(min(self.initial_delay * 2 ** min(attempt - 1, 30), self.max_delay))


def left(since: float, whole: float, now: float) -> float:
    """Return what is left of a time; more than the whole means that the clock was set back, and nothing is left.

    >>> left(100, 60, 130), left(100, 60, 200), left(100, 60, 5)
    (30, 0.0, 0.0)
    """
    rest = since + whole - now
    return rest if 0 < rest <= whole else 0.0
