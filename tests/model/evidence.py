"""What repmgr has said, and what can be known from it: judged by when things really happened, not by any clock.

An event proves that repmgr made a node the primary for as long as the primary stays that was remembered when repmgr
called: such a time is an era here. Whoever takes an event in late has only clocks to tell whether it is of this era.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.event import Event, RoleClaim


@dataclass
class Moment:
    """When something happened: in which era, how often the clock had been set back by then, and what it showed."""

    era: int
    set_back: int
    clock: float


@dataclass
class Call:
    """A call of the hook. ``stamp``: the time that its file bears; not ``honest``: somebody else wrote that."""

    event: Event
    called: Moment
    stamp: float
    honest: bool = True
    taken: Moment | None = None


@dataclass
class Evidence:
    """Every call that was taken in, in that order, and the era."""

    clock: Callable[[], float]
    set_backs: int = 0
    remembered: LastKnownPrimary = LastKnownPrimary()
    taken: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.found = Moment(0, 0, self.clock())

    def now(self) -> Moment:
        return Moment(self.found.era, self.set_backs, self.clock())

    def state(self, last_known: LastKnownPrimary) -> None:
        """The worker writes down which node is the primary; if that is a change, an era ends."""
        if last_known != self.remembered:
            self.remembered = last_known
            self.found = Moment(self.found.era + 1, self.set_backs, self.clock())

    def take(self, call: Call) -> None:
        """The worker takes a call in; the same one again is nothing new."""
        if call.taken is None:
            call.taken = self.now()
            self.taken.append(call)

    def promoted(self) -> set[int]:
        """The nodes that repmgr has certainly called the primary in this era, and not perhaps a standby afterwards."""
        return self._standing(self._certain, self._possible)

    def perhaps_promoted(self) -> set[int]:
        """Those, and the nodes of which nobody can tell whether it did so in this era."""
        return self._standing(self._possible, self._certain)

    def _standing(self, claimed: Callable[[Call], bool], denied: Callable[[Call], bool]) -> set[int]:
        stream_state: set[int] = set()
        for call in self.taken:
            if call.taken and call.taken.era == self.found.era:
                if call.event.meaning is RoleClaim.PRIMARY and claimed(call):
                    stream_state.add(call.event.node)
                if call.event.meaning is RoleClaim.STANDBY and denied(call):
                    stream_state.discard(call.event.node)
        return stream_state

    def _certain(self, call: Call) -> bool:
        """True if it is of this era, and the clock shows it, or shows that no clock can tell."""
        assert call.taken
        untouched = call.taken.set_back == self.found.set_back
        return self._of_now(call) and call.honest and (untouched or call.taken.clock < self.found.clock)

    def _possible(self, call: Call) -> bool:
        """True if it is of this era, or the clock, or the time that somebody else wrote, may deceive about that."""
        assert call.taken
        return not call.honest or call.called.set_back < call.taken.set_back or self._of_now(call)

    def _of_now(self, call: Call) -> bool:
        return call.called.era == self.found.era
