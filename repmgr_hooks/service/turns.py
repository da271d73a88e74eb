"""When each of many clusters is looked at for the first time, and how often its ports are tried while all is well.

What matters most comes first, for all of them. Whatever happens to a cluster waits for no turn.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from repmgr_hooks import clock
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.journal.rows import RunRow
from repmgr_hooks.settings.backoff import Backoff, left

log = logging.getLogger(__name__)

REST = 3600.0
NODES_EVERY = 0.02
"""Seconds from the first look at the nodes of one cluster to that at the next. A hundred at once kept each other from
it, and all from the journal."""
ALL_EVERY = 0.3
"""The same of the first look at everything, which comes when all nodes have been looked at: it takes some Pythons of
Barman's, half a second of a processor."""
CLIENTS_EVERY = 0.25
"""The same of the first visits through all ports, which come when everything has been looked at."""
MOST_VISITS = 4.0
"""Visits a second, of all clusters, while all is well: each is a login (SCRAM-SHA-256 hashes the password 4096 times),
3 ms of a processor here, and a process on the node. More than 120 ports, every 30 s, are visited less often."""
MOST_VISITS_AT_ALL = 40.0
"""Visits a second, of all clusters, but for what has just happened to one. For a hundred clusters with ten closed ports
each, as after a boot, 1,000 visits a second were due, which left little time to open them."""
LONGEST_BACKLOG = 30.0
"""Seconds that visits wait at most: some were booked by clusters that are no longer looked after."""


@dataclass(frozen=True)
class Turns:
    """Of one cluster: so many seconds after the start its nodes are looked at, then everything, and clients visit.

    A cluster that is not as it is remembered waits for none.
    """

    nodes: float = 0.0
    everything: float = 0.0
    clients: float = 0.0


def turns_of(number: int, count: int) -> Turns:
    """Return the turns of one of so many clusters; the first, or only, one waits for nothing.

    >>> turns_of(0, 1), turns_of(99, 100).everything < 32, turns_of(99, 100).clients < 60
    (Turns(nodes=0.0, everything=0.0, clients=0.0), True, True)
    """
    if not number:
        return Turns()
    seen, all_seen = count * NODES_EVERY, count * (NODES_EVERY + ALL_EVERY)
    return Turns(number * NODES_EVERY, seen + number * ALL_EVERY, all_seen + number * CLIENTS_EVERY)


@dataclass(frozen=True)
class Pace:
    """How often each of the ports of a cluster is tried while all is well, in seconds, and so many of them ``at_once``.

    ``everywhere``: the visits a second that the intervals of all clusters ask for.

    >>> Pace(2, 30, 0.1).period, Pace(10, 30, 32).period, Pace(10, 30, 32).at_once, Pace(10, 30, 32).every
    (30.0, 240.0, 1, 24.0)
    """

    ports: int
    interval: float
    everywhere: float

    @property
    def period(self) -> float:
        """Seconds from one visit through a port to the next; 0: never."""
        return self.interval * max(self.everywhere / MOST_VISITS, 1.0)

    @property
    def at_once(self) -> int:
        """So many ports are tried side by side: all, unless there are very many elsewhere."""
        return max(int(self.ports * self.interval / self.period), 1) if self.period else self.ports

    @property
    def every(self) -> float:
        """Seconds from one round of so many ports to the next."""
        return self.period * min(self.at_once / max(self.ports, 1), 1.0)


class VisitRate:
    """Spreads the visits of all clusters of this process in time, while very many ports are tried at once."""

    def __init__(self, most: float = MOST_VISITS_AT_ALL) -> None:
        self._most = most
        self._booking = threading.Lock()
        self._free = -math.inf

    def until_free(self, visits: int, now: float) -> float:
        """Return the seconds until so many visits have their turn; few, or none, wait for nothing.

        >>> rate = VisitRate(40)
        >>> [round(rate.until_free(10, now=0.0), 2) for _ in range(7)]
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.5]
        """
        if not visits:
            return 0.0
        with self._booking:
            begin = min(max(self._free, now - 1.0), now + LONGEST_BACKLOG)
            self._free = begin + visits / self._most
            return max(begin - now, 0.0)


VISITS = VisitRate()


def until_retry(failed: RunRow | None, retry: Backoff, begun: float) -> float:
    """Return the seconds until a run that has failed is tried again.

    One that was given up before we have ``begun`` is tried once more: who restarts the service has mended something.
    """
    if failed is None or failed.ended is None:
        return REST
    if failed.attempt >= retry.max_attempts:
        return REST if failed.ended >= begun else 0.0
    return left(failed.ended, retry.after(failed.attempt), clock.wall())


def visits_everywhere(clusters: Iterable[ManagedCluster]) -> float:
    """Return how many visits a second it takes to try each port of these clusters in its interval, from each place; say
    so if that is more than is done.
    """
    tried = [managed for managed in clusters if managed.cluster.client.interval]
    visits = {m.cluster.name: len(m.opened_ports) * (2 if m.cluster.client.shell else 1) for m in tried}
    # Rounded, or a sum of thirds would be more than a whole.
    wanted = round(sum(visits[m.cluster.name] / m.cluster.client.interval for m in tried), 6)
    if wanted > MOST_VISITS:
        paces = [Pace(1, m.cluster.client.interval, wanted).period for m in tried]
        each = f"{min(paces):.0f}" if min(paces) == max(paces) else f"{min(paces):.0f} to {max(paces):.0f}"
        log.info("a client tries %d ports in turn, each every %s s; after a change at once", sum(visits.values()), each)
    return wanted
