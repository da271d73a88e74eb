"""While a switchover is under way the service looks often; what one that is gone has left, it takes back."""

from __future__ import annotations

import logging

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.service.monitor import Monitor
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover import take_back
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)


class SwitchoverGuard:
    """Looks after the switchover of a cluster, if there is one."""

    def __init__(self, cluster: Cluster, monitor: Monitor, host: Host) -> None:
        self._cluster, self._monitor, self._host = cluster, monitor, host
        self._said = ""

    def look(self) -> None:
        """repmgr promotes a node at any moment while it is at work, and clients wait for that."""
        decision, said = self._monitor.decision, ""
        try:
            under_way = take_back.look(self._cluster, decision.primary if decision else None, self._host)
            if under_way and under_way.repmgr:
                self._monitor.look_now(hurry=True)
        except OperationFailed as error:
            said = str(error)
            if said != self._said:
                log.error("%s: %s", self._cluster.name, error)
        except Exception:  # events are handled all the same
            said = "bug"
            if said != self._said:
                log.exception("%s: a bug in repmgr_hooks; please report it", self._cluster.name)
        self._said = said
