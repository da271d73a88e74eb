"""Shows others what the service sees: after each look, and at the beginning of each run."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.background import on_disk
from repmgr_hooks.cluster import numbers
from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.numbers import Number
from repmgr_hooks.cluster.observe import NodeState, WalSender
from repmgr_hooks.cluster.primary import PrimaryFinder, as_remembered
from repmgr_hooks.cluster.readers import readings, senders
from repmgr_hooks.config import Config
from repmgr_hooks.engine.drift import Drift
from repmgr_hooks.engine.last_look import LookFile, Visits
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.former_primary import record
from repmgr_hooks.journal.heartbeat import Progress, forget_heartbeats, write_heartbeat
from repmgr_hooks.journal.last_seen import SYNCHRONOUS, LastSeen, NodeSeen, PrimaryPosition, Publisher, forget_others
from repmgr_hooks.netfilter.backends import leads_to, spread_over
from repmgr_hooks.service.absence import Absence
from repmgr_hooks.service.monitor import Monitor
from repmgr_hooks.service.prober import NoProber, Prober
from repmgr_hooks.service.run_turns import RUNS
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system import rules
from repmgr_hooks.system.steps import Host
from repmgr_hooks.text import MOST, one_line

LOOK_EVERY = 1.0
"""Seconds between two looks at what is for ``/metrics`` alone."""
PUT_OFF = 15.0
"""For so long such a look waits for runs that have something new to do each time."""


class Shown:
    """What others may read of one cluster; nothing, without a ``publisher``, or if there is no look without an event.

    What is never looked at again would soon be wrong.
    """

    def __init__(
        self,
        managed: ManagedCluster,
        interval: float,
        progress: Progress,
        publisher: Publisher | None,
        absence: Absence,
        state_dir: Path,
    ) -> None:
        self._managed, self._cluster = managed, managed.cluster
        self._interval, self._progress = interval, progress
        self._publisher = publisher if interval else None
        self._kept = LookFile(publisher.directory, managed) if publisher and interval else None
        self._last: PrimaryPosition | None = None
        self._pending: tuple[Problem, ...] = ()
        self._around = Surroundings(managed.cluster)
        self.absence, self._state_dir = absence, state_dir

    def show(self, decision: PrimaryDecision, paused: bool = False) -> None:
        """Show what the nodes have just said."""
        self.absence.saw(decision)
        if self._publisher:
            self._last = position_of(decision, self._cluster) or self._last
            seen = seen_of(decision, self._cluster, self._interval, paused)
            found = (*of_nodes(decision, self._managed), *self._around.found)
            self._publisher.publish(replace(seen, last_primary=self._last, numbers=found))

    def look(self, monitor: Monitor, last_known: LastKnownPrimary, host: Host) -> Drift | None:
        """Look, and show what is seen; None if the nodes alone were looked at, for there are runs for other clusters.

        What is for ``/metrics`` alone is looked at when a run has nothing new to do.
        """
        drift = None if self._nodes_will_do(monitor, last_known, host) else monitor.look(last_known, self.show)
        write_heartbeat(self._state_dir, self._cluster.name)
        if drift is None:
            return None
        if self._publisher and (drift.pending in ((), self._pending) or self._around.put_off(host)):
            self._look_around(drift.decision, host)
        self._pending = drift.pending
        return drift

    def glance(self, last_known: LastKnownPrimary, host: Host, paused: bool = False) -> PrimaryDecision:
        """Look at the nodes alone, and show what they say."""
        decision = PrimaryFinder(self._cluster, self.absence.considered(last_known)).decision(host)
        self.show(decision, paused)
        return decision

    def is_as_remembered(self, last_known: LastKnownPrimary, host: Host) -> bool:
        """Look at the nodes, and where our rules lead: whether the primary is the one that is remembered, and has the
        ports.
        """
        decision, opened = self.glance(last_known, host), self._managed.opened_ports
        if not as_remembered(decision, last_known):
            return False
        try:
            leads = leads_to(self._cluster, rules.our_rules(self._cluster, host)) if opened else {}
        except OperationFailed:
            return False
        return all(leads[port] == decision.primary for port in opened if port in leads)

    def _nodes_will_do(self, monitor: Monitor, last_known: LastKnownPrimary, host: Host) -> bool:
        """While there are runs for other clusters, look at the nodes alone of one that was well; True if they are."""
        if not (RUNS.are_taken and monitor.can_rest() and as_remembered(self.glance(last_known, host), last_known)):
            return False
        monitor.rest()
        self._around.rest(host)
        return True

    def keep(self, drift: Drift, monitor: Monitor, prober: Prober | NoProber) -> None:
        """Keep a look that found nothing wrong, while clients find nothing wrong either."""
        if self._kept is None:
            return
        visits = prober.visits()
        wrong = drift.decision.notes or monitor.warnings or monitor.obstacles
        if drift.in_desired_state and not wrong and all(visit.probe.good for visit in visits):
            probed = min((visit.seen for visit in visits), default=clock.wall())
            files = monitor.readiness.seen
            found = Visits([visit.probe for visit in visits], probed, prober.period)
            self._kept.keep(drift, monitor.fingerprints, files, found, self._interval)
        else:
            self._kept.forget()

    def look_only(self, monitor: Monitor, last_known: LastKnownPrimary, host: Host) -> float:
        """Look during a pause, when nothing is done; return the seconds until the next such look."""
        monitor.look_now()  # when it is over
        if not self._publisher:
            return math.inf
        decision = self.glance(last_known, host, paused=True)
        self._look_around(decision, host)
        return self._interval

    def _look_around(self, decision: PrimaryDecision, host: Host) -> None:
        if self._publisher and self._around.look(host):
            self._publisher.renew((*of_nodes(decision, self._managed), *self._around.found))

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[None]:
        """A step of a run, or a wait, that takes at most so many seconds: nothing new is seen meanwhile."""
        if self._publisher:
            self._publisher.extend(seconds)
        with self._progress.waiting(what, seconds):
            yield


class Surroundings:
    """What no node says: where our rules lead the ports, and how far former primaries are."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._generation: int | None = None
        self._ports: tuple[Number, ...] = ()
        self._next = 0.0
        self.found: tuple[Number, ...] = ()

    def put_off(self, host: Host) -> bool:
        """True if what was found has grown old."""
        return 0.0 < self._next <= host.now() - PUT_OFF

    def rest(self, host: Host) -> None:
        """There are other runs now; it grows no older for that."""
        self._next = host.now()

    def look(self, host: Host) -> bool:
        """Look, and return whether something has changed; what cannot be read is not shown.

        The looks at the nodes may come ten times a second, while no primary is known.
        """
        if (now := host.now()) < self._next:
            return False
        self._next = now + LOOK_EVERY
        before, self.found = self.found, (*self._led(host), *self._formers())
        return self.found != before

    def _led(self, host: Host) -> tuple[Number, ...]:
        """Rules that nobody has changed are not read again."""
        try:
            generation = rules.generation(self._cluster, host)
            if generation is None or generation != self._generation:
                self._generation = None
                ours = rules.our_rules(self._cluster, host)
                leads, spread = leads_to(self._cluster, ours), spread_over(self._cluster, ours)
                self._ports, self._generation = tuple(numbers.of_ports(self._cluster, leads, spread)), generation
            return self._ports
        except OperationFailed:
            return ()

    def _formers(self) -> Iterator[Number]:
        if (settings := self._cluster.former_primary) is None:
            return
        with contextlib.suppress(OperationFailed):
            window, now = settings.limit.window, clock.wall()
            known = [former for former in record.read(self._cluster).values() if former.phase != "done"]
            formers = {former.node: (former.stopped, former.recent(window, now)) for former in known}
            yield from numbers.of_formers(self._cluster, formers)


