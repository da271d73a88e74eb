"""A handler under test: its options, a world, the states of a cluster, and how it is asked."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.notice import Notice, notice_of
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.engine.asking import fit
from repmgr_hooks.engine.routes import Action
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.event import Event
from repmgr_hooks.handlers.contract import Handler
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.document import Document
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.steps import Host, Step
from repmgr_hooks.testing.host import NotScripted, ScriptedHost
from repmgr_hooks.testing.supervision import NOTHING, OBSERVE, PLAN, Reached, Supervision

CLUSTER: Mapping[str, Any] = {
    "nodes": {1: {"host": "10.0.0.11"}, 2: {"host": "10.0.0.12"}},
    "gateway": {"address": "10.0.0.20", "ports": {"barman": 54321, "app": 54322}},
    "barman": {"server": "main_backup", "slot_name": "barman"},
}
SYSTEM = "7300000000000000001"
NO_HOST = cast(Host, None)
"""For what needs none."""
T = TypeVar("T")


class Fault(Exception):
    """What is wrong with a handler."""


@dataclass(frozen=True)
class Subject:
    """What is tested. ``world`` makes a host, a fresh one each time, on which the handler has not worked yet."""

    action: Action
    cluster: Cluster
    world: Callable[[], Host]
    states: Mapping[str, ClusterState]

    @property
    def handler(self) -> Handler:
        return self.action.handler

    def host(self, state: ClusterState) -> Host:
        """Return a fresh world in this state."""
        host = self.world()
        enter(host, state)
        return host

    def look(self, state: ClusterState, host: Host) -> list[Step]:
        """Return the steps that are missing. Raises Fault, OperationFailed."""
        now = host.confirmed(state) if isinstance(host, ScriptedHost) else state
        return self.plan(now, self.observe(now, host))

    def observe(self, state: ClusterState, host: Host) -> Any:
        """Return what the handler sees. Raises Fault, OperationFailed."""
        observe = self.handler.observe
        if observe is None:
            return None
        return self.ask("observe", OBSERVE, lambda given: observe(self.action.config, state, given), host)

    def plan(self, state: ClusterState, seen: Any) -> list[Step]:
        """Return what the handler says that is missing. Raises Fault."""
        return self._plan(state, seen) if self.handler.observe else self.plan_notice(notice_of(state))

    def plan_notice(self, notice: Notice) -> list[Step]:
        """Return how a notification is given. Raises Fault."""
        return self._plan(notice, None)

    def _plan(self, given: ClusterState | Notice, seen: Any) -> list[Step]:
        plan, action = self.handler.plan, self.action
        try:
            return self.ask("plan", PLAN, lambda _: fit(plan(action.config, given, seen), action))
        except OperationFailed as error:
            raise Fault(f"'plan' raises OperationFailed: {error}; what fails is for 'observe' to say") from None

    def warn(self, state: ClusterState) -> list[Problem]:
        """Return what the handler says that no step can fix. Raises Fault."""
        return self.ask("warnings", PLAN, lambda _: list(self.handler.warnings(self.action.config, state)))

    def fingerprint(self, state: ClusterState, host: Host) -> object:
        """Raises Fault, OperationFailed."""
        return self.ask("fingerprint", OBSERVE, lambda given: self.handler.fingerprint(state, given), host)

    def housekeep(self, state: ClusterState, host: Host) -> None:
        """Raises Fault, OperationFailed."""
        self.ask("housekeep", NOTHING, lambda given: self.handler.housekeep(self.action.config, state, given), host)

    def fence(self, state: ClusterState, host: Host) -> list[Step]:
        """Return the steps after which nothing leads to the other nodes. Raises Fault, OperationFailed."""
        stale = [node for node in self.cluster.nodes if node != state.primary]
        return self.ask(
            "fence", OBSERVE, lambda given: fit(self.handler.fence(self.cluster, stale, given), self.action), host
        )

    def ask(
        self,
        part: str,
        forbidden: frozenset[str],
        question: Callable[[Host], T],
        host: Host = NO_HOST,
    ) -> T:
        """Return what a part of the handler answers. Raises Fault, and OperationFailed as the handler does."""
        watched = Supervision(self.handler, part, forbidden)
        with self._faults(part, watched), watched.watching():
            return question(watched.supervised(host))

    @contextmanager
    def _faults(self, part: str, watched: Supervision) -> Iterator[None]:
        try:
            yield
        except (OperationFailed, NotScripted):
            raise_if(watched)
            raise
        except Reached as reached:
            raise Fault(str(reached)) from None
        except BaseException as error:
            raise_if(watched)
            raise Fault(f"'{part}' raises {_shortly(error)}{self._place(error)}") from error
        raise_if(watched)

    def _place(self, error: BaseException) -> str:
        file = getattr(self.handler, "__file__", None)
        lines = [line for line in traceback.extract_tb(error.__traceback__) if line.filename == file]
        return f" at {file}:{lines[-1].lineno}" if lines else ""


def raise_if(watched: Supervision) -> None:
    """Raises Fault if the handler has reached outside, whatever it made of that."""
    if watched.found:
        raise Fault(watched.found[0])


def _shortly(error: BaseException) -> str:
    said = repr(error)
    return said if len(said) < 200 else f"{said[:200]}..."


def enter(host: Host, state: ClusterState) -> None:
    """Let a world know in which state the cluster is."""
    if isinstance(host, ScriptedHost):
        host.enter(state)


def take(steps: list[Step], host: Host, when: str = "") -> None:
    """Take steps, as the executor does. Raises Fault."""
    for step in steps:
        try:
            apply(step, host)
        except OperationFailed as error:
            if not step.helper:
                raise Fault(f"{when}the step {step.what!r} fails: {error}") from None


def options(wanted: type[Any], given: Any, path: str) -> Any:
    """Return options as the configuration is read. Raises Fault."""
    document = Document("", here=False)
    found = document.read(wanted, given, path)
    if document.problems:
        raise Fault("; ".join(map(str, document.problems)))
    return found


def usual_states(cluster: Cluster) -> dict[str, ClusterState]:
    """Return what happens to every cluster: a failover, the old primary in each way it may come back, a switchover.

    Raises Fault if the cluster has not two nodes.
    """
    nodes = [number for number, node in cluster.nodes.items() if not node.witness]
    if len(nodes) < 2:
        raise Fault("a cluster needs two nodes for a failover")
    first, second = nodes[:2]
    promoted = Event(second, "repmgrd_failover_promote")
    silent = NodeState(first, error="connection timeout expired")
    stale = NodeState(first, in_recovery=False, timeline=1, system_identifier=SYSTEM)
    return {
        f"node {first} is the primary": _state(cluster, first, 1, None),
        f"node {second} was promoted, node {first} is silent": _state(cluster, second, 2, promoted, silent),
        f"node {second} is the primary, node {first} a stale one": _state(cluster, second, 2, None, stale),
        f"node {first} is a standby of node {second}": _state(cluster, second, 2, Event(first, "node_rejoin")),
        f"node {first} is the primary again": _state(cluster, first, 3, Event(first, "standby_switchover")),
    }


def _state(
    cluster: Cluster, primary: int, timeline: int, event: Event | None, other: NodeState | None = None
) -> ClusterState:
    states = {
        number: NodeState(
            number, in_recovery=number != primary, timeline=timeline, system_identifier=SYSTEM, witness=node.witness
        )
        for number, node in cluster.nodes.items()
    }
    if other:
        states[other.node] = other
    previous = next((number for number in states if number != primary), None) if timeline > 1 else None
    return ClusterState(
        cluster, primary, timeline, states, event, LastKnownPrimary(primary, timeline, SYSTEM, previous=previous)
    )
