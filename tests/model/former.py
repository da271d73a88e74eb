"""A node as a shell there finds it: it is stopped, rewound or cloned, whatever else becomes of it meanwhile.

What ``former_primary/scripts.py`` looks at on the node is looked at here too, written anew from PostgreSQL's manual.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.former_primary.on_node import Ended
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.former_primary.scripts import Refused
from tests.model.cluster import ModelNode
from tests.model.counts import CLONED, COUNTS, REWOUND, STOPPED
from tests.model.host import ModelHost

UNREACHABLE = "ssh: no route to host"
FAILED = Ended(24, "ERROR: pg_rewind execution failed")


class ModelOnNode:
    """Of every node. A job looks once more when it begins, and has its effect when it is asked for."""

    def __init__(self, host: ModelHost) -> None:
        self._host, self._oracle, self._cluster = host, host.oracle, host.cluster
        self._jobs: dict[str, Callable[[], Ended]] = {}
        self.rewind_fails = False
        self.meanwhile: Callable[[], object] | None = None
        """What happens once between the last look from here and the one on the node."""

    def look(self, former: Former) -> Former:
        self._host.use()
        happens, self.meanwhile = self.meanwhile, None
        if happens:
            self._host.let(happens)
        return replace(former, directory="/data")

    def stop(self, former: Former, limit: float) -> Former:
        self._oracle.asks_to_stop(former.node)
        node = self._reached(former)
        if not self._is(node, former):
            raise OperationFailed("it is something else", code="another")
        if node.up:
            self._oracle.stops(former.node)
            node.up = False
            COUNTS[STOPPED] += 1
        else:
            self._oracle.finds_stopped(former.node)
        self._host.let(lambda: None)
        return replace(former, phase="fenced")

    def rejoin(self, former: Former, primary: NodeState, began: int | None) -> None:
        self._begin(former, primary, True)

    def clone(self, former: Former, primary: NodeState) -> None:
        self._begin(former, primary, False)

    def ask(self, former: Former) -> Ended | None:
        self._reached(former)
        job = self._jobs.pop(former.job, None)
        return job() if job else Ended(Refused.CUT_OFF)

    def _begin(self, former: Former, primary: NodeState, rewinds: bool) -> None:
        self._oracle.asks_to_rejoin(former.node)
        node, target = self._reached(former), self._cluster.nodes[primary.node]
        refused = self._refused(node, former, target, primary, rewinds)

        def ends() -> Ended:
            if refused:
                return Ended(refused)
            if node.up:
                return FAILED  # somebody has started it: repmgr cannot
            if (rewinds and self.rewind_fails) or not self._sees(former.node, primary):
                return FAILED
            self._oracle.rejoins(former.node)
            node.become_standby_of(primary.node, target)
            if not rewinds:
                node.slots.clear()
            target.registered = tuple(other for other in target.registered if other != former.node)
            self._cluster.say(former.node, "node_rejoin")
            COUNTS[REWOUND if rewinds else CLONED] += 1
            self._host.let(lambda: None)
            return Ended(0)

        self._jobs[former.job] = ends

    def _refused(
        self, node: ModelNode, former: Former, target: ModelNode, primary: NodeState, rewinds: bool
    ) -> Refused | None:
        if node.up:
            return Refused.RUNNING
        if rewinds and not self._is(node, former):
            return Refused.ANOTHER
        if not self._sees(former.node, primary) or target.term.timeline != primary.timeline:
            return Refused.PRIMARY
        return None

    def _is(self, node: ModelNode, former: Former) -> bool:
        """No standby, and its newest timeline is the one that was seen."""
        return not node.in_recovery and node.term.timeline == former.timeline

    def _sees(self, number: int, primary: NodeState) -> bool:
        target = self._cluster.nodes[primary.node]
        return target.runs_as_primary and frozenset({number, primary.node}) not in self._cluster.cut

    def _reached(self, former: Former) -> ModelNode:
        """A host answers whose PostgreSQL is down. Raises OperationFailed if the link is cut."""
        self._host.use()
        if former.node in self._cluster.hidden:
            raise OperationFailed(UNREACHABLE, code="program_failed")
        return self._cluster.nodes[former.node]
