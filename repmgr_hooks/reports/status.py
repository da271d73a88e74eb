"""What ``status`` shows: each cluster's primary and why, its nodes, its ports, what is wrong and what to do."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from repmgr_hooks import clock
from repmgr_hooks.cluster import gateways
from repmgr_hooks.cluster.decide import PrimaryDecision, Reason, ReasonCode
from repmgr_hooks.cluster.gateways import GatewaySeen
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.primary import PrimaryFinder, cluster_state
from repmgr_hooks.cluster.probe import Probe, led_astray, merged, probe
from repmgr_hooks.cluster.readiness import Obstacle, Readiness, ReadinessProbe
from repmgr_hooks.cluster.repmgr_files import program
from repmgr_hooks.cluster.wal import size
from repmgr_hooks.config import Config
from repmgr_hooks.engine import dispatcher, drift, dry_run, fencing
from repmgr_hooks.engine.elsewhere import works_on
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem, hint_lines
from repmgr_hooks.handlers import firewall
from repmgr_hooks.journal.finder import primary_finder
from repmgr_hooks.journal.heartbeat import last_heartbeat
from repmgr_hooks.journal.holds import Hold
from repmgr_hooks.journal.hosts import clocks_off, last_heard
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.pauses import pause_of, until_when
from repmgr_hooks.journal.rows import Failed, Pause, RunRow
from repmgr_hooks.journal.wal_checks import WalCheckRow, broken, last_checks
from repmgr_hooks.lock import Holder, holder, lock_name
from repmgr_hooks.netfilter.backends import leads_to
from repmgr_hooks.reports.pooled import Pooled, hold_of, pgbouncers
from repmgr_hooks.settings.cluster import Barman, Cluster, WhileUnknown
from repmgr_hooks.system.rules import our_rules
from repmgr_hooks.system.steps import Host

LOOKS_AT_LEAST = 300.0
"""A run, in which it does not look, takes less."""


@dataclass(frozen=True)
class ClusterStatus:
    """One cluster, looked at now. ``ports``: the node that each named port leads to, None if it is closed."""

    cluster: Cluster
    decision: PrimaryDecision
    ports: dict[str, int | None]
    pending: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    waiting: int
    paused: Pause | None
    last: tuple[float, str] | None
    failed: RunRow | None
    attempts: int
    lock: Holder | None = None
    """Who works at the cluster now."""
    unwatched: float = 0.0
    """Seconds since the service looked, if that is too long ago."""
    probes: tuple[Probe, ...] = ()
    """What a client finds behind each port that a route opens."""
    readiness: Readiness | None = None
    """Whether a failover could happen; None while there is no primary, or no standby."""
    wal_checks: tuple[WalCheckRow, ...] = ()
    """What following the records of Barman's WAL has shown last."""
    pgbouncers: tuple[Pooled, ...] = ()
    """What the clients of each PgBouncer meet."""
    hold: Hold | None = None
    """Who holds clients now."""
    gateways: tuple[GatewaySeen, ...] = ()
    """Each of several gateways, and whether it has the address."""

    @property
    def healthy(self) -> bool:
        """True if everything is in the desired state."""
        wrong = self.decision.notes or self.pending or self.warnings or self.paused or self.failed or self.waiting
        served = all(probe.writes for probe in self.probes)
        whole = not any(row.problem for row in self.wal_checks)
        watched = self.decision.primary is not None and not wrong and not self.unwatched and not self.hold
        return watched and served and whole and not self.obstacles

    @property
    def obstacles(self) -> tuple[Obstacle, ...]:
        """What stands against a failover."""
        return self.readiness.obstacles if self.readiness else ()

    def lines(self) -> list[str]:
        """Return the lines for the screen, the most important first."""
        decision, name = self.decision, self.cluster.name
        known = f"primary is node {decision.primary}, timeline {decision.timeline} ({decision.reason})"
        headline = known if decision.primary else f"UNKNOWN primary: {decision.reason}"
        stale = [note for note in decision.notes if note.code is ReasonCode.STALE_PRIMARY]
        first, *more = [*map(str, stale), headline]
        ways = [self._rejoin(note) for note in stale]
        hints = hint_lines(*ways, "" if decision.primary else decision.hint)
        lines = [f"{name}: {first}", *(f"  {line}" for line in [*more, *hints])]
        if self.paused:
            reason = f" ({self.paused.reason})" if self.paused.reason else ""
            lines += [f"  PAUSED {until_when(self.paused.until)}{reason}", "  HINT: to end it: repmgr-hooks resume"]
        lines += [f"  {state}{self._lag(state)}" for state in decision.states]
        numbers = self.cluster.gateway.ports
        served = {probe.port for probe in self.probes if probe.writes}
        lines += [
            f"  port {numbers[port]} ({port}): {where(node)}{', and a client writes there' if port in served else ''}"
            for port, node in self.ports.items()
        ]
        lines += [f"  {each}" for each in self.gateways]
        lines += [f"  {pooled}" for pooled in self.pgbouncers]
        lines += self._hold()
        lines += [f"  {line}" for line in self._backup()]
        if self.readiness:
            lines.append(f"  failover: {self.readiness}")
        if self.last:
            received, event = self.last
            lines.append(f"  last event: {event}, {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(received))}")
        if self.lock:
            lines.append(f"  lock: held by {self.lock}")
        return lines + [f"  {line}" for line in self._wrong()]

    def _hold(self) -> list[str]:
        if self.hold is None:
            return []
        now, hold = clock.monotonic(), self.hold
        end = f"until {hold.limit - hold.seconds(now):.0f} s from now" if not hold.over else "to be let go"
        return [f"  HELD by process {hold.holder.process} for {hold.seconds(now):.0f} s, {end} ({hold.why})"]

    def _wrong(self) -> Iterator[str]:
        notes = [note.problem for note in self.decision.notes if note.code is not ReasonCode.STALE_PRIMARY]
        for problem in (*notes, *self.warnings):
            yield from (f"WARNING {problem}", *hint_lines(problem.hint))
        for found in merged(self.probes):
            yield from (f"WARNING {found}", *hint_lines(found.hint))
        for obstacle in self.obstacles:
            yield from (f"WARNING {obstacle}", *hint_lines(obstacle.hint))
        for problem in [broken(row, self.cluster.name) for row in self.wal_checks if row.problem][:1]:
            yield from (f"WARNING {problem}", *hint_lines(problem.hint))
        for problem in dict.fromkeys(self.pending):
            yield from (f"PENDING {problem}", *hint_lines(problem.hint))
        if self.unwatched:
            yield f"WARNING the service has not looked for {self.unwatched:.0f} s"
            yield "HINT: journalctl -u repmgr-hooks says why"
        if self.waiting:
            yield f"WARNING {self.waiting} event(s) wait to be handled"
            yield "HINT: make sure that repmgr-hooks.service is running"
        if self.failed:
            end = "given up" if self.failed.attempt >= self.attempts else "will be tried again"
            yield f"FAILED, {end}: {self.failed.message}"
        if self.failed or any(problem.code != firewall.CLOSE_WHILE_UNKNOWN for problem in self.pending):
            hint = self.failed.hint if self.failed else ""
            yield from hint_lines(hint, f"to do it now: repmgr-hooks reconcile --cluster {self.cluster.name}")

    def _rejoin(self, stale: Reason) -> str:
        """What makes a stale primary a standby again; while no primary is known, there is nothing to rejoin."""
        if self.decision.primary is None:
            return stale.hint
        return f"on node {stale.nodes[0]}: {self.cluster.rejoin(self.decision.primary, program())}"

    def _lag(self, state: NodeState) -> str:
        """How much WAL of the primary a standby has not received."""
        primary = self.decision.primary_state
        if primary is None or not state.reachable or state.role != "standby":
            return ""
        return f", {size(max(primary.lsn - state.lsn, 0))} behind"

    def _backup(self) -> list[str]:
        """Barman's slot on the primary, how far Barman has received, and what its archive was found to be."""
        primary, barman = self.decision.primary_state, self.cluster.barman
        if primary is None or barman is None:
            return []
        checks = [f"archive: {row}" for row in self.wal_checks] or ["archive: its records have not been checked yet"]
        return [*self._stream(primary, barman), *checks]

    @staticmethod
    def _stream(primary: NodeState, barman: Barman) -> list[str]:
        slot, sender = primary.slot(barman.slot_name), primary.sender(barman.slot_name)
        if slot is None or slot.restart_lsn is None or not slot.reserved:
            lost = slot.invalidation_reason or slot.wal_status if slot else ""
            why = f"invalidated by PostgreSQL ({lost})" if lost else "not there, or it reserves no WAL"
            return [f"slot {barman.slot_name}: {why}"]
        holds = size(max(primary.lsn - slot.restart_lsn, 0))
        held = f"slot {barman.slot_name}: {slot.wal_status or 'there'}, holds {holds} of WAL"
        if sender is None or sender.flushed is None:
            return [held, "Barman: not streaming"]
        return [held, f"Barman: {sender.state}, {size(max(primary.lsn - sender.flushed, 0))} behind"]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain data; the README describes it."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"healthy": self.healthy, **_plain({**data, "cluster": self.cluster.name})}


