"""Who is the primary now? Looks and decides, with what is remembered; waits while there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from repmgr_hooks.cluster.decide import Decided, Memory, Verdict, decide
from repmgr_hooks.cluster.observe import observe
from repmgr_hooks.engine.run import Recorder, pause
from repmgr_hooks.errors import PrimaryChanged, StepFailed
from repmgr_hooks.event import Event, Meaning
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import World

LOOK_EVERY = 0.1


@dataclass(frozen=True)
class Judge:
    """Decides for one cluster, with what is remembered of it."""

    settings: Cluster
    memory: Memory

    def verdict(self, world: World) -> Verdict:
        """Observe the nodes and decide."""
        expected = self.settings.system_identifier or self.memory.system_identifier
        known = replace(self.memory, system_identifier=expected)
        return decide(observe(self.settings, world), known, self.settings.role_changes.most)


def judge_of(settings: Cluster, journal: Journal | None) -> Judge:
    """Return the judge of a cluster, with what the journal remembers of it. Raises StepFailed."""
    return Judge(settings, journal.memory(settings.name, settings.role_changes.within) if journal else Memory())


def find_primary(judge: Judge, world: World, recorder: Recorder, *, wait: bool) -> Verdict:
    """Observe and decide; while there is none out of recovery, again, at most ``primary_wait`` seconds."""
    seconds = judge.settings.primary_wait if wait else 0
    end = world.now() + seconds
    with recorder.waiting("a node that is out of recovery", seconds):
        while True:
            verdict = judge.verdict(world)
            if verdict.primary is not None or verdict.zombies or world.now() >= end:
                return verdict
            pause(LOOK_EVERY, world, recorder)


def contradicting(events: Sequence[Event], verdict: Verdict) -> Event | None:
    """Return the last event that claims a primary, if the cluster has none that any of the events names."""
    claims = [event for event in events if event.meaning is Meaning.PRIMARY]
    return claims[-1] if claims and all(event.node != verdict.primary for event in claims) else None


def confirmed(decided: Decided, world: World) -> Decided:
    """Look at the nodes again, and return the same primary with what they say now.

    Raises PrimaryChanged, or StepFailed if the primary is silent.
    """
    verdict = Judge(decided.cluster, decided.memory).verdict(world)
    states = {state.node: state for state in verdict.states}
    if not states[decided.primary].reachable and verdict.primary is None:
        raise StepFailed(f"the primary does not answer ({states[decided.primary]})")
    if (verdict.primary, verdict.timeline) != (decided.primary, decided.timeline):
        seen = "; ".join(str(state) for state in verdict.states)
        raise PrimaryChanged(f"the primary has changed meanwhile ({seen}); nothing more is done")
    return replace(decided, states=states)


def decided_from(verdict: Verdict, judge: Judge) -> Decided:
    """Return a verdict with a primary in the form that handlers get."""
    assert verdict.primary is not None
    states = {state.node: state for state in verdict.states}
    return Decided(judge.settings, verdict.primary, verdict.timeline, states, memory=judge.memory)
