"""The back ends that there are, and what is the same for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from repmgr_hooks.netfilter import iptables, nftables
from repmgr_hooks.netfilter.our_rules import Backend, OurRules, Rule, led_by
from repmgr_hooks.settings.cluster import Cluster

BACKENDS: Mapping[str, Backend] = {"iptables": iptables, "nftables": nftables}


def chosen(cluster: Cluster) -> Backend:
    """Return the back end that the configuration names."""
    return BACKENDS[cluster.gateway.backend]


def leads_to(cluster: Cluster, ours: OurRules) -> dict[str, int | None]:
    """Return for each named port the node that our rules lead it to; None if the port is closed."""
    backend = BACKENDS[ours.backend]
    meant = {
        backend.dnat_rule(cluster, name, node.host).key: (name, number)
        for name in cluster.gateway.ports
        for number, node in cluster.nodes.items()
    }
    # Of two rules for one port the first one counts.
    found = dict(reversed([meant[rule.key] for rule in ours.rules if rule.key in meant]))
    return {name: found.get(name) for name in cluster.gateway.ports}


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


def lead(cluster: Cluster, ours: OurRules, ports: Collection[str], host: str, snat_here: bool) -> str:
    """Return the change after which exactly these ports lead to a node; empty if they do, and all of ours is right.

    A port that is held stays so until it is led to another node than before: that is what its clients wait for.
    """
    backend, before = BACKENDS[ours.backend], leads_to(cluster, ours)
    there = next((number for number, node in cluster.nodes.items() if node.host == host), None)
    wait = [name for name in held(cluster, ours) if name not in ports or before[name] == there]
    wanted = [_hold(cluster, ours, name) for name in wait]
    wanted += [backend.dnat_rule(cluster, name, host) for name in cluster.gateway.ports if name in ports]
    wanted += backend.snat_rules(cluster, host, snat_here)
    same = sorted(rule.form for rule in ours.rules) == sorted(rule.form for rule in wanted)
    return "" if same and not ours.repairs else backend.swap(cluster, wanted, ours.repairs)


def close(cluster: Cluster, ours: OurRules, ports: Collection[int], hosts: Collection[str] = ()) -> str:
    """Return the change after which no rule of ours leads these ports, or anything to these hosts; empty if none does.

    Of a port that leads to such a host all rules go: what stands behind the first would come to light without it.
    """
    shut = {*ports, *(port for port, host in ours.leading if host in hosts)}
    kept = [rule for rule in ours.rules if rule.host not in hosts and not any(p in shut for p, _ in led_by([rule]))]
    return "" if kept == list(ours.rules) else BACKENDS[ours.backend].swap(cluster, kept)
