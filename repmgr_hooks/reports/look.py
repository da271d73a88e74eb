"""Looks at a cluster for ``status`` and ``metrics``: nodes, ports and Barman side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from repmgr_hooks import clock
from repmgr_hooks.background import begin
from repmgr_hooks.cluster import gateways, in_step, node_ports
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.host_names import moved
from repmgr_hooks.cluster.obstacles import Hindrance
from repmgr_hooks.cluster.primary import PrimaryFinder, cluster_state
from repmgr_hooks.cluster.probe import led_astray, probe
from repmgr_hooks.cluster.readiness import Files, Readiness, ReadinessProbe
from repmgr_hooks.config import Config
from repmgr_hooks.engine import drift, dry_run, fencing, selection
from repmgr_hooks.engine.last_look import LastLook
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.handlers import firewall
from repmgr_hooks.journal.finder import primary_finder
from repmgr_hooks.journal.heartbeat import last_heartbeat
from repmgr_hooks.journal.hosts import clocks_off, last_heard
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.pauses import pause_of
from repmgr_hooks.journal.rows import RunRow
from repmgr_hooks.journal.wal_checks import last_checks
from repmgr_hooks.lock import WORKER_LOCK, holder, is_free, lock_name
from repmgr_hooks.netfilter.backends import leads_to, spread_over
from repmgr_hooks.reports import readers_port
from repmgr_hooks.reports.former import formers_of
from repmgr_hooks.reports.pooled import hold_of, pgbouncers, switchover_of
from repmgr_hooks.reports.status import ClusterStatus
from repmgr_hooks.settings.cluster import Cluster, WhileUnknown
from repmgr_hooks.system.layers import AskedOnce
from repmgr_hooks.system.rules import our_rules
from repmgr_hooks.system.steps import Host

LOOKS_AT_LEAST = 300.0
"""A run, in which it does not look, takes less."""
IN_STEP_WITHIN = 10.0
"""Seconds in which the other gateway's connections come here."""


Ports = Callable[[], tuple[dict[str, int | None], dict[str, tuple[int, ...]], list[Problem]]]
"""Waits for where each port leads, and each for readers, or why that is not known."""


@dataclass(frozen=True)
class Spared:
    """What the service has found at its last look, and how many seconds ago that was; None if nothing counts."""

    last: LastLook | None = None
    ago: float = 0.0

    def by(
        self, managed: ManagedCluster, decision: PrimaryDecision, ports: Ports, last_run: Sequence[RunRow]
    ) -> Spared:
        """Return the same if it still holds; else nothing is spared.

        What no look asks, as whether WAL is archived, the last run has proved if it was right, under this primary. That
        of an event without a route has asked for no primary; what had failed before would have been tried again in it.
        """
        under = (None, 0), (decision.primary, decision.timeline)
        proved = [run for run in last_run if run.ok and (run.primary, run.timeline or 0) in under]
        if self.last is None or not proved:
            return ALL
        leads = ports()[0]
        to_primary = [port for port in managed.opened_ports if port not in managed.cluster.readers]
        led = all(leads.get(port) == decision.primary for port in to_primary)
        return self if led and self.last.holds(managed, decision) else ALL

    @property
    def oldest(self) -> float:
        """How long ago the first of it was found."""
        return max(self.ago, clock.wall() - self.last.probed) if self.last else 0.0


class NodesAlone(ReadinessProbe):
    """Of a cluster in whose files the service has just found what it knows ``against`` a promotion of a node."""

    def __init__(self, against: Mapping[int, tuple[Hindrance, str]]) -> None:
        super().__init__()
        self._against = against

    def files(self, primary: int, cluster: Cluster, host: Host) -> Files:
        """Look into none."""
        return Files({}, self._against)


ALL = Spared()


