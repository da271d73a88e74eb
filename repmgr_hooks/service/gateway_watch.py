"""Watches over several gateways: whether the address has come to this one, and what is wrong with them."""

from __future__ import annotations

import contextlib
import logging

from repmgr_hooks.cluster import barmans, gateways
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

HELD_FOR = 10.0
"""So long is something wrong before it is told: the address takes seconds to move, and a gateway to start."""


class GatewayWatch:
    """Of one cluster, and of this gateway; with a single gateway there is nothing to watch."""

    def __init__(self, cluster: Cluster, host: Host) -> None:
        self._cluster, self._host = cluster, host
        self._served = self._serves
        """Whether this gateway had the address at the last look."""
        self._since: dict[Problem, float] = {}
        self._shown_on: set[int] = set()
        """The nodes on which we have said that we watch them as the primary."""

    @property
    def _serves(self) -> bool:
        return serves(self._cluster.gateway, self._host)

    @property
    def moved(self) -> bool:
        """True if the address has come to this gateway, or gone, since the last look."""
        return self._serves != self._served

    def takes_over(self) -> bool:
        """Look whether the address has come to this gateway since the last look."""
        before, self._served = self._served, self._serves
        if before != self._served:
            has = "has" if self._served else "does not have"
            name, address = self._cluster.name, self._cluster.gateway.address
            log.warning("%s: this gateway %s the address %s now", name, has, address)
        return self._served and not before

    def look(self, decision: PrimaryDecision) -> tuple[Problem, ...]:
        """Look at the others, show ourselves to them, and return what has been wrong for some time."""
        primary, state = decision.primary, decision.primary_state
        self._take_back(primary)
        try:
            seen = gateways.look(self._cluster, primary, self._host, announce=True)
        except OperationFailed as error:
            log.debug("%s: the other gateways cannot be seen: %s", self._cluster.name, error)
            return ()
        if primary is None or state is None or not seen:
            return ()
        self._shown_on.add(primary)
        now = self._host.now()
        wrong = (*gateways.problems(self._cluster, seen), *barmans.problems(self._cluster, state))
        self._since = {each: self._since.get(each, now) for each in wrong}
        return tuple(each for each, since in self._since.items() if now - since >= HELD_FOR)

    def _take_back(self, primary: int | None) -> None:
        """A node that is the primary no more, and runs on, must not show that a gateway follows it."""
        for node in self._shown_on - {primary}:
            with contextlib.suppress(OperationFailed):
                gateways.take_back(node, self._host)
                self._shown_on.discard(node)