def look(managed: ManagedCluster, host: Host, journal: Journal | None, loaded: Config) -> ClusterStatus:
    """Look at a cluster now."""
    settings = managed.cluster
    finder = primary_finder(settings, journal)
    decision = finder.decision(host)
    last = journal.last_run(settings.name) if journal else []
    event = journal.last_event(settings.name) if journal else None
    paused = pause_of(settings.name, journal, loaded.state_dir)
    hold, unreadable = hold_of(managed)
    pooled = pgbouncers(managed, hold, host)
    warnings = drift.warnings(managed, cluster_state(decision, finder), host) if decision.primary else []
    pending: list[Problem] = []
    seen, unseen = gateways.seen_and_wrong(settings, decision.primary, host)
    try:
        ports = leads_to(settings, our_rules(settings, host))
    except OperationFailed as error:
        ports, pending = {}, [Problem.of(error)]
    return ClusterStatus(
        settings,
        decision,
        ports,
        tuple(pending or _pending(managed, finder, decision, host)),
        (
            *warnings,
            *unreadable,
            *unseen,
            *(problem for each in pooled for problem in each.problems),
            *(clocks_off(last_heard(journal, settings.name)) if journal else ()),
        ),
        len(journal.waiting(settings.name)) if journal else 0,
        paused,
        (event[0], str(event[1])) if event else None,
        # A run that will not be tried again was an event's contradiction of the cluster, and there is nothing to fix.
        last[0] if last and last[0].ok is False and last[0].again else None,
        loaded.service.retry.max_attempts,
        holder(loaded.state_dir / lock_name(settings.name)),
        0.0 if paused else _unwatched(loaded, settings.name),
        tuple(led_astray(probe(settings, managed.opened_ports, host), decision.primary)),
        ReadinessProbe().look(decision, settings, host, finder.last_known.since),
        tuple(last_checks(journal, settings.name)) if journal else (),
        pooled,
        hold,
        seen,
    )


