"""Barman on each of several gateways, with a slot of its own on the primary: what a gateway sees of the others'.

Each gateway sees to its own. Nobody touches another's slot or stream: whose gateway is away wants to go on from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.words import amount

CODE = "gateway_barman"
STREAMS = ("catchup", "streaming")
"""The states of a walsender that sends WAL, as ``pg_stat_replication`` has them."""


def of_this_host(cluster: Cluster) -> Barman:
    """Return Barman's settings; the configuration was refused if a handler needs them and they are not there.

    Raises OperationFailed if each gateway has its own, and this host is none of them.
    """
    assert cluster.barman is not None
    if not cluster.barman.slot_name:
        raise OperationFailed(
            f"none of the gateways {', '.join(cluster.gateway.hosts)} is this host, so no Barman is its own",
            code="gateway_unnamed",
            hint="one of 'gateway.hosts' must be an address of this host",
        )
    return cluster.barman


def slots(cluster: Cluster) -> dict[str, str]:
    """Return the slot of each gateway's own Barman, by the gateway's address; nothing, if there is one Barman."""
    barman = cluster.barman
    own = barman.gateways if barman and barman.on_each_gateway else {}
    return {host: each.slot_name for host, each in own.items()}


def others(cluster: Cluster) -> dict[str, str]:
    """Return those of the other gateways."""
    return {host: slot for host, slot in slots(cluster).items() if cluster.barman and slot != cluster.barman.slot_name}


def streams(primary: NodeState, slot: str) -> bool:
    """Whether somebody fetches what a slot keeps."""
    sender = primary.sender(slot)
    return sender is not None and sender.state in STREAMS


def problems(cluster: Cluster, primary: NodeState) -> Iterator[Problem]:
    """Return which of the other gateways' Barmans would have a gap, or is on the way there."""
    for host, slot in others(cluster).items():
        found, whose = primary.slot(slot), f"Barman on gateway {host}"
        hint = "on it: repmgr-hooks status"
        if found is None or not found.reserved:
            yield Problem(CODE, f"node {primary.node} keeps no WAL for {whose} (slot {slot})", hint)
        elif not streams(primary, slot):
            yield Problem(CODE, f"{whose} does not stream from node {primary.node} (slot {slot})", hint)


def too_much(cluster: Cluster, nodes: Iterable[NodeState], limit: str) -> Iterator[Problem]:
    """Return which nodes keep more WAL than that for a gateway that is away."""
    for host, name in others(cluster).items():
        for node in nodes:
            slot = node.slot(name)
            if slot and slot.reserved and node.lsn - (slot.restart_lsn or 0) > amount(limit):
                what = f"slot {name} on node {node.node} holds more than {limit} of WAL for Barman on gateway {host}"
                drop = f"select pg_drop_replication_slot('{name}')"
                hint = f"bring that gateway back; or give up what its Barman lacks, and on node {node.node}: {drop}"
                yield Problem("slot_holds_too_much", what, hint)
