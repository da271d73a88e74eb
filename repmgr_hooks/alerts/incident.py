"""What somebody is to be told of, and when to tell it: pure; ``outbox.py`` keeps the cases and tells them.

Nothing queues up: for each case and target it is known what was told last, and what should have been. A target that
was away for an hour is told how things are now, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from repmgr_hooks.settings.backoff import Backoff, left
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.text import one_line

HEADLINE = 80
SETTLED = 60.0
"""A case is over, for those who are told, when it has stayed away so long; nobody is told more often than that."""
AGAIN = 3600.0
"""One that was over and comes back within this time goes to and fro: it is over when it has stayed away so long."""
FORGET_AFTER = 86400.0
RETRY = Backoff()


@dataclass(frozen=True)
class Told:
    """What a target was told last and when, and how often it could not be told the next thing. Times as in Case."""

    said: str = ""
    at: float = 0.0
    tried: float = 0.0
    failures: int = 0


@dataclass(frozen=True)
class Incident:
    """An alert from when it was raised until it ended, and what each target was told of it.

    Times are in seconds since the epoch. ``flapping``: it had been over for a short time only.
    """

    alert: Alert
    since: float
    ended: float | None = None
    flapping: bool = False
    told: Mapping[str, Told] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """``open``, ``over``, or ``event`` for what has happened and does not go on."""
        return "event" if self.alert.momentary else "open" if self.ended is None else "over"

    @property
    def headline(self) -> str:
        """The one line that is told, without control characters."""
        state = "OVER" if self.state == "over" else self.alert.severity.upper()
        text = one_line(f"{state} {self.alert.cluster}: {self.alert.summary}")
        return text if len(text) <= HEADLINE else f"{text[: HEADLINE - 3].rstrip()}..."

    def wait(self, target: str, repeat_interval: float, now: float) -> float | None:
        """Return the seconds until the target is to be told; None if it knows all there is to know.

        While it is open, it is told again every ``repeat_interval`` seconds.
        """
        told = self.told.get(target, Told())
        said = told.said == self.headline
        if said and self.state != "open":
            return None
        if self.state == "over":
            assert self.ended is not None
            pause = left(self.ended, AGAIN if self.flapping else SETTLED, now)
        else:
            pause = left(told.at, repeat_interval if said else SETTLED, now) if told.said else 0.0
        if told.failures == 0:
            return pause
        if told.failures < RETRY.max_attempts:
            return max(pause, left(told.tried, RETRY.after(told.failures), now))
        return max(pause, left(told.tried, repeat_interval, now)) if self.state == "open" else None


def raised(cases: Mapping[str, Incident], found: Mapping[str, Alert], now: float) -> dict[str, Incident]:
    """Return the cases of a cluster that change when exactly these alerts are found, by condition."""
    changed = {condition: _opened(cases.get(condition), alert, now) for condition, alert in found.items()}
    for condition, case in cases.items():
        if case.state == "open" and condition not in found:
            changed[condition] = Incident(case.alert, case.since, now, case.flapping, case.told)
    return {condition: case for condition, case in changed.items() if cases.get(condition) != case}


def _opened(before: Incident | None, alert: Alert, now: float) -> Incident:
    if before is None:
        return Incident(alert, now)
    if before.ended is None or left(before.ended, SETTLED, now):
        return Incident(alert, before.since, None, before.flapping, before.told)
    soon = left(before.ended, AGAIN, now) > 0
    return Incident(alert, now, None, soon, before.told if soon else {})


def happened(before: Incident | None, alert: Alert, now: float) -> Incident | None:
    """Return the case of something that has happened; None if the same was told already within ``AGAIN`` seconds."""
    same = before is not None and before.alert == alert and left(before.since, AGAIN, now) > 0
    return None if same else Incident(alert, now, now)
