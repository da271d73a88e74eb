"""Clients are held by the gateway's own rules: new connections to a port wait, those that are made go on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from repmgr_hooks.errors import LockTimeout, OperationFailed
from repmgr_hooks.lock import exclusive, lock_name
from repmgr_hooks.netfilter import backends
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system import rules
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

LOCK_WAIT = 2.0
"""Seconds for a run that is under way: it writes the same rules, but seldom."""


def hold(cluster: Cluster, ports: Collection[str], host: Host) -> None:
    """Hold new connections to these ports, and to no others. Raises OperationFailed.

    Which node the port leads to from then on is what they wait for: the run that leads it elsewhere ends it.
    """
    with _alone(cluster):
        ours = rules.our_rules(cluster, host)
        if change := backends.hold(cluster, ours, ports):
            host.run(rules.change(cluster, ours.backend, change), rules.LIMIT)
            if set(backends.held(cluster, rules.our_rules(cluster, host))) != set(ports):
                raise OperationFailed("the rules do not hold what they should", code="no_effect")


def release(cluster: Cluster, host: Host) -> None:
    """Let what still waits go on, to where the port leads. Raises OperationFailed."""
    if backends.held(cluster, rules.our_rules(cluster, host)):
        hold(cluster, (), host)


def lead_to(cluster: Cluster, ports: Collection[str], primary: int, host: Host) -> bool:
    """True if the ports lead to a node, and nobody waits. Raises OperationFailed."""
    ours = rules.our_rules(cluster, host)
    to = backends.leads_to(cluster, ours)
    return not backends.held(cluster, ours) and all(to[port] == primary for port in ports)


@contextlib.contextmanager
def _alone(cluster: Cluster) -> Iterator[None]:
    """Wait a little for a run that is under way; whoever is held waits for no run."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(Path(cluster.state_dir) / lock_name(cluster.name), LOCK_WAIT))
        except LockTimeout as error:
            log.info("%s; going on without it", error)
        yield
