"""While a switchover is under way the service looks often; what one that is gone has left, it takes back."""

from __future__ import annotations

import logging

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.service.monitor import Monitor
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover import take_back
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)


def guard(cluster: Cluster, monitor: Monitor, host: Host) -> None:
    """Look after the switchover of a cluster, if there is one.

    repmgr promotes a node at any moment while it is at work, and clients wait for that.
    """
    primary = monitor.decision.primary if monitor.decision else None
    try:
        under_way = take_back.look(cluster, primary, host)
    except OperationFailed as error:
        log.error("%s: %s", cluster.name, error)
        return
    if under_way and under_way.repmgr:
        monitor.look_now(hurry=True)