def look(
    managed: ManagedCluster, host: Host, journal: Journal | None, loaded: Config, spared: Spared = ALL
) -> ClusterStatus:
    """Look at a cluster now; ``spared``: what need not be looked at again, if the nodes say what they said then."""
    settings, real, host = managed.cluster, host, AskedOnce(host)
    # First all that the journal may fail at: what has begun in a thread is waited for.
    finder = primary_finder(settings, journal)
    last = journal.last_run(settings.name) if journal else []
    event = journal.last_event(settings.name) if journal else None
    paused = pause_of(settings.name, journal, loaded.state_dir)
    waiting = len(journal.waiting(settings.name)) if journal else 0
    waited = journal.waited(settings.name, clock.wall()) if journal else 0.0
    clocks = tuple(clocks_off(last_heard(journal, settings.name))) if journal else ()
    checks = tuple(last_checks(journal, settings.name)) if journal else ()
    ports, visit = begin(partial(_ports, settings, host)), partial(probe, settings, managed.opened_ports, host)
    visits = begin(visit) if spared.last is None else None
    decision = finder.decision(host)
    spared = spared.by(managed, decision, ports, last)
    known = spared.last
    probes = visits or (partial(list, known.probes) if known else begin(visit))
    names = list if known else begin(lambda: list(moved(settings, host)))
    elsewhere = list if known else begin(partial(_ports_moved, settings, decision.primary, host))
    missing = begin(partial(_pending, managed, finder, decision, host, known))
    ready = begin(partial(_ready, decision, settings, host, finder.last_known.since, known))
    hold, unreadable = hold_of(managed)
    switchover, no_record = switchover_of(managed)
    formers, no_former = formers_of(managed, decision)
    pooled = pgbouncers(managed, hold, host)
    state = cluster_state(decision, finder) if decision.primary else None
    warnings = drift.warnings(managed, state, host) if state else []
    leads, spread, unread = ports()
    seen, unseen = gateways.seen_and_wrong(settings, decision.primary_state, host)
    pending = missing()
    untracked = _not_in_step(settings, decision, real)
    return ClusterStatus(
        settings,
        decision,
        leads,
        tuple(unread or pending),
        (
            *warnings,
            *unreadable,
            *no_record,
            *no_former,
            *names(),
            *elsewhere(),
            *unseen,
            *untracked,
            *(problem for each in pooled for problem in each.problems),
            *clocks,
        ),
        waiting,
        paused,
        (event[0], str(event[1])) if event else None,
        # A run that will not be tried again was an event's contradiction of the cluster, and there is nothing to fix.
        last[0] if last and last[0].ok is False and last[0].again else None,
        loaded.service.retry.max_attempts,
        holder(loaded.state_dir / lock_name(settings.name)),
        0.0 if paused else _unwatched(loaded, settings.name),
        loaded.service.monitor_interval > 0 and is_free(loaded.state_dir / WORKER_LOCK),
        tuple(led_astray(probes(), decision.primary)),
        ready(),
        checks,
        pooled,
        hold,
        seen,
        switchover,
        readers_port.look(settings, spread, state),
        formers,
        tuple(slot for slot in managed.kept_slots if not (settings.barman and slot == settings.barman.slot_name)),
        waited=waited,
        spared_since=spared.oldest,
    )


def _ready(
    decision: PrimaryDecision, cluster: Cluster, host: Host, since: float, last: LastLook | None
) -> Readiness | None:
    """Return whether a failover could happen; what stands against it is looked for everywhere."""
    found = NodesAlone(last.against).look(decision, cluster, host, since) if last else None
    return found if found and not found.obstacles else ReadinessProbe().look(decision, cluster, host, since)


def _not_in_step(cluster: Cluster, decision: PrimaryDecision, host: Host) -> list[Problem]:
    """Return what is wrong with the connections that this one of several gateways tracks."""
    if decision.primary is None or not in_step.judged_by_kernel(cluster, host):
        return []
    nodes = [state.node for state in decision.states if state.reachable]
    with suppress(OperationFailed):  # check says why
        if in_step.look_again(cluster, nodes, host, IN_STEP_WITHIN).broken:
            return [in_step.problem(cluster, host)]
    return []


def _ports_moved(cluster: Cluster, primary: int | None, host: Host) -> list[Problem]:
    with suppress(OperationFailed):
        return node_ports.ask(cluster, primary, host)
    return []


def _ports(cluster: Cluster, host: Host) -> tuple[dict[str, int | None], dict[str, tuple[int, ...]], list[Problem]]:
    """Return where each port leads, and each for readers, or why that is not known."""
    try:
        ours = our_rules(cluster, host)
    except OperationFailed as error:
        return {}, {}, [Problem.of(error)]
    return leads_to(cluster, ours), spread_over(cluster, ours), []


def _unwatched(loaded: Config, cluster: str) -> float:
    """Return the seconds since the service looked, if it should have looked again by now."""
    looked = last_heartbeat(loaded.state_dir, cluster)
    # One from the future: the clock was set back, and the service has not looked since.
    since = abs(clock.wall() - looked) if looked is not None else 0.0
    return (
        since
        if loaded.service.monitor_interval and since > max(LOOKS_AT_LEAST, 3 * loaded.service.monitor_interval)
        else 0.0
    )


def _pending(
    managed: ManagedCluster, finder: PrimaryFinder, decision: PrimaryDecision, host: Host, last: LastLook | None
) -> list[Problem]:
    if decision.primary is None:
        unknown = managed.cluster.unknown
        found = dry_run.differences(fencing.fence(managed, decision, host, None, unknown.close if unknown else ()))
        return [_when(problem, unknown) for problem in found]
    state = cluster_state(decision, finder)
    chosen = selection.without_events(managed, host)
    return dry_run.differences(dry_run.preview(last.leaves(chosen, state, host) if last else chosen, state, host))


def _when(problem: Problem, unknown: WhileUnknown | None) -> Problem:
    """Return it with when the service does it, if it does it only then."""
    if unknown is None or problem.code != firewall.CLOSE_WHILE_UNKNOWN:
        return problem
    return problem._replace(hint=f"the service does it when no primary has been known for {unknown.after} s")