def _unwatched(loaded: Config, cluster: str) -> float:
    """Return the seconds since the service looked, if it should have looked again by now."""
    looked = last_heartbeat(loaded.state_dir, cluster)
    since = clock.wall() - looked if looked is not None else 0.0
    return (
        since
        if loaded.service.monitor_interval and since > max(LOOKS_AT_LEAST, 3 * loaded.service.monitor_interval)
        else 0.0
    )


def where(node: int | None) -> str:
    """Return where a port leads, in words."""
    return "closed" if node is None else f"leads to node {node}"


def _pending(managed: ManagedCluster, finder: PrimaryFinder, decision: PrimaryDecision, host: Host) -> list[Problem]:
    if decision.primary is None:
        unknown = managed.cluster.unknown
        found = dry_run.differences(fencing.fence(managed, decision, host, None, unknown.close if unknown else ()))
        return [_when(problem, unknown) for problem in found]
    state = cluster_state(decision, finder)
    chosen = [item for item in dispatcher.select(managed.routes, []) if works_on(item.action, managed.cluster, host)]
    return dry_run.differences(dry_run.preview(chosen, state, host))


def _when(problem: Problem, unknown: WhileUnknown | None) -> Problem:
    """Return it with when the service does it, if it does it only then."""
    if unknown is None or problem.code != firewall.CLOSE_WHILE_UNKNOWN:
        return problem
    return replace(problem, hint=f"the service does it when no primary has been known for {unknown.after} s")


def _plain(value: Any) -> Any:
    """Return dataclasses as dictionaries; a reason or an obstacle as its code, message, hint and nodes."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Reason):
        return {**_plain(value.problem), "nodes": list(value.nodes)}
    if isinstance(value, Obstacle):
        return {**_plain(value.problem), "nodes": list(value.nodes), "nobody": value.nobody}
    if isinstance(value, Failed):
        return {**value.place._asdict(), "code": value.code}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
