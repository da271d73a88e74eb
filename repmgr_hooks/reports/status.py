"""What ``status`` shows: each cluster's primary and why, its nodes, its ports, what is wrong and what to do."""

from __future__ import annotations

import dataclasses
import enum
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.gateways import GatewaySeen
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.obstacles import Obstacle
from repmgr_hooks.cluster.probe import Probe, merged
from repmgr_hooks.cluster.readiness import Readiness
from repmgr_hooks.cluster.reasons import Reason, ReasonCode
from repmgr_hooks.cluster.repmgr_files import program
from repmgr_hooks.cluster.wal import size
from repmgr_hooks.errors import Problem, hint_lines
from repmgr_hooks.handlers import firewall
from repmgr_hooks.journal.holds import Hold
from repmgr_hooks.journal.maintenance import Pause
from repmgr_hooks.journal.pauses import until_when
from repmgr_hooks.journal.rows import Failed, RunRow
from repmgr_hooks.journal.wal_checks import WalCheckRow, wrong
from repmgr_hooks.lock import Holder
from repmgr_hooks.reports.endpoint import Endpoint
from repmgr_hooks.reports.former import FormerSeen
from repmgr_hooks.reports.pooled import Pooled
from repmgr_hooks.reports.readers_port import ReadersPort
from repmgr_hooks.reports.slots import held_by, logical
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover.record import Record
from repmgr_hooks.system.rules import UNSEEN

