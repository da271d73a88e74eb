"""Which alerts a cluster calls for: a pure function of what was seen of it last and of its last run."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Protocol

from repmgr_hooks.barman.wal_continuity import FAULTS
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.gateways import CODES, CRITICAL, NOBODY_ELSE_TELLS
from repmgr_hooks.cluster.obstacles import Obstacle
from repmgr_hooks.cluster.probe import Probe, ProbeCode, merged
from repmgr_hooks.cluster.reasons import Reason, ReasonCode
from repmgr_hooks.cluster.repmgr_files import program
from repmgr_hooks.engine.routes import Action, ManagedCluster
from repmgr_hooks.engine.run import place_of
from repmgr_hooks.errors import Problem, hint_lines
from repmgr_hooks.journal.rows import Failed, RunRow
from repmgr_hooks.journal.wal_checks import OF_BACKUP, WalCheckRow, wrong
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.alert import Alert, Severity

OF_WAL = ("wal_check", "no_backup")
"""The conditions of what ``check-wal`` has found."""
GATEWAYS = "gateways"
"""The condition of what is wrong between several gateways."""
UNSERVED_FOR = 15.0
"""Seconds for which, and probes in a row in which, a client must have been unable to write; one alone is no alert."""
UNSERVED_TIMES = 2
ON_PRIMARY_FOR = 60.0
"""Seconds for which readers may be on the primary: after a failover, a standby that follows it has to prove itself."""


class Unserved(Protocol):
    """A port through which a client could not do what it is for when it was tried last; see ``service/prober.py``."""

    @property
    def probe(self) -> Probe: ...

    @property
    def since(self) -> float: ...

    @property
    def times(self) -> int: ...


def overdue(managed: ManagedCluster, unserved: Sequence[Unserved], known_since: float, now: float) -> list[Probe]:
    """Return what a client has been unable to do for too long under the current primary.

    While there is none, that is the alert; and a closed port has the time that its route gives it.
    """
    late = []
    for item in unserved:
        patience = ON_PRIMARY_FOR if item.probe.served else UNSERVED_FOR
        if item.probe.code is ProbeCode.CLOSED:
            patience += managed.opens_within(item.probe.port)
        if item.times >= UNSERVED_TIMES and now - max(item.since, known_since) >= patience:
            late.append(item.probe)
    return late


def conditions(
    managed: ManagedCluster,
    decision: PrimaryDecision,
    warnings: Sequence[Problem],
    failed: RunRow | None,
    attempts: int,
    unserved: Sequence[Probe] = (),
    obstacles: Sequence[Obstacle] = (),
    wal: Sequence[WalCheckRow] = (),
) -> list[Alert]:
    """Return the alerts, one for each condition.

    ``failed``: the last run, if it failed and could be tried again, at most ``attempts`` times. ``unserved``: what
    clients cannot do. ``obstacles``: what stands against a failover. ``wal``: what following the records of Barman's
    WAL has shown.
    """
    cluster = managed.cluster
    rejoin = [note for note in decision.notes if note.code in (ReasonCode.STALE_PRIMARY, ReasonCode.BESIDE)]
    found = [_stale_primary(cluster, decision, rejoin)] if rejoin else []
    if decision.primary is None:
        found.append(_unknown(cluster, decision))
    else:
        found += _of_clients(cluster, "client", "critical", [probe for probe in unserved if not probe.reader])
        away = [probe for probe in unserved if probe.reader]
        refused = any(not probe.served for probe in away)
        found += _of_clients(cluster, "readers", "critical" if refused else "warning", away)
    # A run in which no action failed found no primary, or was cut off.
    if failed and failed.left:
        found += _of_run(managed, failed, attempts)
    found += of_gateways(cluster, warnings)
    warnings = [problem for problem in warnings if problem.code not in CODES]
    found += _of_warnings(cluster, warnings)
    if obstacles:
        found.append(_no_failover(cluster, obstacles))
    return [*found, *_of_wal(cluster, wal)]


def only_seen_here(
    managed: ManagedCluster, warnings: Sequence[Problem], failed: RunRow | None, wal: Sequence[WalCheckRow]
) -> list[Alert]:
    """Return what a gateway tells although it has not the address: nobody else does, or sees its own Barman's WAL."""
    cluster = managed.cluster
    found = list(of_gateways(cluster, [problem for problem in warnings if problem.code in NOBODY_ELSE_TELLS]))
    if cluster.barman and cluster.barman.on_each_gateway:
        of_run = _of_run(managed, failed, math.inf) if failed and failed.left else ()
        found += [alert for alert in of_run if alert.condition == "backup"]
        found += _of_wal(cluster, wal)
    return found


def own_conditions(cluster: Cluster) -> tuple[str, ...]:
    """Return the conditions of what a gateway tells although it has not the address."""
    of_barman = ("backup", *OF_WAL) if cluster.barman and cluster.barman.on_each_gateway else ()
    return (GATEWAYS, *of_barman)


