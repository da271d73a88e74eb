"""Says which alerts a cluster calls for, from what its queue has seen so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from repmgr_hooks.alerts.cases import Alert
from repmgr_hooks.alerts.conditions import conditions
from repmgr_hooks.decide import Verdict
from repmgr_hooks.records import RunRow
from repmgr_hooks.routes import Managed
from repmgr_hooks.steps import World


class Listener(Protocol):
    """Whom the alarm tells; ``Outbox`` is the real one. It must return at once."""

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        """A cluster calls for these alerts now, and for no others."""

    def tell(self, alert: Alert) -> None:
        """This has happened."""


class Nobody:
    """Tells nobody."""

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        """Tell nobody."""

    def tell(self, alert: Alert) -> None:
        """Tell nobody."""


class Alarm:
    """The alarm of one cluster; ``attempts``: after so many a failed run is given up."""

    def __init__(self, managed: Managed, world: World, attempts: int, listener: Listener) -> None:
        self._managed, self._world, self._attempts, self._listener = managed, world, attempts, listener
        self._verdict: Verdict | None = None
        self._known_at = world.now()
        """When a primary was last seen."""

    def saw(self, verdict: Verdict | None) -> None:
        """A look, or a run, has ended with this verdict."""
        self._verdict = verdict or self._verdict
        if verdict and verdict.primary is not None:
            self._known_at = self._world.now()

    def note(self, warnings: Sequence[str], failed: RunRow | None) -> None:
        """All is done that can be done now: tell what is still wrong; nothing yet while a primary is waited for."""
        verdict, cluster = self._verdict, self._managed.cluster
        unknown_for = self._world.now() - self._known_at
        if verdict and (verdict.primary is not None or verdict.zombies or unknown_for >= cluster.primary_wait):
            self._listener.note(cluster.name, conditions(self._managed, verdict, warnings, failed, self._attempts))

    def hindered(self, condition: str, error: Exception) -> None:
        """Something of our own does not work; with the journal, what the last run was is not known either."""
        self._listener.tell(Alert(self._managed.cluster.name, condition, "warning", str(error), momentary=True))
