"""What is to be done about a former primary now: a function of what the nodes say and of what is written down. Pure.

Nothing is done unless a primary is verified: it was made by repmgr, routes follow it, and no node knows a newer
timeline. Nothing is ever done to that node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum

from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.former_primary.on_node import Ended
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.former_primary.scripts import Refused
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.former_primary import FormerPrimary

RETRY_AFTER = 60.0
"""Seconds from what has failed until the next try: a node needs a while to start, and to be asked."""


class Do(Enum):
    """What may be done about a node."""

    ASK = "ask how far it is"
    FENCE = "stop"
    REJOIN = "rejoin"
    CLONE = "clone"
    STAY = "leave stopped"
    END = "do no more about"
    FORGET = "forget"


@dataclass(frozen=True)
class Deed:
    """Something to do about a former primary."""

    do: Do
    former: Former

    @property
    def changes_the_node(self) -> bool:
        """Whether the node is not what it was afterwards: then all is looked at once more before."""
        return self.do in (Do.FENCE, Do.REJOIN, Do.CLONE)


def verified_primary(decision: PrimaryDecision, last_known: LastKnownPrimary) -> NodeState | None:
    """Return the primary, if nothing at all speaks against it."""
    primary = decision.primary_state
    if primary is None or not primary.made_by_repmgr:
        return None
    if (last_known.primary, last_known.timeline) != (primary.node, primary.timeline):
        return None  # routes do not follow it yet
    others = [state for state in decision.states if state.reachable and not state.witness and state is not primary]
    newer = any(state.timeline > primary.timeline for state in others)
    twin = any(state.is_primary and state.timeline == primary.timeline for state in others)
    return None if newer or twin else primary


def certainly_stale(decision: PrimaryDecision, last_known: LastKnownPrimary) -> tuple[NodeState, ...]:
    """Return the nodes that may be stopped: out of recovery on an older timeline than the verified primary."""
    primary = verified_primary(decision, last_known)
    if primary is None:
        return ()
    return tuple(
        state
        for state in decision.states
        if state.node in decision.stale_primaries
        and state.is_primary
        and state.node not in last_known.promoted
        and state.timeline < primary.timeline
        and state.system_identifier == primary.system_identifier
    )


def plan(
    cluster: Cluster,
    settings: FormerPrimary,
    decision: PrimaryDecision,
    last_known: LastKnownPrimary,
    formers: Mapping[int, Former],
    now: float,
) -> list[Deed]:
    """Return what is to be done, for each former primary one thing at most; ``now`` in seconds since the epoch."""
    primary, stale = verified_primary(decision, last_known), certainly_stale(decision, last_known)
    found = [*_running(stale, primary, formers, now)]
    for node, former in sorted(formers.items()):
        state = next((state for state in decision.states if state.node == node), None)
        if node not in {deed.former.node for deed in found}:
            found += _known(cluster, settings, former, state, primary, now)
    return found


def _running(
    stale: tuple[NodeState, ...], primary: NodeState | None, formers: Mapping[int, Former], now: float
) -> Iterator[Deed]:
    """One that is found running is stopped, however often: somebody has started it, or its host has."""
    for state in stale:
        known = formers.get(state.node)
        if known and known.job or primary is None:
            continue
        if known and known.phase == "fence" and known.problem and 0 <= now - known.begun < RETRY_AFTER:
            continue  # it could not be stopped just now
        attempts = known.attempts if known else ()
        former = Former(
            state.node, state.system_identifier, state.timeline, primary.node, since=now, begun=now, attempts=attempts
        )
        yield Deed(Do.FENCE, former)


def _known(
    cluster: Cluster,
    settings: FormerPrimary,
    former: Former,
    state: NodeState | None,
    primary: NodeState | None,
    now: float,
) -> Iterator[Deed]:
    if former.node not in cluster.nodes:
        yield Deed(Do.FORGET, former)
    elif former.phase == "done":
        if not former.recent(settings.limit.window, now):
            yield Deed(Do.FORGET, former)
    elif former.job:
        yield Deed(Do.ASK, former)
    elif state is not None and state.reachable:
        # A standby again, by us or by somebody; or a primary that is not stale. Else it is not stale for certain.
        if state.in_recovery or state.timeline != former.timeline or (primary and primary.node == former.node):
            yield Deed(Do.END, former)
    elif primary and _may_rejoin(former, primary):
        deed = _next(settings, former, now)
        at_once = not former.problem or (deed.do is Do.CLONE and former.phase == "rejoin")
        if at_once or not 0 <= now - former.begun < RETRY_AFTER:
            yield deed


def _may_rejoin(former: Former, primary: NodeState) -> bool:
    newer = primary.timeline > former.timeline and primary.system_identifier == former.system_identifier
    return newer and primary.node != former.node


def _next(settings: FormerPrimary, former: Former, now: float) -> Deed:
    if not former.stopped:  # it was about to be stopped, and whether it is, its host must say
        return Deed(Do.FENCE, former)
    if not settings.rejoin or former.gave_up(settings, now):
        return Deed(Do.STAY, former)
    return Deed(Do.CLONE if former.rewound and settings.clone != "never" else Do.REJOIN, former)


def after_job(former: Former, ended: Ended, now: float) -> Former:
    """Return it after a job has ended; until it is seen to be a standby, nothing else is done for a while. Pure."""
    if ended.good:
        return replace(former, job="", phase="fenced", begun=now, problem="it was started, and does not answer yet")
    attempts = former.attempts[:-1] if ended.code in (Refused.BUSY, Refused.EARLY) else former.attempts
    after = replace(former, job="", begun=now, problem=ended.why, hint=ended.hint, attempts=attempts)
    if ended.untouched:
        return replace(after, phase="fenced")
    # Its host may have been restarted, and be about to start a standby that is whole: that is waited for.
    return replace(after, rewound=True, phase="fenced" if ended.code is None else former.phase)
