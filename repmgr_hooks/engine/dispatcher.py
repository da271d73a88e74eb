"""The way of an event: select the routes, observe, decide, plan, apply, observe again.

Dry run, replay, boot and reconcile are this same way; what is done follows from the observed cluster, never from the
event.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from repmgr_hooks.cluster.decide import ClusterState, LastKnownPrimary, PrimaryDecision, ReasonCode, memory_of
from repmgr_hooks.cluster.notice import notice_of
from repmgr_hooks.cluster.primary import PrimaryFinder, cluster_state, contradicting
from repmgr_hooks.engine import simulation
from repmgr_hooks.engine.dry_run import DryRunHost
from repmgr_hooks.engine.executor import answer, carry_out, look
from repmgr_hooks.engine.fencing import fence
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.engine.run import ActionResult, RunObserver, RunResult, ScheduledAction, await_primary
from repmgr_hooks.engine.telling import Telling, with_notices
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event, RoleClaim
from repmgr_hooks.journal.rows import RunRow
from repmgr_hooks.system.steps import Host
from repmgr_hooks.text import MOST, one_line, printable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drift:
    """What a look without an event has found: what is missing in the actions (``found``), and what none can mend.

    ``at``: when the nodes had answered, in seconds since the epoch.
    """

    decision: PrimaryDecision
    at: float
    found: tuple[ActionResult, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """What is missing, in words."""
        return tuple(differences(self.found))

    def known(self, failed: RunRow) -> bool:
        """True if a failed run has left all of that to its retries."""
        same = (self.decision.primary, self.decision.timeline) == (failed.primary, failed.timeline)
        return same and {item.action.title for item in self.found if differences([item])} <= set(failed.left)


def handle(
    managed: ManagedCluster,
    host: Host,
    events: Sequence[Event],
    *,
    everything: bool = False,
    dry_run: bool = False,
    observer: RunObserver | None = None,
    memory: LastKnownPrimary | None = None,
    closed: Sequence[str] = (),
) -> RunResult:
    """Make what the events' routes ask for true; without an event, all that can be looked at; with ``everything`` both.

    ``closed``: the ports that lead nowhere if no primary is known, for none has been for long.

    Raises Stopped if the recorder says so.
    """
    observer = observer or RunObserver()
    started = host.now()
    chosen = select(managed.routes, events, everything)
    if not chosen:
        return told(RunResult(True, f"no route for {', '.join(map(str, events)) or 'anything'}: nothing to do"))
    finder = PrimaryFinder(managed.cluster, memory or LastKnownPrimary())
    notices = [item for item in chosen if item.action.handler.observe is None]
    if dry_run or not notices:
        return _make_true(managed, finder, host, events, chosen, everything, dry_run, observer, started, closed)
    telling, decision = Telling(host, observer), finder.decision(host)
    telling.begin(notices, managed.cluster, decision, finder.memory)
    others = [item for item in chosen if item not in notices]
    if others:
        run = _make_true(managed, finder, host, events, others, everything, dry_run, observer, started, closed)
    else:
        run = RunResult(True, f"no route for {', '.join(map(str, events))} but notifications; {decision}", decision)
    return with_notices(run, telling, finder, host, observer)


def _make_true(
    managed: ManagedCluster,
    finder: PrimaryFinder,
    host: Host,
    events: Sequence[Event],
    chosen: Sequence[ScheduledAction],
    everything: bool,
    dry_run: bool,
    observer: RunObserver,
    started: float,
    closed: Sequence[str],
) -> RunResult:
    decision = await_primary(finder, host, observer, wait=not dry_run and not closed)
    tell(decision)
    if decision.primary is None:
        done = fence(managed, decision, host, None if dry_run else observer, closed)
        changed = summary(done, host.now() - started, dry_run) if differences(done) else "nothing was changed"
        return told(RunResult(False, f"{decision}; {changed}", decision, tuple(done), again=True))
    if untrue := contradicting(events, decision):
        if not everything:
            silent = any(not state.reachable for state in decision.states)
            return told(
                RunResult(False, f"{untrue} contradicts the cluster: {decision}; nothing was changed", again=silent)
            )
        believed = [event for event in events if event.meaning is not RoleClaim.PRIMARY]
        wanted = select(managed.routes, believed, everything)
        chosen = [item for item in wanted if dry_run or item.action.handler.observe]
    decided = cluster_state(decision, finder)
    chosen = [item for item in chosen if item.action.when.applies(notice_of(replace(decided, event=item.event)))]
    done = dry_run_steps(chosen, decided, host) if dry_run else carry_out(chosen, decided, host, started, observer)
    failed = any(item.error for item in done)
    message = f"{summary(done, host.now() - started, dry_run)}; {decision}"
    return told(RunResult(not failed, message, decision, tuple(done), again=failed))


def rehearse(managed: ManagedCluster, host: Host, promotion: Event, memory: LastKnownPrimary) -> RunResult:
    """Return what the promotion of a standby would make us do now, and change nothing. Raises UsageError."""
    started, node = host.now(), promotion.node
    decision = PrimaryFinder(managed.cluster, memory).decision(host)
    tell(decision)
    decided = simulation.assume(decision, node, managed.cluster)
    done = dry_run_steps(select(managed.routes, [promotion], True), decided, host)
    obstacles = list(simulation.obstacles(decision, node, managed.cluster, host))
    for obstacle in obstacles:
        log.warning("%s", obstacle)
    good = not obstacles and not any(item.error for item in done)
    hindered = f"; {len(obstacles)} blocking problem(s)" if obstacles else ""
    assumed = f"as if node {node} were promoted now, to timeline {decided.timeline}"
    message = f"{summary(done, host.now() - started, True)}, {assumed}{hindered}"
    return told(RunResult(good, message, decision, tuple(done)))


def drift(
    managed: ManagedCluster,
    host: Host,
    memory: LastKnownPrimary,
    fingerprints: dict[str, object],
    closed: Sequence[str] = (),
) -> Drift:
    """Look without an event: who is the primary, and what is not as it should be.

    ``fingerprints`` holds what each handler's ``fingerprint`` was when all was as it should be; it is brought up to
    date. Under a new primary the first difference is enough: what is looked at through a port that still leads to the
    old one may take its time (20 s for ``barman show-server``, when that one was unplugged).
    """
    finder = PrimaryFinder(managed.cluster, memory)
    decision, now = finder.decision(host), time.time()
    if decision.primary is None:
        return Drift(decision, now, tuple(fence(managed, decision, host, None, closed)))
    decided = cluster_state(decision, finder)
    new = memory_of(decided.states[decided.primary]) != memory
    found: list[ActionResult] = []
    for item in select(managed.routes, []):
        if item.action.on_tick:
            fingerprint = _fingerprint(item.action, decided, host)
            if fingerprint is None or fingerprints.get(item.action.path) != fingerprint:
                seen = preview([item], decided, host)
                fingerprints[item.action.path] = None if differences(seen) else fingerprint
                found += seen
                if new and differences(seen):
                    return Drift(decision, now, tuple(found))
    said, missing = (*warnings(managed, decided, host), *housekeep(managed, decided, host)), differences(found)
    return Drift(decision, now, tuple(found), tuple(text for text in said if text not in missing))


def _fingerprint(action: Action, decided: ClusterState, host: Host) -> object:
    try:
        return answer(action, decided.cluster, host, partial(action.handler.fingerprint, decided, host))
    except OperationFailed as error:
        log.debug("%s: %s", action.title, error)
        return None


def warnings(managed: ManagedCluster, decided: ClusterState, host: Host) -> list[str]:
    """Return what no step of ours can mend."""
    said: list[str] = []
    for action in managed.actions:
        try:
            said += answer(action, decided.cluster, host, partial(_warnings, action, decided))
        except OperationFailed as error:
            said.append(str(error))
    return said


def _warnings(action: Action, decided: ClusterState) -> list[str]:
    return [one_line(text, MOST) for text in action.handler.warnings(action.config, decided)]


def housekeep(managed: ManagedCluster, decided: ClusterState, host: Host) -> list[str]:
    """Do the small work of every look, which is no repair and stands in no journal; return what failed."""
    failed = []
    for action in managed.actions:
        try:
            asked = partial(action.handler.housekeep, action.config, decided, host)
            answer(action, decided.cluster, host, asked)
        except OperationFailed as error:
            failed.append(str(error))
    return failed


def differences(done: Sequence[ActionResult]) -> list[str]:
    """Return in words what a preview has found missing."""
    return [text for item in done for text in ([item.error] if item.error else [step.what for step in item.steps])]


def tell(decision: PrimaryDecision) -> None:
    """Log what the nodes said, and what follows from it."""
    for line in (*decision.states, *(note for note in decision.notes if note.why is not ReasonCode.SILENT), decision):
        log.info("%s", line)


def told(run: RunResult) -> RunResult:
    """Log how a run ended."""
    log.log(logging.INFO if run.ok else logging.ERROR, "%s", run.message)
    return run


def select(routes: Sequence[Route], events: Sequence[Event], everything: bool = False) -> list[ScheduledAction]:
    """Return the actions for the events; without one, all that have something to look at; with ``everything`` both."""
    asked = ((route, [event for event in events if event.name in route.on]) for route in routes)
    return [
        chosen
        for route, matching in asked
        for action in route.do
        for chosen in _for_each(action, matching, everything or not events)
    ]


def _for_each(action: Action, events: list[Event], everything: bool) -> list[ScheduledAction]:
    """What has a state is made true once, for the newest event; a notification is given for every node and event."""
    events = [event for event in events if action.when.meant(event)]
    everything = everything and not action.when.needs_event
    if action.handler.observe:
        return [ScheduledAction(action, event) for event in events[-1:]] or (
            [ScheduledAction(action, None)] if everything else []
        )
    return [ScheduledAction(action, event) for event in {(event.name, event.node): event for event in events}.values()]


def preview(chosen: Sequence[ScheduledAction], decided: ClusterState, host: Host) -> list[ActionResult]:
    """Return the steps that each action lacks now, and change nothing."""
    done = []
    for item in chosen:
        try:
            missing = look(item.action, replace(decided, event=item.event), host)
            done.append(ActionResult(item.action, tuple(missing)))
        except OperationFailed as error:
            done.append(ActionResult(item.action, error=str(error)))
    return done


def dry_run_steps(chosen: Sequence[ScheduledAction], decided: ClusterState, host: Host) -> list[ActionResult]:
    """Return the steps that would be taken now, one action after the other, and change nothing."""
    imagined, done = DryRunHost(host), list[ActionResult]()
    for item in chosen:
        done += preview([item], decided, imagined.as_world())
        imagined.imagine(done[-1].steps)
    return done


def summary(done: Sequence[ActionResult], seconds: float, dry_run: bool) -> str:
    """One line that says how a run ended."""
    failed = [item for item in done if item.error]
    taken = sum(len(item.steps) for item in done)
    if failed:
        said = "; ".join(f"{item.action.title}: {item.error}" for item in failed)
        return printable(f"FAILED after {seconds:.1f} s: {said}", 2 * MOST)
    if not taken:
        return f"nothing to do: in the desired state ({seconds:.1f} s)"
    return f"{'would take' if dry_run else 'done:'} {taken} step(s), {seconds:.1f} s"
