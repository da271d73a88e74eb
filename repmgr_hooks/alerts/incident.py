"""What is to be sent to whom, and when: pure; ``notifier.py`` keeps the incidents and sends them.

Nothing queues up: for each incident and receiver it is known what was sent last, and what should have been. A receiver
that was away for an hour gets the present state, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from repmgr_hooks.settings.backoff import Backoff, left
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.text import one_line

HEADLINE = 80
SETTLED = 60.0
"""An incident is over, for its receivers, when it has stayed away so long; nobody gets a message more often."""
AGAIN = 3600.0
"""One that was over and comes back within this time goes to and fro: it is over when it has stayed away so long."""
FORGET_AFTER = 86400.0
RETRY = Backoff()
OVER = "OVER"
LEFT = "left to the other gateway"
ELSEWHERE = "This gateway no longer has the address. If this persists, the one that has it sends an alert of its own."


@dataclass(frozen=True)
class Delivery:
    """What was sent to a receiver last and when, and how often the next message has failed. Times as in Incident."""

    said: str = ""
    at: float = 0.0
    tried: float = 0.0
    failures: int = 0


@dataclass(frozen=True)
class Incident:
    """An alert from when it was raised until it ended, and what was sent of it to each receiver.

    Times are in seconds since the epoch. ``flapping``: it had been over for a short time only.
    """

    alert: Alert
    since: float
    ended: float | None = None
    flapping: bool = False
    deliveries: Mapping[str, Delivery] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """``open``, ``over``, or ``event`` for what has happened and does not go on."""
        return "event" if self.alert.momentary else "open" if self.ended is None else "over"

    @property
    def headline(self) -> str:
        """The one line that is sent, without control characters."""
        state = OVER if self.state == "over" else self.alert.severity.upper()
        text = one_line(f"{state} {self.alert.cluster}: {self.alert.summary}")
        return text if len(text) <= HEADLINE else f"{text[: HEADLINE - 3].rstrip()}..."

    def goes_on_for(self, receiver: str) -> bool:
        """True if a receiver was told that it is there, and not yet that it is over."""
        said = self.deliveries.get(receiver, Delivery()).said
        return bool(said) and not said.startswith(OVER)

    def wait(self, receiver: str, repeat_interval: float, now: float) -> float | None:
        """Return the seconds until the receiver is to get a message; None if it knows all there is to know.

        While it is open, it is sent again every ``repeat_interval`` seconds.
        """
        last = self.deliveries.get(receiver, Delivery())
        said = last.said == self.headline
        if said and self.state != "open":
            return None
        if self.state == "over":
            assert self.ended is not None
            pause = left(self.ended, AGAIN if self.flapping else SETTLED, now)
        else:
            pause = left(last.at, repeat_interval if said else SETTLED, now) if last.said else 0.0
        if last.failures == 0:
            return pause
        if last.failures < RETRY.max_attempts:
            return max(pause, left(last.tried, RETRY.after(last.failures), now))
        return max(pause, left(last.tried, repeat_interval, now)) if self.state == "open" else None


def raised(incidents: Mapping[str, Incident], found: Mapping[str, Alert], now: float) -> dict[str, Incident]:
    """Return the incidents of a cluster that change when exactly these alerts are found, by condition."""
    changed = {condition: _opened(incidents.get(condition), alert, now) for condition, alert in found.items()}
    for condition, incident in incidents.items():
        if incident.state == "open" and condition not in found:
            changed[condition] = Incident(incident.alert, incident.since, now, incident.flapping, incident.deliveries)
    return {condition: incident for condition, incident in changed.items() if incidents.get(condition) != incident}


def _opened(before: Incident | None, alert: Alert, now: float) -> Incident:
    if before is None:
        return Incident(alert, now)
    if before.ended is None or left(before.ended, SETTLED, now):
        return Incident(alert, before.since, None, before.flapping, before.deliveries)
    soon = left(before.ended, AGAIN, now) > 0
    return Incident(alert, now, None, soon, before.deliveries if soon else {})


def left_to_another(incident: Incident, now: float) -> Incident:
    """Return an incident that has ended here, for another gateway has the address, and tells what goes on."""
    alert = incident.alert
    details = "\n".join(filter(None, (ELSEWHERE, alert.details)))
    return replace(incident, alert=replace(alert, summary=f"{LEFT}: {alert.summary}", details=details), ended=now)


def happened(before: Incident | None, alert: Alert, now: float) -> Incident | None:
    """Return the incident of something that has happened; None if the same was raised less than ``AGAIN`` s ago."""
    same = before is not None and before.alert == alert and left(before.since, AGAIN, now) > 0
    return None if same else Incident(alert, now, now)
