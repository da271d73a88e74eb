"""The back ends that there are, and what is the same for each."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType

from repmgr_hooks.netfilter import iptables, nftables
from repmgr_hooks.netfilter.our_rules import Backend, OurRules, Rule, led_by
from repmgr_hooks.netfilter.remembered import last_answer
from repmgr_hooks.settings.cluster import Cluster

NOBODY: Mapping[str, Sequence[int]] = MappingProxyType({})
BACKENDS: Mapping[str, Backend] = {"iptables": iptables, "nftables": nftables}


def chosen(cluster: Cluster) -> Backend:
    """Return the back end that the configuration names."""
    return BACKENDS[cluster.gateway.backend]


def leads_to(cluster: Cluster, ours: OurRules) -> dict[str, int | None]:
    """Return for each named port the node that our rules lead it to; None if the port is closed.

    Ports for readers are in ``spread_over``.
    """
    return dict(_leads_to(cluster, ours))


@last_answer
def _leads_to(cluster: Cluster, ours: OurRules) -> tuple[tuple[str, int | None], ...]:
    backend = BACKENDS[ours.backend]
    meant = {
        backend.dnat_rule(cluster, name, cluster.endpoint(number)).key: (name, number)
        for name in cluster.gateway.ports
        if name not in cluster.readers
        for number in cluster.nodes
    }
    # Of two rules for one port the first one counts.
    found = dict(reversed([meant[rule.key] for rule in ours.rules if rule.key in meant]))
    return tuple((name, found.get(name)) for name in cluster.gateway.ports if name not in cluster.readers)


def spread_over(cluster: Cluster, ours: OurRules) -> dict[str, tuple[int, ...]]:
    """Return for each port for readers the nodes that our rules lead it to; none if it is closed."""
    ports = cluster.gateway.ports
    led = {name: {cluster.node_at(to) for port, to in ours.leading if port == ports[name]} for name in cluster.readers}
    return {name: tuple(node for node in sorted(cluster.nodes) if node in there) for name, there in led.items()}


def _spread(cluster: Cluster, backend: Backend, port: str, nodes: Sequence[int]) -> Iterator[Rule]:
    """Lead equal shares of new connections to these nodes: one of three, of the rest one of two, and what is left."""
    for place, node in enumerate(nodes):
        yield backend.dnat_rule(cluster, port, cluster.endpoint(node), len(nodes) - place)


def all_shares(cluster: Cluster) -> str:
    """Return a change that leads each port for readers to all nodes; to be tried, never made."""
    nodes = [number for number, node in cluster.nodes.items() if not node.witness]
    shares = [rule for port in cluster.readers for rule in _spread(cluster, chosen(cluster), port, nodes)]
    return chosen(cluster).swap(cluster, shares)


def held(cluster: Cluster, ours: OurRules) -> tuple[str, ...]:
    """Return the named ports whose new connections wait."""
    there = {rule.form for rule in ours.rules}
    return tuple(name for name in cluster.gateway.ports if _hold(cluster, ours, name).form in there)


def hold(cluster: Cluster, ours: OurRules, ports: Collection[str]) -> str:
    """Return the change after which new connections to these ports, and no others, wait; empty if it is so.

    Behind that stay the rules that lead them.
    """
    holds = [_hold(cluster, ours, name) for name in cluster.gateway.ports if name in ports]
    all_holds = {_hold(cluster, ours, name).form for name in cluster.gateway.ports}
    others = [rule for rule in ours.rules if rule.form not in all_holds]
    same = set(held(cluster, ours)) == set(ports)
    return "" if same else BACKENDS[ours.backend].swap(cluster, [*holds, *others], ours.repairs)


def _hold(cluster: Cluster, ours: OurRules, port: str) -> Rule:
    return BACKENDS[ours.backend].hold_rule(cluster, port)


def lead(
    cluster: Cluster,
    ours: OurRules,
    ports: Collection[str],
    primary: int,
    snat_here: bool,
    readers: Mapping[str, Sequence[int]] = NOBODY,
) -> str:
    """Return the change after which exactly these ports lead to a node, and those for readers to theirs; empty if they
    do, and all of ours is right.

    A port that is held stays so until it is led to another node than before: that is what its clients wait for.
    """
    spread = tuple((name, tuple(nodes)) for name, nodes in readers.items())
    return _lead(cluster, ours, frozenset(ports), primary, snat_here, spread)


@last_answer
def _lead(
    cluster: Cluster,
    ours: OurRules,
    ports: frozenset[str],
    primary: int,
    snat_here: bool,
    readers: tuple[tuple[str, tuple[int, ...]], ...],
) -> str:
    backend, before = BACKENDS[ours.backend], leads_to(cluster, ours)
    wait = [name for name in held(cluster, ours) if name not in ports or before.get(name) == primary]
    wanted = [_hold(cluster, ours, name) for name in wait]
    wanted += [backend.dnat_rule(cluster, name, cluster.endpoint(primary)) for name in before if name in ports]
    shares = [rule for name, nodes in readers for rule in _spread(cluster, backend, name, nodes)]
    others = sorted({cluster.endpoint(node) for _, nodes in readers for node in nodes})
    ends = dict.fromkeys([cluster.endpoint(primary), *others])
    wanted += [*shares, *(rule for each in ends for rule in backend.snat_rules(cluster, each, snat_here))]
    # What is left for one rule depends on those before it.
    in_turn = [rule.form for rule in shares]
    same = sorted(rule.form for rule in ours.rules) == sorted(rule.form for rule in wanted)
    same = same and [rule.form for rule in ours.rules if rule.form in in_turn] == in_turn
    return "" if same and not ours.repairs else backend.swap(cluster, wanted, ours.repairs)


def close(cluster: Cluster, ours: OurRules, ports: Collection[int], nodes: Collection[int] = ()) -> str:
    """Return the change after which no rule of ours leads these ports, or anything to these nodes; empty if none does.

    Of a port that leads to such a node all rules go: what stands behind the first would come to light without it. A
    port for readers still leads to its other nodes.
    """
    shut = {*ports, *(port for port, to in ours.leading if cluster.is_of(nodes, to))}
    spread = {
        name: [node for node in there if node not in nodes]
        for name, there in spread_over(cluster, ours).items()
        if cluster.gateway.ports[name] in shut.difference(ports)
    }
    return _without(cluster, ours, shut, spread, nodes)


def respread(cluster: Cluster, ours: OurRules, spread: Mapping[str, Sequence[int]]) -> str:
    """Return the change after which ports for readers lead to these nodes, and all else is as before; empty if so."""
    now = spread_over(cluster, ours)
    changed = {name: nodes for name, nodes in spread.items() if nodes != now[name]}
    return _without(cluster, ours, {cluster.gateway.ports[name] for name in changed}, changed)


def _without(
    cluster: Cluster,
    ours: OurRules,
    ports: Collection[int],
    spread: Mapping[str, Sequence[int]],
    nodes: Collection[int] = (),
) -> str:
    """Return the change after which no rule leads these ports, but to whom readers are spread over, and none to these
    nodes; empty if none does.
    """
    to_others = [rule for rule in ours.rules if rule.to is None or not cluster.is_of(nodes, rule.to)]
    kept = [rule for rule in to_others if not any(port in ports for port, _ in led_by([rule]))]
    backend = BACKENDS[ours.backend]
    shares = [rule for name, over in spread.items() for rule in _spread(cluster, backend, name, over)]
    return "" if kept == list(ours.rules) else backend.swap(cluster, [*kept, *shares])
