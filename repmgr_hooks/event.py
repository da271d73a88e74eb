"""What repmgr says: one event, checked, and what each event that exists claims."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from repmgr_hooks import catalogue
from repmgr_hooks.errors import UsageError


class RoleClaim(Enum):
    """What an event claims about the node that it names (``%n``)."""

    PRIMARY = catalogue.PRIMARY
    STANDBY = catalogue.STANDBY
    TROUBLE = catalogue.TROUBLE
    NOTE = catalogue.NOTE


class EventInfo(NamedTuple):
    """An event name of repmgr's: what it claims, and the repmgr versions whose script call knows it."""

    meaning: RoleClaim
    since: str
    until: str


CATALOGUE = {
    name: EventInfo(RoleClaim(claim), since, until) for name, (claim, since, until) in catalogue.EVENTS.items()
}


NAMED = 6
"""So many events of one run are named, so that log and history can be searched for each event of a failover."""


@dataclass(frozen=True)
class Event:
    """One call of the hook: ``%n %e %s "%p" "%t"``.

    ``success`` is recorded and never believed: repmgr sends ``standby_promote`` with ``%s`` = 0 only when it has seen
    the node out of recovery (repmgr-action-standby.c:2757-2792), and ``repmgrd_promote_error`` with ``%s`` = 1.
    """

    node: int
    name: str
    success: bool = True
    other_node: int | None = None
    timestamp: str = ""

    @property
    def meaning(self) -> RoleClaim:
        """What the event claims about its node; of one that a newer repmgr sends, nothing is known."""
        return CATALOGUE[self.name].meaning if self.name in CATALOGUE else RoleClaim.NOTE

    def contradicts(self, primary: int | None) -> bool:
        """True if it claims a role for its node that does not go with the known primary."""
        claims = {RoleClaim.PRIMARY: True, RoleClaim.STANDBY: False}.get(self.meaning)
        return None not in (claims, primary) and claims != (self.node == primary)

    def __str__(self) -> str:
        return f"{self.name} of node {self.node}"


@dataclass(frozen=True)
class Origin:
    """The database host that handed an event over: its number there, and how far that host's clock was ahead of ours.

    The number begins with the time when the hook stored it there, in nanoseconds.
    """

    host: str
    number: str
    ahead: float

    @property
    def stored(self) -> float:
        """When the hook stored it, on that host's clock."""
        return int(self.number[:20]) / 1e9

    @property
    def key(self) -> str:
        """What it is known by: the same event that comes once more has the same."""
        return f"{self.host}/{self.number}"


@dataclass(frozen=True)
class Report:
    """An event, of which cluster, and who handed it over; None: our own hook."""

    cluster: str
    event: Event
    origin: Origin | None = None


def parse_event(words: list[str]) -> Event:
    """Check the arguments ``NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]`` and return the event.

    >>> parse_event(["2", "standby_promote"])
    Event(node=2, name='standby_promote', success=True, other_node=None, timestamp='')
    >>> parse_event(["2", "repmgrd_failover_promote", "1", "1", "2026-11-20 03:00:00+00"]).other_node
    1

    Raises UsageError for anything that repmgr itself would not send.
    """
    if wrong := catalogue.problem(words):
        raise UsageError(wrong)
    node, name, success, other, timestamp = words + ["1", "", ""][len(words) - 2 :]
    return Event(int(node), name, success == "1", None if other in ("", "-1") else int(other), timestamp)
