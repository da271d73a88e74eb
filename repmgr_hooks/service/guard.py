"""While a switchover is under way the service looks often; what one that is gone has left, it takes back."""

from __future__ import annotations

import logging
from concurrent.futures import Future

from repmgr_hooks import background
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.service.monitor import Monitor
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover import on_node, take_back
from repmgr_hooks.switchover.record import Record
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

ASK_EVERY, ASK_LIMIT = 2.0, 15.0
"""Seconds between two questions to a node, and for its answer."""


class SwitchoverGuard:
    """Looks after the switchover of a cluster, if there is one."""

    def __init__(self, cluster: Cluster, monitor: Monitor, host: Host) -> None:
        self._cluster, self._monitor, self._host = cluster, monitor, host
        self._said = ""
        self._asked: tuple[str, Future[bool]] | None = None
        self._ask_at = 0.0

    def look(self) -> None:
        """repmgr promotes a node at any moment while it is at work, and clients wait for that."""
        decision, said = self._monitor.decision, ""
        try:
            primary = decision.primary if decision else None
            under_way = take_back.look(self._cluster, primary, self._host, self._has_ended)
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

    def _has_ended(self, found: Record) -> bool:
        """True once the node has said so. It is asked in a thread: the run that leads the ports waits for no ssh."""
        command = self._cluster.nodes[found.target].shell if found.target in self._cluster.nodes else ()
        if not found.place or not command:
            return False
        if self._asked and self._asked[0] == found.place:
            answer = self._asked[1]
            if not answer.done() or (answer.exception() is None and answer.result()):
                return answer.done()
        if self._host.now() >= self._ask_at:
            self._ask_at = self._host.now() + ASK_EVERY
            host, place = self._host, found.place
            self._asked = place, background.begun(lambda: on_node.has_ended(command, place, host, ASK_LIMIT))
        return False
