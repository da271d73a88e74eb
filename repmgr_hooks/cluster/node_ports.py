"""Whether repmgr reaches the nodes on the ports that the configuration has. No rule ever follows a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress

from repmgr_hooks.cluster.repmgr_files import Identity, identities
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host

EVERY = 60.0


def moved(cluster: Cluster, known: Mapping[int, Identity]) -> Iterator[tuple[int, Problem]]:
    """Yield each node that repmgr reaches on another port of the same host: another node may have ours by now.

    Of another address nothing can be said, for it may be of another network.
    """
    for number, identity in known.items():
        node = cluster.nodes.get(number)
        ours, theirs = cluster.endpoint(number).port if node else None, identity.port
        if node and identity.host and identity.host in (node.host, node.name) and theirs not in (None, ours):
            what = f"node {number}: repmgr.nodes has port {theirs}; clients are still led to {ours}"
            hint = (
                f"if the node has moved, write its port into the configuration (nodes.{number}.port), then "
                f"systemctl restart repmgr-hooks; else correct its conninfo in {identity.conf}, and register it again"
            )
            yield number, Problem("port_moved", what, hint)


def ask(cluster: Cluster, primary: int | None, host: Host) -> list[Problem]:
    """Ask the primary. Raises OperationFailed."""
    known = identities(primary, host, cluster.postgres.timeout) if primary else {}
    return [problem for _, problem in moved(cluster, known)]


class PortWatch:
    """Asks the primary every ``EVERY`` seconds; while nobody says anything else, the last answer holds."""

    def __init__(self) -> None:
        self._problems: tuple[Problem, ...] = ()
        self._due = -math.inf

    def look(self, cluster: Cluster, primary: int | None, host: Host) -> tuple[Problem, ...]:
        """Return what the last answer showed."""
        if primary and host.now() >= self._due:
            self._due = host.now() + EVERY
            with suppress(OperationFailed):
                self._problems = tuple(ask(cluster, primary, host))
        return self._problems
