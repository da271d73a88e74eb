"""What a run consists of: what is to be done, how it ended, and who observes it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision, last_known_of
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.cluster.reasons import ReasonCode
from repmgr_hooks.engine.routes import Action
from repmgr_hooks.errors import Problem, Stopped
from repmgr_hooks.event import Event
from repmgr_hooks.journal.rows import Place
from repmgr_hooks.log import hint
from repmgr_hooks.system.steps import Host, Step
from repmgr_hooks.text import MOST, printable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScheduledAction:
    """An action, and the newest event that asks for it (None: it is done whatever the events say)."""

    action: Action
    event: Event | None
    again: bool = False
    """Whether it is done before its turn, too, and nothing waits for it then."""

    @property
    def place(self) -> Place:
        """What it is to the journal: a notification is one of its own for each event."""
        return place_of(self.action, None if self.action.handler.observe else self.event)


def place_of(action: Action, event: Event | None = None) -> Place:
    """Return what an action is to the journal."""
    return Place(action.path, action.title, event.name if event else "", event.node if event else None)


@dataclass(frozen=True)
class ActionResult:
    """How one action ended: the steps that were taken (or, in a dry run, would be), and what went wrong."""

    action: Action
    steps: tuple[Step, ...] = ()
    problems: tuple[Problem, ...] = ()
    event: Event | None = None
    """What a notification tells of."""

    @property
    def place(self) -> Place:
        """What it is to the journal."""
        return place_of(self.action, self.event)

    @property
    def failure(self) -> str:
        """The action, the event that a notification is for, and what went wrong."""
        about = f" for {self.event}" if self.event else ""
        return f"{self.action.title}{about}: {self.error}"

    @property
    def error(self) -> str:
        """What went wrong, in words; empty if nothing did."""
        return "; ".join(map(str, self.problems))

    @property
    def hints(self) -> list[str]:
        """What to do about it."""
        return [problem.hint for problem in self.problems if problem.hint]


@dataclass(frozen=True)
class RunResult:
    """The result of a run. ``ok`` is False if something failed or the primary is unknown.

    ``again``: trying once more may help. ``problem``: what went wrong first.
    """

    ok: bool
    message: str
    decision: PrimaryDecision | None = None
    done: tuple[ActionResult, ...] = ()
    again: bool = False
    problem: Problem | None = None


LOOK_EVERY = 0.1

Show = Callable[[str, float], AbstractContextManager[None]]


def shown_to_nobody(what: str, seconds: float) -> AbstractContextManager[None]:
    """What is waited for, at most so many seconds, meanwhile."""
    return nullcontext()


class RunObserver:
    """What a run tells while it works, and asks before each step.

    ``waiting`` shows to somebody who looks on what is waited for; ``stopping`` is asked whether the run is to end
    before its next step.
    """

    def __init__(self, waiting: Show = shown_to_nobody, stopping: Callable[[], bool] = lambda: False) -> None:
        self.waiting, self.stopping = waiting, stopping
        self.committed: LastKnownPrimary | None = None
        """What is to be remembered, once the first step is taken."""

    def step(
        self, chosen: ScheduledAction, step: Step, started: float, duration: float, problem: Problem | None
    ) -> None:
        """A step has ended; ``started`` in seconds since the epoch, ``duration`` in seconds."""

    def looked(self, decision: PrimaryDecision) -> None:
        """The nodes have been asked, at the run's beginning: this is the primary, or none is known."""

    def commit(self, last_known: LastKnownPrimary) -> None:
        """The first step is about to be taken: from now on this is the primary, whatever becomes of the run."""
        self.committed = last_known

    def done_before(self, chosen: ScheduledAction) -> bool:
        """True for a notification that an earlier attempt has given already."""
        return False


class Opened(NamedTuple):
    """The ports that have led to a primary since it is the primary."""

    primary: LastKnownPrimary | None = None
    ports: frozenset[str] = frozenset()

    def and_now(self, primary: NodeState, ports: Collection[str]) -> Opened:
        """Return the same with those that lead to the primary now."""
        known = last_known_of(primary)
        return Opened(known, frozenset(ports) | (self.ports if known == self.primary else frozenset()))

    def again(self, scheduled: Sequence[ScheduledAction], state: ClusterState) -> list[ScheduledAction]:
        """Return the actions that open such a port, to be done first once more: somebody has flushed the rules, say,
        and what a new primary must have before the applications are let in is no reason to keep them out of this one.
        """
        ports = self.ports if last_known_of(state.states[state.primary]) == self.primary else ()
        opening = [item for item in scheduled if getattr(item.action.config, "open", None) in ports]
        return [replace(item, again=True) for item in opening if not item.action.helper]


NOTHING_OPENED = Opened()


def observe_and_decide(
    finder: PrimaryFinder, host: Host, observer: RunObserver, *, wait: bool, first: Callable[[PrimaryDecision], None]
) -> PrimaryDecision:
    """Observe and decide; while there is none out of recovery, again, at most ``promotion_timeout`` seconds.

    ``first``: what is done before that, once.
    """
    seconds = finder.settings.promotion_timeout if wait else 0
    end = host.now() + seconds
    with observer.waiting("a node that is out of recovery", seconds):
        while True:
            decision = finder.decision(host)
            observer.looked(decision)
            if decision.primary is not None or decision.stale_primaries or host.now() >= end:
                return decision
            first(decision)
            first = _nothing
            pause(LOOK_EVERY, host, observer)


def _nothing(decision: PrimaryDecision) -> None:
    pass


def pause(seconds: float, host: Host, observer: RunObserver) -> None:
    """Wait a little. Raises Stopped."""
    stop_if_asked(observer)
    host.sleep(seconds)


def stop_if_asked(observer: RunObserver) -> None:
    """Raises Stopped if the run is to end here."""
    if observer.stopping():
        raise Stopped("stopped before the next step; it will be taken up again")


def log_decision(decision: PrimaryDecision) -> None:
    """Log what the nodes said, and what follows from it."""
    for state in decision.states:
        log.info("%s", state)
    for note in decision.notes:
        if note.code not in (ReasonCode.SILENT, ReasonCode.REJECTS):
            log.info("%s", note)
    log.info("%s", str(decision))  # its hint comes with the result


def log_result(run: RunResult) -> RunResult:
    """Log how a run ended."""
    hints = hint(run.problem.hint) if run.problem else {}
    log.log(logging.INFO if run.ok else logging.ERROR, "%s", run.message, extra=hints)
    return run


def summary(done: Sequence[ActionResult], seconds: float, dry_run: bool) -> str:
    """One line that says how a run ended."""
    failed = [item for item in done if item.error]
    taken = sum(len(item.steps) for item in done)
    if failed:
        said = "; ".join(item.failure for item in failed)
        return printable(f"FAILED after {seconds:.1f} s: {said}", 2 * MOST)
    if not taken:
        return f"nothing to do: in the desired state ({seconds:.1f} s)"
    return f"{'would take' if dry_run else 'done:'} {taken} step(s), {seconds:.1f} s"
