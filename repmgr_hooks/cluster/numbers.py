"""What a look sees of ports, readers, slots and former primaries, in numbers: ``metrics`` prints them, and the service
shows them to ``serve-http``. The names are those of ``reports/exposition.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.failover_slots import failover_slots, in_sync
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.readers import Fitness, Reading
from repmgr_hooks.settings.cluster import Cluster

Number = tuple[str, dict[str, str], float]
"""A metric, its labels besides the cluster, and the value."""


def of_ports(
    cluster: Cluster, leads_to: Mapping[str, int | None], spread: Mapping[str, Collection[int]]
) -> Iterator[Number]:
    """Yield where each port leads; ``spread``: that of those for readers."""
    targets = {port: () if node is None else (node,) for port, node in leads_to.items()}
    for port, there in {**targets, **spread}.items():
        for node in cluster.nodes:
            yield ("port_target", {"port": port, "node": str(node)}, int(node in there))


def of_readers(port: str, readings: Iterable[Reading]) -> Iterator[Number]:
    """Yield what each node is to the readers of a port."""
    for each in readings:
        labels = {"port": port, "node": str(each.node)}
        yield ("reader_fit", labels, int(each.fitness is Fitness.FIT))
        if each.lag is not None:
            yield ("reader_lag_bytes", labels, each.lag)


def of_slots(decision: PrimaryDecision, names: Iterable[str]) -> Iterator[Number]:
    """Yield what these physical slots hold on each node, and the primary's failover slots."""
    for state in decision.states:
        for name in names:
            yield from _retained(state, name)
    if primary := decision.primary_state:
        for slot in failover_slots(primary):
            yield from _retained(primary, slot.name)
            for state in decision.states:
                if state.reachable and state.role == "standby":
                    labels = {"node": str(state.node), "slot": slot.name}
                    yield ("failover_slot_in_sync", labels, int(in_sync(state, slot.name)))


def _retained(state: NodeState, name: str) -> Iterator[Number]:
    slot = state.slot(name)
    if slot and slot.restart_lsn is not None:
        labels = {"node": str(state.node), "slot": name}
        yield ("slot_retained_bytes", labels, max(state.lsn - slot.restart_lsn, 0))


def of_formers(cluster: Cluster, formers: Mapping[int, tuple[bool, int]]) -> Iterator[Number]:
    """Yield for each node whether we have stopped it, and the attempts to rejoin it; nothing if nobody looks after it.

    Of all nodes, for a sum over time.
    """
    for node in cluster.nodes if cluster.former_primary else ():
        stopped, attempts = formers.get(node, (False, 0))
        yield ("node_is_fenced", {"node": str(node)}, int(stopped))
        yield ("rejoin_attempts", {"node": str(node)}, attempts)
