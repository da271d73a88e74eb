"""``status`` and ``history`` in numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks.cluster import numbers
from repmgr_hooks.cluster.numbers import Number
from repmgr_hooks.journal.heartbeat import last_heartbeat
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import Total
from repmgr_hooks.reports.exposition import Sample
from repmgr_hooks.reports.pooled import HELD, PAUSED
from repmgr_hooks.reports.status import ClusterStatus

CAUSES = ("event", "retry", "drift", "reconcile", "boot", "replay", "resume", "hold", "switchover", "former_primary")


def measure(cluster_status: ClusterStatus, journal: Journal | None, state_dir: Path) -> Iterator[Sample]:
    """Return the numbers of one cluster; without a journal, those of now."""
    cluster = {"cluster": cluster_status.cluster.name}
    for metric, value in {**_now(cluster_status), **_moments(cluster_status, journal, state_dir)}.items():
        if value is not None:
            yield Sample(metric, cluster, value)
    for metric, labels, value in (
        *_nodes(cluster_status),
        *_looked_at(cluster_status),
        *_clients(cluster_status),
        *_pooled(cluster_status),
    ):
        yield Sample(metric, cluster | labels, value)
    if journal is None:
        return
    columns = "kind, name, count, failed, seconds, last"
    totals = [
        Total(*row)
        for row in journal.read(f"select {columns} from total where cluster = ?", cluster_status.cluster.name)
    ]
    yield Sample("events_total", cluster, sum(total.count for total in totals if total.kind == "event"))
    yield Sample("primary_changes_total", cluster, sum(total.count for total in totals if total.kind == "role"))
    runs = {total.name: total for total in totals if total.kind == "run"}
    for cause in sorted({*CAUSES, *runs}):
        found = runs.get(cause)
        yield Sample("runs_total", cluster | {"cause": cause}, found.count if found else 0)
        yield Sample("run_failures_total", cluster | {"cause": cause}, found.failed if found else 0)
    for total in totals:
        if total.kind == "step":
            action = cluster | {"action": total.name}
            yield Sample("step_duration_seconds", action, total.seconds, "_sum")
            yield Sample("step_duration_seconds", action, total.count, "_count")
            yield Sample("step_last_duration_seconds", action, total.last)
            yield Sample("step_failures_total", action, total.failed)


def _now(cluster_status: ClusterStatus) -> dict[str, float | None]:
    decision, primary, barman = (
        cluster_status.decision,
        cluster_status.decision.primary_state,
        cluster_status.cluster.barman,
    )
    sender = primary.sender(barman.slot_name) if primary and barman else None
    checks = cluster_status.wal_checks
    streams, flushed = (sender.state == "streaming", sender.flushed) if sender else (False, None)
    return {
        "healthy": int(cluster_status.healthy),
        "primary_known": int(primary is not None),
        "timeline": decision.timeline or None,
        "failover_possible": int(bool(cluster_status.readiness.candidates)) if cluster_status.readiness else None,
        "barman_streaming": int(streams) if barman else None,
        "barman_lag_bytes": max(primary.lsn - flushed, 0) if primary and flushed is not None else None,
        # None where nothing could be looked at.
        "archive_healthy": 0 if any(row.problem for row in checks) else 1 if any(row.good for row in checks) else None,
        "pending_steps": len(cluster_status.pending),
        "warnings": len(cluster_status.warnings),
        "events_pending": cluster_status.waiting,
        "paused": int(cluster_status.paused is not None),
        "retry_attempts": cluster_status.failed.attempt if cluster_status.failed else 0,
    }


def _moments(cluster_status: ClusterStatus, journal: Journal | None, state_dir: Path) -> dict[str, float | None]:
    name = cluster_status.cluster.name
    since = journal.read("select since from role where cluster = ? order by id desc limit 1", name) if journal else []
    return {
        "last_poll_timestamp_seconds": last_heartbeat(state_dir, name),
        "last_event_timestamp_seconds": cluster_status.last[0] if cluster_status.last else None,
        "last_primary_change_timestamp_seconds": since[0][0] if since else None,
    }


def _nodes(cluster_status: ClusterStatus) -> Iterator[tuple[str, dict[str, str], float]]:
    decision, primary = cluster_status.decision, cluster_status.decision.primary_state
    for state in decision.states:
        node = {"node": str(state.node)}
        yield "node_up", node, int(state.reachable)
        yield "node_is_primary", node, int(state.node == decision.primary)
        yield "node_is_stale_primary", node, int(state.node in decision.stale_primaries)
        if primary and state.reachable and state.role == "standby":
            yield "node_lag_bytes", node, max(primary.lsn - state.lsn, 0)
        if cluster_status.readiness and state.reachable and state.role == "standby":
            yield "node_can_be_promoted", node, int(state.node in cluster_status.readiness.candidates)


def _looked_at(cluster_status: ClusterStatus) -> Iterator[Number]:
    """What ``serve-http`` shows too."""
    cluster, ports = cluster_status.cluster, cluster_status.readers
    own = [cluster.barman.slot_name] if cluster.barman else []
    yield from numbers.of_slots(cluster_status.decision, (*own, *cluster_status.other_slots))
    yield from numbers.of_ports(cluster, cluster_status.ports, {port: each.leads_to for port, each in ports.items()})
    for port, each in ports.items():
        yield from numbers.of_readers(port, each.nodes)
    formers = {former.node: (former.fenced, former.attempts) for former in cluster_status.former_primaries}
    yield from numbers.of_formers(cluster, formers)


def _clients(cluster_status: ClusterStatus) -> Iterator[tuple[str, dict[str, str], float]]:
    for probe in cluster_status.probes:
        labels = {"port": probe.port, "origin": probe.origin}
        if probe.reader:
            yield "client_can_read", labels, int(probe.served)
            continue
        yield "client_can_write", labels, int(probe.writes)
        if probe.writes:
            yield "client_write_seconds", labels, probe.seconds


def _pooled(cluster_status: ClusterStatus) -> Iterator[tuple[str, dict[str, str], float]]:
    for pooled in cluster_status.pgbouncers:
        yield "pgbouncer_up", {"pgbouncer": pooled.name}, int(bool(pooled.databases))
        for name, state in pooled.databases.items():
            yield "clients_held", {"pgbouncer": pooled.name, "database": name}, int(state in (HELD, PAUSED))
