"""Says which alerts a cluster calls for, from what its controller has seen so far."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

from repmgr_hooks.alerts.rules import Unserved, conditions, only_seen_here, overdue, own_conditions
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.obstacles import Obstacle
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import HooksError, Problem
from repmgr_hooks.journal.rows import RunRow
from repmgr_hooks.journal.wal_checks import WalCheckRow
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host


class Listener(Protocol):
    """What takes the alerts; ``Notifier`` is the real one. It must return at once."""

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        """A cluster calls for these alerts now, and for no others."""

    def leave(self, cluster: str, but: Collection[str]) -> None:
        """Another gateway tells from now on of what a cluster calls for, but of these conditions."""

    def tell(self, alert: Alert) -> None:
        """This has happened."""


class Nobody:
    """A listener that sends nothing."""

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        """Tell nobody."""

    def leave(self, cluster: str, but: Collection[str]) -> None:
        """There is nothing to leave."""

    def tell(self, alert: Alert) -> None:
        """Tell nobody."""


class AlertEvaluator:
    """Finds the alerts of one cluster; ``attempts``: after so many a failed run is given up."""

    def __init__(self, managed: ManagedCluster, host: Host, attempts: int, listener: Listener) -> None:
        self._managed, self._host, self._attempts, self._listener = managed, host, attempts, listener
        self._decision: PrimaryDecision | None = None
        self._known_at = self._known_since = host.now()
        """When a primary was last seen, and since when it is the same one."""

    def saw(self, decision: PrimaryDecision | None) -> None:
        """A look, or a run, has ended with this decision."""
        before, self._decision = self._decision, decision or self._decision
        if decision and (before is None or before.primary != decision.primary):
            self._known_since = self._host.now()
        if decision and decision.primary is not None:
            self._known_at = self._host.now()

    def note(
        self,
        warnings: Sequence[Problem],
        failed: RunRow | None,
        unserved: Sequence[Unserved] = (),
        obstacles: Sequence[Obstacle] = (),
        wal: Sequence[WalCheckRow] = (),
    ) -> None:
        """All is done that can be done now: tell what is still wrong; nothing yet while a primary is waited for.

        ``unserved``: the ports through which a client cannot write; ``obstacles``: what stands against a failover.
        ``wal``: what following the records of Barman's WAL has shown.
        """
        decision, cluster = self._decision, self._managed.cluster
        unknown_for = self._host.now() - self._known_at
        if not serves(cluster.gateway, self._host):
            # Whoever has the address tells the rest, and what we have told of it has ended here.
            self._listener.leave(cluster.name, own_conditions(cluster))
            return self._listener.note(cluster.name, only_seen_here(self._managed, warnings, failed, wal))
        if decision and (
            decision.primary is not None or decision.stale_primaries or unknown_for >= cluster.promotion_timeout
        ):
            late = overdue(self._managed, unserved, self._known_since, self._host.now())
            found = conditions(self._managed, decision, warnings, failed, self._attempts, late, obstacles, wal)
            self._listener.note(cluster.name, found)
        return None

    def hindered(self, condition: str, error: HooksError) -> None:
        """Something of our own does not work; with the journal, what the last run was is not known either."""
        name, what = self._managed.cluster.name, str(error)
        self._listener.tell(Alert(name, condition, "warning", what, hint=error.hint, momentary=True))
