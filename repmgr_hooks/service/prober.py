"""Tries as a client whether the ports can be used, in a thread of its own: a failover never waits for a probe.

After every run, and as soon as a primary is missed, it tries all ports at once; while a client cannot write, once a
second, so that the journal knows when that began and ended; else at the probe's own interval, or, of very many ports,
in turn and less often. The visits of all clusters together have a rate (``turns.py``): opening ports matters more.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from repmgr_hooks import clock
from repmgr_hooks.cluster.probe import Probe, ProbeCode, led_astray, probe
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import Observation, ProbeRow
from repmgr_hooks.log import about
from repmgr_hooks.service.turns import VISITS, Pace
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

SOON = 1.0
SOON_FOR = 60.0
LATER = 5.0
NEVER = 3600.0
SERVED = (ProbeCode.WRITES.value, ProbeCode.READS.value)


@dataclass(frozen=True)
class PortResult:
    """What a port showed last, since when on the host's clock, how often in a row, and when last (since the epoch)."""

    probe: Probe
    since: float
    times: int
    seen: float


def noted(before: Mapping[str, PortResult], probes: Iterable[Probe], now: float, at: float) -> dict[str, PortResult]:
    """Return the results after these probes; a failure goes on while its reason changes."""
    results = {}
    for found in probes:
        was = before.get(found.name)
        if was and (was.probe.served, was.probe.good) == (found.served, found.good):
            results[found.name] = PortResult(found, was.since, was.times + 1, at)
        else:
            results[found.name] = PortResult(found, now, 1, at)
    return results


def told(found: Probe) -> tuple[ProbeCode, int | None]:
    """Return what is worth a word if it changes; readers come to another standby each time."""
    return found.code, None if found.code is ProbeCode.READS else found.node


def next_in(results: Mapping[str, PortResult], interval: float, now: float) -> float:
    """Return the seconds until the next probe."""
    failing = [now - item.since for item in results.values() if not item.probe.served]
    if failing:
        return SOON if min(failing) < SOON_FOR else LATER
    return float(interval) or NEVER


class NoProber:
    """Tries nothing."""

    resting = False
    primary: int | None = None
    period = 0.0

    def kick(self) -> None:
        """Try nothing."""

    def heard(self, news: Observation, remembered: bool) -> None:
        """Try nothing."""

    def visits(self) -> Sequence[PortResult]:
        """Return nothing."""
        return ()

    failing = visits


class Prober(threading.Thread):
    """The probes of one cluster; ``resting``: none for now, for somebody works on the cluster.

    ``primary``: where a client should end up, as far as that is known. ``first``: the seconds until the first probe,
    unless something happens before. ``everywhere``: the visits a second that all clusters ask for.
    """

    def __init__(
        self,
        managed: ManagedCluster,
        host: Host,
        journal: Journal,
        close: Callable[[], None] = lambda: None,
        first: float = 0.0,
        everywhere: float = 0.0,
    ) -> None:
        super().__init__(name=f"probes of {managed.cluster.name}", daemon=True)
        self._managed, self._host, self._journal, self._close = managed, host, journal, close
        self._first = first
        self._pace = Pace(len(managed.opened_ports), managed.cluster.client.interval, everywhere)
        self._next_port, self._begun = 0, False
        self._kicked, self._stopping = threading.Event(), threading.Event()
        self._results: dict[str, PortResult] = {}
        self.resting = False
        self.primary: int | None = None

    @property
    def period(self) -> float:
        """Seconds from one visit through a port to the next, while all is well; 0: never."""
        return self._pace.period

    def kick(self) -> None:
        """Try all now: something has happened."""
        self._kicked.set()

    def heard(self, news: Observation, remembered: bool) -> None:
        """Try now, for a look has shown something else; that of a service that has just begun has its turn anyway, if
        the primary is the one that it ``remembered``, and no visit was made before it was known where one should end.
        """
        self.primary = news.primary
        if news.before is not None or not remembered or self._begun:
            self.kick()

    def visits(self) -> Sequence[PortResult]:
        """Return what each port showed last."""
        return tuple(self._results.values())

    def failing(self) -> Sequence[PortResult]:
        """Return what a client could not do when it was tried last, or not where it should."""
        return [item for item in self._results.values() if not item.probe.good]

    def stop(self) -> None:
        """End soon; a visit that is under way is not waited for."""
        self._stopping.set()
        self._kicked.set()

    def run(self) -> None:
        """Probe until stopped."""
        wait = 0.0 if self._first and self._failed_before() else self._first
        while not self._stopping.is_set():
            kicked = self._kicked.wait(wait)
            turn = VISITS.until_free(self._visits(kicked), clock.monotonic())
            if not kicked:  # what happens meanwhile is looked at at once
                kicked = self._kicked.wait(turn)
            self._kicked.clear()
            try:
                wait = self.probe(kicked) if not self._stopping.is_set() else 0.0
            except Exception:
                log.exception("%s: a bug in repmgr_hooks; please report it", self.name)
                wait = NEVER
        self._close()

    def _failed_before(self) -> bool:
        """True if a client failed when it was tried last: until it is tried again, its alert would count as over."""
        try:
            last = self._journal.last_probes(self._managed.cluster.name)
        except OperationFailed:
            return False
        failed = [port.split(" from ")[0] for port, code in last.items() if code not in SERVED]
        return any(f"port {port}" in failed for port in self._managed.opened_ports)

    def probe(self, everywhere: bool = True) -> float:
        """Probe once, ``everywhere`` or where it is due, and return the seconds until the next time."""
        cluster, self._begun = self._managed.cluster, True
        if self.resting:
            self._results = {}
            return LATER
        ports = self._managed.opened_ports if self._everywhere(everywhere) else self._in_turn()
        probes = led_astray(probe(cluster, ports, self._host), self.primary)
        self._host.close_idle()
        now, at, before = self._host.now(), clock.wall(), self._results
        self._results = {**before, **noted(before, probes, now, at)}
        with about(cluster=cluster.name):
            self._tell([(found, before.get(found.name)) for found in probes], at)
        return next_in(self._results, self._pace.every, now)

    def _everywhere(self, wanted: bool) -> bool:
        """True if all ports are to be visited, and not only those whose turn it is."""
        return wanted or bool(self.failing()) or not self._results

    def _visits(self, kicked: bool) -> int:
        """Return how many visits the next probe takes."""
        ports = len(self._managed.opened_ports) if self._everywhere(kicked) else self._pace.at_once
        return 0 if self.resting else ports * (2 if self._managed.cluster.client.shell else 1)

    def _in_turn(self) -> Sequence[str]:
        """Return the ports whose turn it is."""
        ports, count = self._managed.opened_ports, self._pace.at_once
        begin, self._next_port = self._next_port, (self._next_port + count) % max(len(ports), 1)
        return (*ports[begin:], *ports[:begin])[:count]

    def _tell(self, probes: Sequence[tuple[Probe, PortResult | None]], at: float) -> None:
        """Log and write down what is new; all of it at once, for each time the journal waits for the disk."""
        new = [(found, was) for found, was in probes if not was or told(was.probe) != told(found)]
        if self._stopping.is_set() or not new:
            return
        for found, _ in new:
            log.log(logging.INFO if found.good else logging.WARNING, "%s: %s", self._managed.cluster.name, found)
        try:
            rows = [
                ProbeRow(at, was.seen if was else None, found.name, found.code.value, found.node, str(found))
                for found, was in new
            ]
            self._journal.probed(self._managed.cluster.name, rows)
        except OperationFailed as error:
            log.error("%s", error)
