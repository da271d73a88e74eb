"""What the configuration asks for: routes, which say after which events what is to be true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.handlers import Handler
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Step


@dataclass(frozen=True)
class Action:
    """One entry under ``do``: a handler and its options."""

    name: str
    handler: Handler
    config: Any
    title: str
    path: str = ""

    @property
    def fail_open_after(self) -> float | None:
        """Seconds after the start of the run at which this is done even if what comes before has failed."""
        return getattr(self.config, "fail_open_after", None)

    @property
    def on_tick(self) -> bool:
        """Whether this is looked at without an event, every few seconds."""
        return self.handler.observe is not None and getattr(self.config, "on_tick", True)

    def mark(self, decided: ClusterState, host: Host) -> object:
        """Return what stays the same as long as a look would see the same; None if that cannot be known."""
        mark = getattr(self.handler, "mark", None)
        return mark(decided, host) if mark else None

    def warnings(self, decided: ClusterState) -> Sequence[str]:
        """Return what is wrong and no step of ours can mend."""
        warnings = getattr(self.handler, "warnings", None)
        return list(warnings(self.config, decided)) if warnings else []

    def housekeep(self, decided: ClusterState, host: Host) -> None:
        """Do the small work of every look. Raises OperationFailed."""
        if housekeep := getattr(self.handler, "housekeep", None):
            housekeep(self.config, decided, host)

    @property
    def fence(self) -> Callable[[Cluster, Sequence[int], Host], Sequence[Step]] | None:
        """Returns the steps after which nothing leads to the nodes; None if the handler has no such function."""
        return getattr(self.handler, "fence", None)


@dataclass(frozen=True)
class Route:
    """Events, and what is to be true after any of them, in order."""

    on: frozenset[str]
    do: tuple[Action, ...]


@dataclass(frozen=True)
class ManagedCluster:
    """A cluster and its routes."""

    cluster: Cluster
    routes: tuple[Route, ...]

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions of all routes."""
        return tuple(action for route in self.routes for action in route.do)

    @property
    def opened_ports(self) -> tuple[str, ...]:
        """The gateway's ports that a route opens."""
        opened = {getattr(action.config, "open", None) for action in self.actions}
        return tuple(port for port in self.cluster.gateway.ports if port in opened)

    def opens_within(self, port: str) -> float:
        """Return the seconds after which a port is opened even if what comes before has failed."""
        return max(
            (action.fail_open_after or 0.0 for action in self.actions if getattr(action.config, "open", None) == port),
            default=0.0,
        )
