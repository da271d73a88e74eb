"""Looking without an event: who is the primary, and what is not in the desired state."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision, last_known_of
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder, cluster_state
from repmgr_hooks.engine.asking import MOST_STEPS, answer
from repmgr_hooks.engine.dry_run import differences, preview
from repmgr_hooks.engine.elsewhere import works_on
from repmgr_hooks.engine.fencing import fence
from repmgr_hooks.engine.routes import Action, ManagedCluster
from repmgr_hooks.engine.run import ActionResult, place_of
from repmgr_hooks.engine.selection import select
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.handlers import contract
from repmgr_hooks.journal.rows import Place, RunRow
from repmgr_hooks.system import rules
from repmgr_hooks.system.answers import BUSY
from repmgr_hooks.system.layers import AskedOnce
from repmgr_hooks.system.steps import Host
from repmgr_hooks.text import MOST, one_line

log = logging.getLogger(__name__)

UNKNOWN, HOUSE_OF = "while no primary is known", "housekeeping of "
"""Their fingerprints; no action has such a path."""


@dataclass(frozen=True)
class Drift:
    """What a look without an event has found: what is missing in the actions (``found``), and what none can fix.

    ``at``: when the nodes had answered, in seconds since the epoch.
    """

    decision: PrimaryDecision
    at: float
    found: tuple[ActionResult, ...] = ()
    warnings: tuple[Problem, ...] = ()
    at_once: bool = False
    """What a failed run has left is done now, not at its next retry: the gateway's address has come to this host, or
    what could not be looked at can be."""

    open_ports: frozenset[str] = frozenset()
    """The ports that were looked at, and lead where they are to lead."""

    @property
    def pending(self) -> tuple[Problem, ...]:
        """What is missing."""
        return tuple(differences(self.found))

    @property
    def unseen(self) -> frozenset[Place]:
        """The actions of which nobody can see what is missing: Barman does not answer, say."""
        return frozenset(place_of(item.action) for item in self.found if item.problems)

    @property
    def in_desired_state(self) -> bool:
        """True if there is a primary and nothing is missing."""
        return self.decision.primary is not None and not self.pending

    def needs_run(self, failed: RunRow | None) -> bool:
        """True if something is to be done that neither an event has asked for nor the retries of a failed run will do.

        Under another primary than the failed run's, all is to be done.
        """
        return bool(self.pending) and (self.at_once or not (failed and self._left_to(failed)))

    def _left_to(self, failed: RunRow) -> bool:
        same = (self.decision.primary, self.decision.timeline) == (failed.primary, failed.timeline)
        left = {item.place for item in failed.left}
        return same and {place_of(item.action) for item in self.found if differences([item])} <= left


def find_drift(
    managed: ManagedCluster,
    host: Host,
    last_known: LastKnownPrimary,
    fingerprints: dict[str, object],
    closed: Sequence[str] = (),
    show: Callable[[PrimaryDecision], None] = lambda decision: None,
) -> Drift:
    """Look without an event: who is the primary, and what is not in the desired state.

    ``fingerprints`` holds what each handler's ``fingerprint`` was when nothing was missing; it is brought up to date.
    Under a new primary the first difference is enough: what is looked at through a port that still leads to the old one
    may take its time (20 s for ``barman show-server``, when that one was unplugged). ``closed``: the ports that are to
    lead nowhere, for no primary has been known for long. ``show``: what the nodes say is shown before Barman is asked.
    """
    finder = PrimaryFinder(managed.cluster, last_known)
    decision, now = finder.decision(host), clock.wall()
    show(decision)
    if decision.primary is None:
        return Drift(decision, now, tuple(_while_unknown(managed, decision, host, fingerprints, closed)))
    state = cluster_state(decision, finder)
    new = last_known_of(state.states[state.primary]) != last_known
    # A change of anybody's rules makes every cluster look at its own again, for each of its ports.
    once = AskedOnce(host)
    found: list[ActionResult] = []
    led: set[str] = set()
    now_there: dict[str, object] = {}  # a fingerprint depends on no option
    for item in select(managed.routes, []):
        if item.action.on_tick and works_on(item.action, managed.cluster, host):
            if item.action.name not in now_there:
                now_there[item.action.name] = fingerprint_of(item.action, state, once)
            fingerprint = now_there[item.action.name]
            if fingerprint is None or fingerprints.get(item.action.path) != fingerprint:
                seen = preview([item], state, once)
                fingerprints[item.action.path] = None if differences(seen) else fingerprint
                found += seen
                if new and differences(seen):
                    return Drift(decision, now, tuple(found))
                if differences(seen):
                    continue
            led.add(str(getattr(item.action.config, "open", "")))
    kept = housekeep(managed, state, host, now_there, fingerprints)
    said, missing = (*warnings(managed, state, host), *kept), differences(found)
    warned = tuple(problem for problem in said if problem not in missing)
    return Drift(decision, now, tuple(found), warned, open_ports=frozenset(led))


def _while_unknown(
    managed: ManagedCluster,
    decision: PrimaryDecision,
    host: Host,
    fingerprints: dict[str, object],
    closed: Sequence[str],
) -> list[ActionResult]:
    """Look at the rules if they, or who answers, have changed: these looks come ten times a second."""
    generation = None if decision.stale_primaries else rules.generation(managed.cluster, host)
    now_there = generation, [state.reachable for state in decision.states], closed
    if generation is not None and fingerprints.get(UNKNOWN) == now_there:
        return []
    found = fence(managed, decision, host, None, closed)
    fingerprints[UNKNOWN] = None if found else now_there
    return found


def fingerprint_of(action: Action, state: ClusterState, host: Host) -> object:
    """Return what stays the same as long as a look would see the same; None if there is no such thing."""
    try:
        return answer(action, state.cluster, host, partial(action.handler.fingerprint, state, host))
    except OperationFailed as error:
        log.debug("%s: %s", action.title, error)
        return None


def warnings(managed: ManagedCluster, state: ClusterState, host: Host) -> list[Problem]:
    """Return what no step of ours can fix."""
    said: list[Problem] = []
    for action in managed.actions:
        if action.handler.warnings is contract.no_warnings:
            continue
        try:
            said += answer(action, state.cluster, host, partial(_warnings, action, state))
        except OperationFailed as error:
            said.append(Problem.of(error))
    return said


def _warnings(action: Action, state: ClusterState) -> list[Problem]:
    said = islice(action.handler.warnings(action.config, state), MOST_STEPS)
    return [Problem(one_line(w.code), one_line(w.message, MOST), one_line(w.hint, MOST)) for w in said]


def housekeep(
    managed: ManagedCluster,
    state: ClusterState,
    host: Host,
    now_there: Mapping[str, object],
    fingerprints: dict[str, object],
) -> list[Problem]:
    """Do the small work of every look, which is no repair and stands in no journal; return what failed.

    Ours that went well is not done again while the handler's fingerprint (``now_there``) stays the same.
    """
    failed = []
    for action in managed.actions:
        now, known_as = now_there.get(action.name), f"{HOUSE_OF}{action.path}"
        done = action.built_in and now is not None and fingerprints.get(known_as) == now
        if done or action.handler.housekeep is contract.no_housekeeping or not works_on(action, managed.cluster, host):
            continue
        try:
            asked = partial(action.handler.housekeep, action.config, state, host)
            answer(action, state.cluster, host, asked)
            fingerprints[known_as] = now
        except OperationFailed as error:
            fingerprints[known_as] = None
            if error.code != BUSY:  # else it is done at the next look
                failed.append(Problem.of(error))
    return failed