def of_nodes(decision: PrimaryDecision, managed: ManagedCluster) -> Iterator[Number]:
    """Yield what the nodes say of slots and to readers; Barman's own slot stands elsewhere."""
    cluster, barman = managed.cluster, managed.cluster.barman
    own = barman.slot_name if barman else ""
    yield from numbers.of_slots(decision, [slot for slot in managed.kept_slots if slot != own])
    if decision.primary is not None:
        state = ClusterState(
            cluster, decision.primary, decision.timeline, {node.node: node for node in decision.states}
        )
        for port in cluster.readers:
            yield from numbers.of_readers(port, readings(state, port))


def forget_removed(loaded: Config, shown: Path | None) -> None:
    """Remove what others would read of clusters that the configuration has no longer, or that are looked at no more."""
    clusters = loaded.clusters if loaded.service.monitor_interval else ()
    with contextlib.suppress(OSError):
        on_disk(partial(forget_heartbeats, loaded.state_dir, clusters))
    if shown:
        with contextlib.suppress(OSError):
            forget_others(shown, loaded.clusters)


def seen_of(decision: PrimaryDecision, cluster: Cluster, interval: float, paused: bool = False) -> LastSeen:
    """Return what was seen of a cluster that is looked at every ``interval`` seconds."""
    primary, barman = decision.primary_state, cluster.barman
    sender = primary.sender(barman.slot_name) if primary and barman else None
    flushed = sender.flushed if sender else None
    return LastSeen(
        cluster.name,
        decision.primary,
        decision.timeline,
        decision.reason.code.name.lower(),
        one_line(str(decision), MOST),
        tuple(_node(state, decision, cluster) for state in decision.states),
        interval,
        barman.slot_name if barman else "",
        sender is not None and sender.state == "streaming" if barman else None,
        max(primary.lsn - flushed, 0) if primary and flushed is not None else None,
        paused,
    )


