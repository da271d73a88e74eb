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

from repmgr_hooks import rehearsal
from repmgr_hooks.carry_out import answer, carry_out, look, take
from repmgr_hooks.decide import Decided, Memory, Verdict, Why, memory_of
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.event import Event, Meaning
from repmgr_hooks.imagined import Imagined
from repmgr_hooks.judge import Judge, contradicting, decided_from, find_primary
from repmgr_hooks.records import RunRow
from repmgr_hooks.routes import Action, Managed, Route
from repmgr_hooks.run import Chosen, Done, Recorder, Run
from repmgr_hooks.steps import Step, World

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Drift:
    """What a look without an event has found: what is missing in the actions (``found``), and what none can mend.

    ``at``: when the nodes had answered, in seconds since the epoch.
    """

    verdict: Verdict
    at: float
    found: tuple[Done, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def missing(self) -> tuple[str, ...]:
        """What is missing, in words."""
        return tuple(differences(self.found))

    def known(self, failed: RunRow) -> bool:
        """True if a failed run has left all of that to its retries."""
        same = (self.verdict.primary, self.verdict.timeline) == (failed.primary, failed.timeline)
        return same and {item.action.title for item in self.found if differences([item])} <= set(failed.left)


def handle(
    managed: Managed,
    world: World,
    events: Sequence[Event],
    *,
    everything: bool = False,
    dry_run: bool = False,
    recorder: Recorder | None = None,
    memory: Memory | None = None,
) -> Run:
    """Make what the events' routes ask for true; without an event, all that can be looked at; with ``everything`` both.

    Raises Stopped if the recorder says so.
    """
    recorder = recorder or Recorder()
    started = world.now()
    chosen = select(managed.routes, events, everything)
    if not chosen:
        return told(Run(True, f"no route for {', '.join(map(str, events)) or 'anything'}: nothing to do"))
    judge = Judge(managed.cluster, memory or Memory())
    verdict = find_primary(judge, world, recorder, wait=not dry_run)
    tell(verdict)
    if verdict.primary is None:
        done = shut_out(managed, verdict, world, None if dry_run else recorder)
        changed = summary(done, world.now() - started, dry_run) if differences(done) else "nothing was changed"
        return told(Run(False, f"{verdict}; {changed}", verdict, tuple(done), again=True))
    if untrue := contradicting(events, verdict):
        if not everything:
            silent = any(not state.reachable for state in verdict.states)
            return told(Run(False, f"{untrue} contradicts the cluster: {verdict}; nothing was changed", again=silent))
        believed = [event for event in events if event.meaning is not Meaning.PRIMARY]
        chosen = select(managed.routes, believed, everything)
    decided = decided_from(verdict, judge)
    done = foresee(chosen, decided, world) if dry_run else carry_out(chosen, decided, world, started, recorder)
    failed = any(item.error for item in done)
    message = f"{summary(done, world.now() - started, dry_run)}; {verdict}"
    return told(Run(not failed, message, verdict, tuple(done), again=failed))


def rehearse(managed: Managed, world: World, promotion: Event, memory: Memory) -> Run:
    """Return what the promotion of a standby would make us do now, and change nothing. Raises BadInput."""
    started, node = world.now(), promotion.node
    verdict = Judge(managed.cluster, memory).verdict(world)
    tell(verdict)
    decided = rehearsal.assume(verdict, node, managed.cluster)
    done = foresee(select(managed.routes, [promotion], True), decided, world)
    obstacles = list(rehearsal.obstacles(verdict, node, managed.cluster, world))
    for obstacle in obstacles:
        log.warning("%s", obstacle)
    good = not obstacles and not any(item.error for item in done)
    hindered = f"; {len(obstacles)} thing(s) stand in the way" if obstacles else ""
    assumed = f"as if node {node} were promoted now, to timeline {decided.timeline}"
    message = f"{summary(done, world.now() - started, True)}, {assumed}{hindered}"
    return told(Run(good, message, verdict, tuple(done)))


def drift(managed: Managed, world: World, memory: Memory, marks: dict[str, object]) -> Drift:
    """Look without an event: who is the primary, and what is not as it should be.

    ``marks`` holds what each handler's ``mark`` said when all was as it should be; it is brought up to date. Under a
    new primary the first difference is enough: what is looked at through a port that still leads to the old one may
    take its time (20 s for ``barman show-server``, when that one was unplugged).
    """
    judge = Judge(managed.cluster, memory)
    verdict, now = judge.verdict(world), time.time()
    if verdict.primary is None:
        return Drift(verdict, now, tuple(shut_out(managed, verdict, world, None)))
    decided = decided_from(verdict, judge)
    new = memory_of(decided.states[decided.primary]) != memory
    found: list[Done] = []
    for item in select(managed.routes, []):
        if item.action.on_tick:
            mark = _mark(item.action, decided, world)
            if mark is None or marks.get(item.action.path) != mark:
                seen = preview([item], decided, world)
                marks[item.action.path] = None if differences(seen) else mark
                found += seen
                if new and differences(seen):
                    return Drift(verdict, now, tuple(found))
    said, missing = (*warnings(managed, decided, world), *tend(managed, decided, world)), differences(found)
    return Drift(verdict, now, tuple(found), tuple(text for text in said if text not in missing))


def _mark(action: Action, decided: Decided, world: World) -> object:
    try:
        return answer(action, decided.cluster, world, partial(action.mark, decided, world))
    except StepFailed as error:
        log.debug("%s: %s", action.title, error)
        return None


def warnings(managed: Managed, decided: Decided, world: World) -> list[str]:
    """Return what no step of ours can mend."""
    said: list[str] = []
    for action in managed.actions:
        try:
            said += answer(action, decided.cluster, world, partial(action.warnings, decided))
        except StepFailed as error:
            said.append(str(error))
    return said


def tend(managed: Managed, decided: Decided, world: World) -> list[str]:
    """Do the small work of every look, which is no repair and stands in no journal; return what failed."""
    failed = []
    for action in managed.actions:
        try:
            answer(action, decided.cluster, world, partial(action.tend, decided, world))
        except StepFailed as error:
            failed.append(str(error))
    return failed


def differences(done: Sequence[Done]) -> list[str]:
    """Return in words what a preview has found missing."""
    return [text for item in done for text in ([item.error] if item.error else [step.what for step in item.steps])]


def tell(verdict: Verdict) -> None:
    """Log what the nodes said, and what follows from it."""
    for line in (*verdict.states, *(note for note in verdict.notes if note.why is not Why.SILENT), verdict):
        log.info("%s", line)


def told(run: Run) -> Run:
    """Log how a run ended."""
    log.log(logging.INFO if run.ok else logging.ERROR, "%s", run.message)
    return run


def select(routes: Sequence[Route], events: Sequence[Event], everything: bool = False) -> list[Chosen]:
    """Return the actions for the events; without one, all that have something to look at; with ``everything`` both."""
    asked = ((route, [event for event in events if event.name in route.on]) for route in routes)
    return [
        chosen
        for route, matching in asked
        for action in route.do
        for chosen in _for_each(action, matching, everything or not events)
    ]


def _for_each(action: Action, events: list[Event], everything: bool) -> list[Chosen]:
    """What has a state is made true once, for the newest event; a notification is given for every node and event."""
    if action.handler.observe:
        return [Chosen(action, event) for event in events[-1:]] or ([Chosen(action, None)] if everything else [])
    return [Chosen(action, event) for event in {(event.name, event.node): event for event in events}.values()]


def shut_out(managed: Managed, verdict: Verdict, world: World, recorder: Recorder | None) -> list[Done]:
    """While the primary is unknown: let nothing lead to a zombie. Without a recorder, only say what is missing."""
    done = []
    actions = {action.name: action for action in managed.actions if action.shut_out}
    for action in actions.values() if verdict.zombies else ():
        assert action.shut_out is not None
        missing: Sequence[Step] = []
        error = ""
        try:
            asked = partial(action.shut_out, managed.cluster, verdict.zombies, world)
            missing = answer(action, managed.cluster, world, asked)
            if recorder:
                for step in missing:
                    take(step, Chosen(action, None), world, recorder)
        except StepFailed as failure:
            error = str(failure)
        done.append(Done(action, tuple(missing), error))
    return done


def preview(chosen: Sequence[Chosen], decided: Decided, world: World) -> list[Done]:
    """Return the steps that each action lacks now, and change nothing."""
    done = []
    for item in chosen:
        try:
            missing = look(item.action, replace(decided, event=item.event), world)
            done.append(Done(item.action, tuple(missing)))
        except StepFailed as error:
            done.append(Done(item.action, error=str(error)))
    return done


def foresee(chosen: Sequence[Chosen], decided: Decided, world: World) -> list[Done]:
    """Return the steps that would be taken now, one action after the other, and change nothing."""
    imagined, done = Imagined(world), list[Done]()
    for item in chosen:
        done += preview([item], decided, imagined.as_world())
        imagined.imagine(done[-1].steps)
    return done


def summary(done: Sequence[Done], seconds: float, dry_run: bool) -> str:
    """One line that says how a run ended."""
    failed = [item for item in done if item.error]
    taken = sum(len(item.steps) for item in done)
    if failed:
        return f"FAILED after {seconds:.1f} s: " + "; ".join(f"{item.action.title}: {item.error}" for item in failed)
    if not taken:
        return f"nothing to do: all is as it should be ({seconds:.1f} s)"
    return f"{'would take' if dry_run else 'done:'} {taken} step(s), {seconds:.1f} s"
