"""What a run is made of: what is to be done, how it ended, and who listens."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from repmgr_hooks.cluster.decide import LastKnownPrimary, PrimaryDecision
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.engine.routes import Action
from repmgr_hooks.errors import Stopped
from repmgr_hooks.event import Event
from repmgr_hooks.system.steps import Host, Step


@dataclass(frozen=True)
class ScheduledAction:
    """An action, and the newest event that asks for it (None: it is done whatever the events say)."""

    action: Action
    event: Event | None

    @property
    def name(self) -> str:
        """Its name in the journal; that of a notification is its own for each event and place in the routes."""
        if self.action.handler.observe:
            return self.action.title
        return f"{self.action.title} ({self.action.path}) for {self.event}"


@dataclass(frozen=True)
class ActionResult:
    """How one action ended: the steps that were taken (or, in a dry run, would be), and the error, if any."""

    action: Action
    steps: tuple[Step, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class RunResult:
    """The result of a run. ``ok`` is False if something failed or the primary is unknown.

    ``again``: trying once more may help.
    """

    ok: bool
    message: str
    decision: PrimaryDecision | None = None
    done: tuple[ActionResult, ...] = ()
    again: bool = False


LOOK_EVERY = 0.1

Show = Callable[[str, float], AbstractContextManager[None]]


def shown_to_nobody(what: str, seconds: float) -> AbstractContextManager[None]:
    """What is waited for, at most so many seconds, meanwhile."""
    return nullcontext()


class RunObserver:
    """What a run tells while it works, and asks before each step. This one listens to nothing."""

    committed: LastKnownPrimary | None = None
    """What is to be remembered, once the first step is taken."""
    waiting: Show = staticmethod(shown_to_nobody)
    """Shows to somebody who looks on what is waited for."""

    def step(self, action: str, what: str, started: float, duration: float, error: str) -> None:
        """A step has ended; ``started`` in seconds since the epoch, ``duration`` in seconds."""

    def commit(self, memory: LastKnownPrimary) -> None:
        """The first step is about to be taken: from now on this is the primary, whatever becomes of the run."""
        self.committed = memory

    def stopping(self) -> bool:
        """True if the run is to end before its next step."""
        return False

    def done_before(self, chosen: ScheduledAction) -> bool:
        """True for a notification that an earlier attempt has given already."""
        return False


def await_primary(finder: PrimaryFinder, host: Host, observer: RunObserver, *, wait: bool) -> PrimaryDecision:
    """Observe and decide; while there is none out of recovery, again, at most ``promotion_timeout`` seconds."""
    seconds = finder.settings.promotion_timeout if wait else 0
    end = host.now() + seconds
    with observer.waiting("a node that is out of recovery", seconds):
        while True:
            decision = finder.decision(host)
            if decision.primary is not None or decision.stale_primaries or host.now() >= end:
                return decision
            pause(LOOK_EVERY, host, observer)


def pause(seconds: float, host: Host, observer: RunObserver) -> None:
    """Wait a little. Raises Stopped."""
    stop_if_asked(observer)
    host.sleep(seconds)


def stop_if_asked(observer: RunObserver) -> None:
    """Raises Stopped if the run is to end here."""
    if observer.stopping():
        raise Stopped("stopped before the next step; it will be taken up again")