def position_of(decision: PrimaryDecision, cluster: Cluster) -> PrimaryPosition | None:
    """Return how far the primary was, and Barman with it."""
    primary = decision.primary_state
    if primary is None:
        return None
    sender = primary.sender(cluster.barman.slot_name) if cluster.barman else None
    acknowledged = sender is not None and sender.sync_state in SYNCHRONOUS
    flushed = (sender.flushed if sender else None) or 0
    return PrimaryPosition(primary.node, primary.timeline, primary.lsn, flushed, acknowledged)


def _node(state: NodeState, decision: PrimaryDecision, cluster: Cluster) -> NodeSeen:
    (host, port), stale = cluster.endpoint(state.node), state.node in decision.stale_primaries
    if not state.reachable:
        return NodeSeen(state.node, host, False, "unknown", 0, port=port)
    primary, sender = decision.primary_state, _sender_to(state, decision, cluster) if state.role == "standby" else None
    slot = state.slot(cluster.barman.slot_name) if cluster.barman else None
    received = replayed = None
    if primary and state.role == "standby":
        received = max(primary.lsn - state.lsn, 0)
        replayed = max(primary.lsn - sender.replayed, 0) if sender and sender.replayed is not None else received
    return NodeSeen(
        state.node,
        host,
        True,
        state.role,
        state.timeline,
        bool(state.receiver and state.receiver.streaming),
        replayed,
        received,
        sender.sync_state if sender else "",
        max(state.lsn - slot.restart_lsn, 0) if slot and slot.restart_lsn is not None else None,
        stale,
        port,
    )


def _sender_to(standby: NodeState, decision: PrimaryDecision, cluster: Cluster) -> WalSender | None:
    """Return the walsender of whichever node a standby receives from; what it says of its replay comes that way."""
    found = senders(standby.node, decision.states, cluster)
    return next((sender for sender in found if sender.state == "streaming"), None)
