"""Whether the nodes' names still lead to the addresses that the configuration has. No rule ever follows a name."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import suppress
from contextvars import copy_context

from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.settings.cluster import Cluster, Node
from repmgr_hooks.system.steps import Host, Program
from repmgr_hooks.text import one_line

LIMIT = 3.0
"""Seconds for a name to be looked up: a DNS server may hang."""
EVERY = 60.0


def moved_to(number: int, node: Node, host: Host) -> Problem | None:
    """Return where else the name of a node leads now; None if to the node. Raises OperationFailed: to nothing.

    ``getent ahosts`` asks as ``getaddrinfo()`` does (getent(1)), and can be ended.
    """
    lines = host.run(Program(("getent", "ahosts", node.name)), LIMIT).splitlines()
    found = sorted({line.split()[0] for line in lines if line.strip()})
    if node.host in found:
        return None
    now = one_line(", ".join(found)) or "nothing"
    what = f"node {number}: the name {node.name} leads to {now} now; clients are still led to {node.host}"
    hint = (
        f"if the node has moved, write its address into the configuration (nodes.{number}.host), then "
        "systemctl restart repmgr-hooks; else correct the name in DNS or /etc/hosts"
    )
    return Problem("name_moved", what, hint)


def moved(cluster: Cluster, host: Host) -> Iterator[Problem]:
    """Yield each node whose name leads elsewhere now; one that cannot be looked up says nothing of the node."""
    for number, node in named(cluster):
        with suppress(OperationFailed):
            if problem := moved_to(number, node, host):
                yield problem


def named(cluster: Cluster) -> list[tuple[int, Node]]:
    """Return the nodes that have a name in the configuration."""
    return [(number, node) for number, node in cluster.nodes.items() if node.name]


class NameWatch:
    """Looks the names up every ``EVERY`` seconds, in a thread of its own: no look at the nodes waits for DNS."""

    def __init__(self) -> None:
        self.problems: tuple[Problem, ...] = ()
        """What the last answers showed; of a name that cannot be looked up now, the answer before."""
        self._last: dict[int, Problem | None] = {}
        self._due = -math.inf
        self._busy = threading.Event()

    def look(self, cluster: Cluster, host: Host) -> tuple[Problem, ...]:
        """Return what the last answers showed, and see to the next ones."""
        if host.now() >= self._due and not self._busy.is_set() and named(cluster):
            self._due = host.now() + EVERY
            self._busy.set()
            asking = copy_context().run
            threading.Thread(target=asking, args=(self._ask, cluster, host), name="names", daemon=True).start()
        return self.problems

    def _ask(self, cluster: Cluster, host: Host) -> None:
        try:
            for number, node in named(cluster):
                with suppress(OperationFailed):
                    self._last[number] = moved_to(number, node, host)
            self.problems = tuple(filter(None, self._last.values()))
        finally:
            self._busy.clear()
