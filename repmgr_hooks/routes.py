"""What the configuration asks for: routes, which say after which events what is to be true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from repmgr_hooks.cluster import Cluster
from repmgr_hooks.decide import Decided
from repmgr_hooks.handlers import BUILT_IN, Handler
from repmgr_hooks.steps import Step, World


@dataclass(frozen=True)
class Action:
    """One entry under ``do``: a handler and its options."""

    name: str
    handler: Handler
    config: Any
    title: str
    path: str = ""

    @property
    def at_latest(self) -> float | None:
        """Seconds after the start of the run at which this is done even if what comes before has failed."""
        return getattr(self.config, "at_latest", None)

    @property
    def built_in(self) -> bool:
        """Whether the handler is one of ours."""
        return self.handler in BUILT_IN.values()

    @property
    def on_tick(self) -> bool:
        """Whether this is looked at without an event, every few seconds."""
        return self.handler.observe is not None and getattr(self.config, "on_tick", True)

    def mark(self, decided: Decided, world: World) -> object:
        """Return what stays the same as long as a look would see the same; None if that cannot be known."""
        mark = getattr(self.handler, "mark", None)
        return mark(decided, world) if mark else None

    def warnings(self, decided: Decided) -> Sequence[str]:
        """Return what is wrong and no step of ours can mend."""
        warnings = getattr(self.handler, "warnings", None)
        return list(warnings(self.config, decided)) if warnings else []

    def tend(self, decided: Decided, world: World) -> None:
        """Do the small work of every look. Raises StepFailed."""
        if tend := getattr(self.handler, "tend", None):
            tend(self.config, decided, world)

    @property
    def shut_out(self) -> Callable[[Cluster, Sequence[int], World], Sequence[Step]] | None:
        """Returns the steps after which nothing leads to the nodes; None if the handler has no such function."""
        return getattr(self.handler, "shut_out", None)


@dataclass(frozen=True)
class Route:
    """Events, and what is to be true after any of them, in order."""

    on: frozenset[str]
    do: tuple[Action, ...]


@dataclass(frozen=True)
class Managed:
    """A cluster and its routes."""

    cluster: Cluster
    routes: tuple[Route, ...]

    @property
    def actions(self) -> tuple[Action, ...]:
        """The actions of all routes."""
        return tuple(action for route in self.routes for action in route.do)
