"""Which alerts a cluster calls for: a pure function of what was seen of it last and of its last run."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Protocol

from repmgr_hooks.barman.wal_continuity import tells_of_hole
from repmgr_hooks.cluster.decide import PrimaryDecision, Reason, ReasonCode
from repmgr_hooks.cluster.probe import Probe, ProbeCode, merged
from repmgr_hooks.cluster.readiness import Obstacle
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.journal.rows import RunRow
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.alert import Alert

UNSERVED_FOR = 15.0
"""Seconds for which, and probes in a row in which, a client must have been unable to write; one alone is no alert."""
UNSERVED_TIMES = 2


class Unserved(Protocol):
    """A port through which a client could not write when it was tried last; see ``service/prober.py``."""

    @property
    def probe(self) -> Probe: ...

    @property
    def since(self) -> float: ...

    @property
    def times(self) -> int: ...


def overdue(managed: ManagedCluster, unserved: Sequence[Unserved], known_since: float, now: float) -> list[Probe]:
    """Return what a client has missed for too long under the primary of now.

    While there is none, that is what is told; and a closed port has the time that its route gives it.
    """
    late = []
    for item in unserved:
        closed = item.probe.code is ProbeCode.CLOSED
        patience = UNSERVED_FOR + (managed.opens_within(item.probe.port) if closed else 0.0)
        if item.times >= UNSERVED_TIMES and now - max(item.since, known_since) >= patience:
            late.append(item.probe)
    return late


def conditions(
    managed: ManagedCluster,
    decision: PrimaryDecision,
    warnings: Sequence[str],
    failed: RunRow | None,
    attempts: int,
    unserved: Sequence[Probe] = (),
    obstacles: Sequence[Obstacle] = (),
) -> list[Alert]:
    """Return the alerts, one for each condition.

    ``failed``: the last run, if it failed and could be tried again, at most ``attempts`` times. ``unserved``: what
    clients cannot do. ``obstacles``: what stands against a failover.
    """
    cluster = managed.cluster
    rejoin = [note for note in decision.notes if note.why in (ReasonCode.STALE_PRIMARY, ReasonCode.BESIDE)]
    found = [_stale_primary(cluster, decision, note) for note in rejoin[:1]]
    if decision.primary is None:
        found.append(_unknown(cluster, decision))
    elif unserved:
        first, *_ = said = merged(unserved)
        found.append(Alert(cluster.name, "client", "critical", str(first), "\n".join(map(str, said)), first.hint))
    # A run in which no action failed found no primary, or was cut off.
    if failed and failed.left:
        found += _of_run(managed, failed, attempts)
    if warnings:
        found.append(Alert(cluster.name, "warning", "warning", warnings[0], "\n".join(warnings), _look(cluster)))
    if obstacles:
        found.append(_no_failover(cluster, obstacles))
    return found


def _no_failover(cluster: Cluster, obstacles: Sequence[Obstacle]) -> Alert:
    """It is critical if no standby would be promoted, and else a warning."""
    first = next((item for item in obstacles if item.nobody), obstacles[0])
    details = "\n".join(f"{item}; {item.hint}" for item in obstacles)
    return Alert(cluster.name, "failover", "critical" if first.nobody else "warning", str(first), details, first.hint)


def _look(cluster: Cluster) -> str:
    return f"repmgr-hooks status --cluster {cluster.name}"


def _unknown(cluster: Cluster, decision: PrimaryDecision) -> Alert:
    details = "\n".join(map(str, (decision, *decision.states)))
    return Alert(cluster.name, "primary", "critical", f"primary unknown: {decision.reason}", details, _look(cluster))


def _stale_primary(cluster: Cluster, decision: PrimaryDecision, note: Reason) -> Alert:
    nodes = " and ".join(f"node {node}" for node in note.nodes)
    summary = f"ZOMBIE: {nodes} is a primary too, and gets no client; rejoin it"
    details = "\n".join(map(str, (*decision.notes, decision, *decision.states)))
    if decision.primary is None:
        return Alert(cluster.name, "zombie", "critical", summary, details, _look(cluster))
    rejoin = f"on {nodes}: {cluster.rejoin(decision.primary)}"
    return Alert(cluster.name, "zombie", "critical", summary, details, rejoin)


def _of_run(managed: ManagedCluster, failed: RunRow, attempts: int) -> Iterator[Alert]:
    """The most exact first; what is tried no more is a condition of its own."""
    alert = functools.partial(Alert, managed.cluster.name, details=failed.message)
    mend = f"repmgr-hooks reconcile --cluster {managed.cluster.name}"
    hole, gate = tells_of_hole(failed.message), open_gate(managed, failed.left)
    if hole:
        yield alert("backup", "critical", hole, next=f"repmgr-hooks check-wal --cluster {managed.cluster.name}")
    if gate:
        yield alert("gate", "critical", f"{gate} is true although what comes before it failed", next=mend)
    if failed.attempt >= attempts:
        yield alert("run", "critical", f"given up after {attempts} attempts: {failed.left[0]}", next=mend)
    elif not hole and not gate:
        yield alert("run", "warning", f"failed, and is tried again: {failed.left[0]}", next=mend)


def open_gate(managed: ManagedCluster, left: Sequence[str]) -> str:
    """Return the action with a limit that is true although one before it failed; empty if there is none.

    The limit has made it true, or it was so before.
    """
    for route in managed.routes:
        failed_before = False
        for action in route.do:
            if action.fail_open_after is not None and failed_before and action.title not in left:
                return action.title
            failed_before |= action.title in left and action.handler.observe is not None
    return ""
