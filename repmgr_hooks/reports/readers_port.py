"""What ``status`` and ``metrics`` say of a port for readers: where it leads, and what each node is to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from repmgr_hooks.cluster import readers
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.readers import Fitness, Reading
from repmgr_hooks.cluster.wal import size
from repmgr_hooks.settings.cluster import Cluster, Readers

NO_NEW_ONES = "gets no new connections"


@dataclass(frozen=True)
class ReadersPort:
    """``leads_to``: the nodes between which new connections are shared; ``nodes``: what each is to readers; empty while
    no primary is known.
    """

    settings: Readers
    leads_to: tuple[int, ...]
    nodes: tuple[Reading, ...] = ()

    @property
    def where(self) -> str:
        """Where it leads, in words."""
        return f"leads to {' and '.join(f'node {node}' for node in self.leads_to)}" if self.leads_to else "closed"

    def lines(self) -> Iterator[str]:
        """Yield a line for each standby."""
        for each in self.nodes:
            if each.fitness is not Fitness.PRIMARY:
                lag = f"{size(each.lag)} to replay" if each.lag is not None else ""
                out = "" if each.node in self.leads_to else NO_NEW_ONES
                yield f"node {each.node}: {', '.join(filter(None, (lag, each.message, out)))}"


def look(cluster: Cluster, spread: Mapping[str, tuple[int, ...]], state: ClusterState | None) -> dict[str, ReadersPort]:
    """Return each port for readers; ``spread``: where the rules lead it."""
    return {
        port: ReadersPort(settings, spread.get(port, ()), readers.readings(state, port) if state else ())
        for port, settings in cluster.readers.items()
    }
