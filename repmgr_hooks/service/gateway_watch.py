"""Watches over several gateways: whether the address has come to this one, and what is wrong with them."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace

from repmgr_hooks.cluster import barmans, gateways, in_step
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.service.absence import Absence
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

HELD_FOR = 10.0
"""So long is something wrong before it is told: the address takes seconds to move, and a gateway to start."""
COMPARE_EVERY = 60.0
"""So often is it looked whether clients' connections are tracked here: a program runs for it."""


class GatewayWatch:
    """Of one cluster, and of this gateway; with a single gateway there is nothing to watch."""

    def __init__(self, cluster: Cluster, host: Host, absence: Absence) -> None:
        self._cluster, self._host, self._absence = cluster, host, absence
        self.stood_still = False
        """Whether the last look has shown that this gateway had stood still."""
        self._served = self._serves
        """Whether this gateway had the address at the last look."""
        self._since: dict[Problem, float] = {}
        self._shown_on: set[int] = set()
        """The nodes on which we have said that we watch them as the primary."""
        self._compare_at = host.now()
        self._tracking = in_step.Tracking()
        self._not_in_step: tuple[Problem, ...] = ()

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
        if self._cluster.barman and self._cluster.barman.login:
            self._host.stay_logged_in(self._cluster.barman.login)  # when the address comes, nobody has time for that
        self._take_back(primary)
        self.stood_still = False
        try:
            seen, time = gateways.look_with_time(self._cluster, primary, self._host, announce=True)
        except OperationFailed as error:
            log.debug("%s: the other gateways cannot be seen: %s", self._cluster.name, error)
            return ()
        if primary is None or state is None or not seen:
            return ()
        self._shown_on.add(primary)
        self.stood_still = time is not None and self._absence.heard(primary, time)
        now = self._host.now()
        wrong = (*gateways.problems(self._cluster, seen), *barmans.problems(self._cluster, state))
        self._since = {each: self._since.get(each, now) for each in wrong}
        lasting = (each for each, since in self._since.items() if now - since >= HELD_FOR)
        return (*lasting, *self._compare(primary))

    def _compare(self, primary: int) -> tuple[Problem, ...]:
        """Return what is wrong with the connections that are tracked: those that were missing the last time, too."""
        now, cluster = self._host.now(), self._cluster
        if not in_step.judged_by_kernel(cluster, self._host):
            self._tracking, self._not_in_step = in_step.Tracking(), ()
            return ()
        if now < self._compare_at:
            return self._not_in_step
        self._compare_at = now + COMPARE_EVERY
        try:
            seen = in_step.look(cluster, [primary], self._host)
        except OperationFailed as error:
            log.debug("%s: what is tracked cannot be judged: %s", cluster.name, error)
            return self._not_in_step
        broken = seen.still(self._tracking).broken
        self._tracking = replace(seen, broken=seen.broken | broken)
        self._not_in_step = (in_step.problem(cluster, self._host),) if broken else ()
        return self._not_in_step

    def _take_back(self, primary: int | None) -> None:
        """A node that is the primary no more, and runs on, must not show that a gateway follows it."""
        for node in self._shown_on - {primary}:
            with contextlib.suppress(OperationFailed):
                gateways.take_back(node, self._host)
                self._shown_on.discard(node)
