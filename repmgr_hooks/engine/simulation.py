"""What a failover to a standby would do now. Pure but for one question; nothing is changed.

The cluster is taken as it would be right after it: that node promoted, on the next timeline.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision
from repmgr_hooks.cluster.failover_slots import failover_slots, in_sync
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.cluster.wal import size
from repmgr_hooks.engine.dry_run import dry_run_steps
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import RunResult, log_decision, log_result, summary
from repmgr_hooks.engine.selection import applying, select
from repmgr_hooks.errors import OperationFailed, Problem, UsageError, answer_of
from repmgr_hooks.event import Event
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Sql

log = logging.getLogger(__name__)

EVENT = "standby_promote"
LIMIT = 10.0
FREE_SLOTS = """
select current_setting('max_replication_slots')::int - count(*) filter (where slot_name <> all(%s))
  from pg_replication_slots
"""
"""Without the slots of these names: others may be using all."""


def assume(decision: PrimaryDecision, node: int, settings: Cluster) -> ClusterState:
    """Return the cluster as it would be with this primary. Raises UsageError if the node is no standby that answers."""
    state = next(state for state in decision.states if state.node == node)
    if not state.reachable or state.role != "standby":
        raise UsageError(f"{state}: a failover can be simulated with a standby that answers")
    timeline = max(other.timeline for other in decision.states) + 1
    promoted = replace(state, in_recovery=False, timeline=timeline, receiver=None)
    states = {other.node: other for other in decision.states}
    return ClusterState(settings, node, timeline, {**states, node: promoted})


def obstacles(
    decision: PrimaryDecision, node: int, managed: ManagedCluster, opened: Collection[str], host: Host
) -> Iterator[Problem]:
    """What would make that failover fail, or lose something, when it opens these ports."""
    state = next(state for state in decision.states if state.node == node)
    primary = decision.primary_state
    if primary is None:
        yield Problem("primary_unknown", f"now already {decision}", decision.hint)
    elif state.receiver is None or not state.receiver.streaming:
        what = f"node {node} receives no WAL from node {primary.node}: what is written there now would be lost"
        yield Problem("no_stream", what)
    elif primary.lsn > state.lsn:
        what = f"node {node} is {size(primary.lsn - state.lsn)} behind node {primary.node}: that would be lost"
        yield Problem("lag", what)
    for slot in failover_slots(primary) if primary else ():
        if not in_sync(state, slot.name):
            what = f"logical slot {slot.name} is not in sync on node {node}: it would be lost, and with it a subscriber"
            yield Problem("slot_not_synced", what, f"repmgr-hooks check --cluster {managed.cluster.name}")
    if shut := [port for port in managed.opened_ports if port not in opened]:
        what = f"port {', '.join(shut)} is not opened by a promotion of node {node}: nobody would get in there"
        yield Problem("port_stays_shut", what, "take 'when' out of its route, or see that another event opens it")
    if managed.kept_slots:
        yield from _slots(node, managed.kept_slots, host)


def _slots(node: int, slots: Sequence[str], host: Host) -> Iterator[Problem]:
    try:
        with answer_of(node):
            ((free,),) = host.fetch(Sql(node, FREE_SLOTS, (list(slots),)), LIMIT)
            free = int(free)
    except OperationFailed as error:
        yield Problem.of(error)
        return
    if free < len(slots):
        what = f"node {node} has {free} free replication slot(s) for {', '.join(slots)}"
        yield Problem("no_free_slot", what, "raise max_replication_slots there, and restart it")


def simulate(managed: ManagedCluster, host: Host, promotion: Event, last_known: LastKnownPrimary) -> RunResult:
    """Return what the promotion of a standby would make us do now, and change nothing. Raises UsageError."""
    started, node = host.now(), promotion.node
    decision = PrimaryFinder(managed.cluster, last_known).decision(host)
    log_decision(decision)
    state = assume(decision, node, managed.cluster)
    scheduled = select(managed.routes, [promotion], True)
    done = dry_run_steps(scheduled, state, host)
    opened = [getattr(item.action.config, "open", "") for item in applying(scheduled, state)]
    found = list(obstacles(decision, node, managed, opened, host))
    for obstacle in found:
        log.warning("%s", obstacle)
    good = not found and not any(item.error for item in done)
    hindered = f"; {len(found)} blocking problem(s)" if found else ""
    assumed = f"as if node {node} were promoted now, to timeline {state.timeline}"
    message = f"{summary(done, host.now() - started, True)}, {assumed}{hindered}"
    return log_result(RunResult(good, message, decision, tuple(done)))
