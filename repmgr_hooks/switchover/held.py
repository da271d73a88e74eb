"""The clients are held by the gateway's own rules: new connections wait, those that are made go on."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.lock import exclusive, lock_name
from repmgr_hooks.netfilter import backends
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system import rules
from repmgr_hooks.system.steps import Host

LOCK_WAIT = 30.0
"""Seconds for a run that is under way: it writes the same rules."""


def begin(cluster: Cluster, ports: Collection[str], state_dir: Path, host: Host) -> float:
    """Hold new connections to these ports, and return since when, in seconds since the epoch. Raises OperationFailed.

    Which node the port leads to from then on is what they wait for: the run that leads it elsewhere ends it.
    """
    with exclusive(state_dir / lock_name(cluster.name), LOCK_WAIT):
        since = clock.wall()
        _write(cluster, ports, host)
    return since


def end(cluster: Cluster, state_dir: Path, host: Host) -> bool:
    """Let what still waits go on, to where the port leads; True if anything did. Raises OperationFailed."""
    if not backends.held(cluster, rules.our_rules(cluster, host)):
        return False
    with exclusive(state_dir / lock_name(cluster.name), LOCK_WAIT):
        return _write(cluster, (), host)


def is_led(cluster: Cluster, ports: Collection[str], primary: int, host: Host) -> bool:
    """True if the ports lead to a node, and nobody waits. Raises OperationFailed."""
    ours = rules.our_rules(cluster, host)
    to = backends.leads_to(cluster, ours)
    return not backends.held(cluster, ours) and all(to[port] == primary for port in ports)


def _write(cluster: Cluster, ports: Collection[str], host: Host) -> bool:
    ours = rules.our_rules(cluster, host)
    change = backends.hold(cluster, ours, ports)
    if change:
        host.run(rules.change(cluster, ours.backend, change), rules.LIMIT)
    if set(backends.held(cluster, rules.our_rules(cluster, host))) != set(ports):
        raise OperationFailed("the rules do not hold what they should", code="no_effect", hint="repmgr-hooks check")
    return bool(change)