HANDLED_WITHIN = 10.0
"""Seconds in which a service that runs has usually handled an event."""


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
    no_service: bool = False
    """True if none is running that should look: each event starts a worker, and what sends none is not seen."""
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
    switchover: Record | None = None
    """The planned change of the primary that is under way, or that was left."""
    readers: dict[str, ReadersPort] = field(default_factory=dict)
    """The ports for readers."""
    former_primaries: tuple[FormerSeen, ...] = ()
    """Which nodes we have stopped, and what becomes of them."""
    other_slots: tuple[str, ...] = ()
    """The slots of other programs than Barman that the routes keep on the primary."""
    http: Endpoint | None = None
    """What load balancers are answered; None if that was not looked at."""
    waited: float = 0.0
    """Seconds for which the oldest of the events that wait has done so."""
    spared_since: float = 0.0
    """Seconds since the service found what was not looked at again, of many clusters; 0: all was looked at now."""

    @property
    def healthy(self) -> bool:
        """True if everything is in the desired state."""
        wrong = self.decision.notes or self.pending or self.warnings or self.paused or self.failed or self.overdue
        served = all(probe.good for probe in self.probes)
        whole = not any(row.problem for row in self.wal_checks)
        watched = self.decision.primary is not None and not wrong and not self.unwatched
        served = served and not self.hold and not self.switchover
        return watched and served and whole and not self.obstacles

    @property
    def overdue(self) -> bool:
        """True if events wait for longer than a service needs that runs."""
        return self.waited > HANDLED_WITHIN

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
        served = {probe.port: f", and a client {probe.does}s there" for probe in self.probes if probe.served}
        ports = {port: where(node) for port, node in self.ports.items()}
        ports |= {port: each.where for port, each in self.readers.items()}
        for port, there in ports.items():
            lines.append(f"  port {numbers[port]} ({port}): {there}{served.get(port, '')}")
            lines += [f"    {line}" for line in self.readers[port].lines()] if port in self.readers else []
        lines += [f"  {each}" for each in self.gateways]
        lines += [f"  {pooled}" for pooled in self.pgbouncers]
        lines += [*self._hold(), *self._switchover()]
        lines += [f"  {line}" for each in self.former_primaries for line in (str(each), *hint_lines(each.hint))]
        lines += [f"  {line}" for line in self._backup()]
        primary = decision.primary_state
        lines += [f"  {held_by(primary, name)}" for name in self.other_slots if primary]
        lines += [f"  {line}" for line in logical(decision)]
        if self.readiness:
            lines.append(f"  failover: {self.readiness}")
        if self.http:
            lines.append(f"  HTTP: {self.http}")
        if self.no_service:
            lines.append("  service: none is running, so only events are seen")
            lines.append("  HINT: systemctl enable --now repmgr-hooks")
        if self.last:
            received, event = self.last
            lines.append(f"  last event: {event}, {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(received))}")
        if self.lock:
            lines.append(f"  lock: held by {self.lock}")
        if self.spared_since:
            lines.append(
                f"  clients, Barman's files, repmgr.conf: as the service found them {self.spared_since:.0f} s ago"
            )
        return lines + [f"  {line}" for line in self._wrong()]

    def _hold(self) -> list[str]:
        if self.hold is None:
            return []
        now, hold = clock.monotonic(), self.hold
        end = f"until {hold.limit - hold.seconds(now):.0f} s from now" if not hold.over else "to be let go"
        return [f"  HELD by process {hold.holder.process} for {hold.seconds(now):.0f} s, {end} ({hold.why})"]

    def _switchover(self) -> list[str]:
        if self.switchover is None:
            return []
        found = self.switchover
        since = time.strftime("%H:%M:%S", time.localtime(found.since))
        return [f"  SWITCHOVER {found}, since {since}, process {found.holder.process}"]

    def _wrong(self) -> Iterator[str]:
        notes = [note.problem for note in self.decision.notes if note.code is not ReasonCode.STALE_PRIMARY]
        for problem in (*notes, *self.warnings):
            yield from (f"WARNING {problem}", *hint_lines(problem.hint))
        for found in merged(self.probes):
            # While no primary is known there is no port to lead.
            yield from (f"WARNING {found}", *hint_lines(found.hint if self.decision.primary else ""))
        for obstacle in self.obstacles:
            yield from (f"WARNING {obstacle}", *hint_lines(obstacle.hint))
        for problem in wrong(self.wal_checks, self.cluster):
            yield from (f"WARNING {problem}", *hint_lines(problem.hint))
        for problem in dict.fromkeys(self.pending):
            yield from (f"{'WARNING' if problem.code == UNSEEN else 'PENDING'} {problem}", *hint_lines(problem.hint))
        if self.unwatched:
            yield f"WARNING the service has not looked for {self.unwatched:.0f} s"
            yield "HINT: journalctl -u repmgr-hooks says why"
        if self.overdue:
            yield f"WARNING {self.waiting} event(s) wait to be handled"
            after = f"process {self.lock.process} is at work, and they come next" if self.lock else ""
            yield f"HINT: {after or 'make sure that repmgr-hooks.service is running'}"
        if self.failed:
            end = "given up" if self.failed.attempt >= self.attempts else "will be tried again"
            yield f"FAILED, {end}: {self.failed.message}"
        if self.failed or any(problem.code not in (firewall.CLOSE_WHILE_UNKNOWN, UNSEEN) for problem in self.pending):
            hint = self.failed.hint if self.failed else ""
            yield from hint_lines(hint, f"to do it now: repmgr-hooks reconcile --cluster {self.cluster.name}")

    def _rejoin(self, stale: Reason) -> str:
        """What makes a stale primary a standby again; while no primary is known, there is nothing to rejoin."""
        if self.decision.primary is None:
            return stale.hint
        return self.cluster.rejoin_stale(f"node {stale.nodes[0]}", self.decision.primary, program())

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
        checks = [f"archive: {row}" for row in self.wal_checks if not row.of_backup]
        return [*self._stream(primary, barman), *(checks or ["archive: its records have not been checked yet"])]

    @staticmethod
    def _stream(primary: NodeState, barman: Barman) -> list[str]:
        slot, sender = primary.slot(barman.slot_name), primary.sender(barman.slot_name)
        held = held_by(primary, barman.slot_name)
        if slot is None or not slot.reserved:
            return [held]
        if sender is None or sender.flushed is None:
            return [held, "Barman: not streaming"]
        return [held, f"Barman: {sender.state}, {size(max(primary.lsn - sender.flushed, 0))} behind"]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain data; the README describes it."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {"healthy": self.healthy, **_plain({**data, "cluster": self.cluster.name})}


def where(node: int | None) -> str:
    """Return where a port leads, in words."""
    return "closed" if node is None else f"leads to node {node}"


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
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
