"""What the configuration asks for: routes, which say after which events what is to be true."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from repmgr_hooks.cluster.notice import Notice
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import BUILT_IN
from repmgr_hooks.handlers.contract import Handler
from repmgr_hooks.settings.cluster import Cluster, NodeId
from repmgr_hooks.settings.schema import NotEmpty
from repmgr_hooks.text import one_line

log = logging.getLogger(__name__)

T = TypeVar("T")
LONGEST = 3600.0
"""Seconds after which the last action is carried out whatever has failed."""


@dataclass(frozen=True)
class When:
    """For which of its events an action is meant; what is left out does not matter.

    ``node`` and ``role`` are those of the event's node, as it is seen; ``success`` is what repmgr reports (``%s``);
    ``primary``: whether it is known which node is the primary.
    """

    node: Annotated[tuple[NodeId, ...], NotEmpty()] = ()
    success: bool | None = None
    role: Annotated[tuple[Literal["primary", "standby", "witness", "silent"], ...], NotEmpty()] = ()
    primary: Literal["known", "unknown", "any"] = "any"

    @property
    def needs_event(self) -> bool:
        """Whether nothing can be said without an event; such an action is not looked at without one."""
        return bool(self.node or self.role) or self.success is not None

    @property
    def holds_at_any_look(self) -> bool:
        """Whether it holds without an event, once the primary is known."""
        return not self.needs_event and self.primary != "unknown"

    def meant(self, event: Event) -> bool:
        """True if the event may be one of these, by what it says itself."""
        return (not self.node or event.node in self.node) and self.success in (None, event.success)

    def applies(self, given: Notice) -> bool:
        """True if the event is one of these, as the cluster is seen."""
        known = "unknown" if given.primary is None else "known"
        return (not self.role or given.role in self.role) and self.primary in ("any", known)


ALWAYS = When()


@dataclass(frozen=True)
class Action:
    """One entry under ``do``: a handler and its options."""

    name: str
    handler: Handler
    config: Any
    title: str
    path: str = ""
    when: When = ALWAYS

    @property
    def fail_open_after(self) -> float | None:
        """Seconds after the start of the run at which this is done even if what comes before has failed."""
        return _said(self.handler.fail_open_after, self.config, None, _is_limit)

    @property
    def built_in(self) -> bool:
        """Whether the handler is one of ours."""
        return self.name in BUILT_IN

    @property
    def helper(self) -> bool:
        """Whether what comes after it in its route is done although it failed; the failure is said all the same."""
        return _said(self.handler.helper, self.config, False, _is_flag)

    def shared_in(self, cluster: Cluster) -> bool:
        """Whether it works on what exists once, and there are several gateways."""
        return bool(cluster.gateway.hosts) and _said(
            lambda config: self.handler.shared(config, cluster), self.config, True, _is_flag
        )

    @property
    def on_tick(self) -> bool:
        """Whether this is looked at without an event, every few seconds."""
        return self.handler.observe is not None and _said(self.handler.on_tick, self.config, True, _is_flag)


def _said(question: Callable[[Any], T], config: object, otherwise: T, fits: Callable[[object], bool]) -> T:
    """Return what a handler says of its options; a broken one must not stop the others."""
    try:
        said = question(config)
        if not fits(said):
            raise TypeError(f"{one_line(repr(said))} is no answer")
        return said
    except BaseException as error:  # whatever it raises; nobody interrupts what takes no time
        log.error("a bug in a handler: %r", error)
        return otherwise


def _is_flag(said: object) -> bool:
    return isinstance(said, bool)


def _is_limit(said: object) -> bool:
    return said is None or (isinstance(said, int | float) and 0 <= said <= LONGEST)


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

    @property
    def kept_slots(self) -> tuple[str, ...]:
        """The slots that a route keeps on the primary; those of all gateways, if each has a Barman of its own."""
        kept = [a.config for a in self.actions if a.name == "slot" and a.config.on == "primary"]
        barmans = self.cluster.barman.slots if self.cluster.barman else ()
        return tuple(dict.fromkeys(name for slot in kept for name in ((slot.name,) if slot.name else barmans)))

    def opens_within(self, port: str) -> float:
        """Return the seconds after which a port is opened even if what comes before has failed."""
        return max(
            (action.fail_open_after or 0.0 for action in self.actions if getattr(action.config, "open", None) == port),
            default=0.0,
        )