def of_gateways(cluster: Cluster, problems: Sequence[Problem]) -> Iterator[Alert]:
    """Return the alert about several gateways: critical, unless one that is only a reserve is missing."""
    if said := [problem for problem in problems if problem.code in CODES]:
        critical = any(problem.code in CRITICAL for problem in said)
        details = _in_full(said)
        severity: Severity = "critical" if critical else "warning"
        yield Alert(cluster.name, GATEWAYS, severity, str(said[0]), details, said[0].hint)


def _of_clients(cluster: Cluster, condition: str, severity: Severity, probes: Sequence[Probe]) -> Iterator[Alert]:
    said = merged(probes)
    for first in said[:1]:
        yield Alert(cluster.name, condition, severity, str(first), "\n".join(map(str, said)), first.hint)


def _of_wal(cluster: Cluster, rows: Sequence[WalCheckRow]) -> Iterator[Alert]:
    details = "; ".join(f"{row.text} ({row.part})" for row in rows if row.problem and not row.of_backup)
    for problem in wrong(rows, cluster):
        if problem.code in OF_BACKUP:
            yield Alert(cluster.name, "no_backup", "warning", str(problem), hint=problem.hint)
        else:
            yield Alert(cluster.name, "wal_check", "critical", str(problem), details, problem.hint)


def _no_failover(cluster: Cluster, obstacles: Sequence[Obstacle]) -> Alert:
    """It is critical if no standby would be promoted, and else a warning."""
    first = next((item for item in obstacles if item.nobody), obstacles[0])
    severity: Severity = "critical" if first.nobody else "warning"
    details = _in_full([item.problem for item in obstacles])
    return Alert(cluster.name, "failover", severity, str(first), details, first.hint)


def _of_warnings(cluster: Cluster, warnings: Sequence[Problem]) -> Iterator[Alert]:
    """Each kind is a condition of its own: what is new must not be hidden by what has been so for long."""
    kinds: dict[str, list[Problem]] = {}
    for problem in warnings:
        kinds.setdefault(problem.code, []).append(problem)
    for kind, found in kinds.items():
        condition, hint = f"warning: {kind}" if kind else "warning", found[0].hint or _look(cluster)
        yield Alert(cluster.name, condition, "warning", str(found[0]), _in_full(found), hint)


def _in_full(problems: Sequence[Problem]) -> str:
    return "\n".join(line for problem in problems for line in (str(problem), *hint_lines(problem.hint)))


def _look(cluster: Cluster) -> str:
    return f"repmgr-hooks status --cluster {cluster.name}"


def _unknown(cluster: Cluster, decision: PrimaryDecision) -> Alert:
    details = "\n".join(map(str, (decision, *decision.states)))
    hint = f"{decision.hint}; see {_look(cluster)}" if decision.hint else _look(cluster)
    return Alert(cluster.name, "primary", "critical", f"primary unknown: {decision.reason}", details, hint)


def _stale_primary(cluster: Cluster, decision: PrimaryDecision, rejoin: Sequence[Reason]) -> Alert:
    nodes = " and ".join(f"node {node}" for note in rejoin for node in note.nodes)
    summary = "; ".join(map(str, rejoin))
    details = "\n".join(map(str, (*decision.notes, decision, *decision.states)))
    hint = _look(cluster)
    if decision.primary is not None:
        hint = cluster.rejoin_stale(nodes, decision.primary, program())
    return Alert(cluster.name, "stale_primary", "critical", summary, details, hint)


def _of_run(managed: ManagedCluster, failed: RunRow, attempts: float) -> Iterator[Alert]:
    """The most exact first; what is tried no more is a condition of its own."""
    details = "\n".join([failed.message, *hint_lines(failed.hint)])
    alert = functools.partial(Alert, managed.cluster.name, details=details)
    hint, first = f"repmgr-hooks reconcile --cluster {managed.cluster.name}", failed.left[0].place.action
    gap = next((FAULTS[item.code] for item in failed.left if item.code in FAULTS), "")
    gate = open_gate(managed, failed.left)
    if gap:
        yield alert("backup", "critical", gap, hint=f"repmgr-hooks check-wal --cluster {managed.cluster.name}")
    if gate:
        yield alert("gate", "critical", f"{gate.title} is in effect although an earlier action failed", hint=hint)
    if failed.attempt >= attempts:
        yield alert("run", "critical", f"given up after {attempts} attempts: {first}", hint=hint)
    elif not gap and not gate:
        yield alert("run", "warning", f"failed, and is tried again: {first}", hint=hint)


def open_gate(managed: ManagedCluster, left: Sequence[Failed]) -> Action | None:
    """Return the action with a limit that is true although one before it failed; None if there is none.

    The limit has made it true, or it was so before.
    """
    places = {item.place for item in left}
    for route in managed.routes:
        failed_before = False
        for action in route.do:
            if action.fail_open_after is not None and failed_before and place_of(action) not in places:
                return action
            failed_before |= place_of(action) in places and action.handler.observe is not None
    return None
