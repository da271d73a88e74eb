"""What the configuration asks for: routes, which say after which events what is to be true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from repmgr_hooks.handlers.contract import Handler
from repmgr_hooks.settings.cluster import Cluster


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
        return self.handler.fail_open_after(self.config)

    @property
    def on_tick(self) -> bool:
        """Whether this is looked at without an event, every few seconds."""
        return self.handler.observe is not None and self.handler.on_tick(self.config)


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
