"""The back ends that there are, and what is the same for each."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from repmgr_hooks.netfilter import iptables, nftables
from repmgr_hooks.netfilter.our_rules import Backend, OurRules, led_by
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


def lead(cluster: Cluster, ours: OurRules, ports: Collection[str], host: str, snat_here: bool) -> str:
    """Return the change after which exactly these ports lead to a node; empty if they do, and all of ours is right."""
    backend = BACKENDS[ours.backend]
    wanted = [backend.dnat_rule(cluster, name, host) for name in cluster.gateway.ports if name in ports]
    wanted.append(backend.snat_rule(cluster, host, snat_here))
    same = sorted(rule.form for rule in ours.rules) == sorted(rule.form for rule in wanted)
    return "" if same and not ours.repairs else backend.swap(cluster, wanted, ours.repairs)


def close(cluster: Cluster, ours: OurRules, ports: Collection[int], hosts: Collection[str] = ()) -> str:
    """Return the change after which no rule of ours leads these ports, or anything to these hosts; empty if none does.

    Of a port that leads to such a host all rules go: what stands behind the first would come to light without it.
    """
    shut = {*ports, *(port for port, host in ours.leading if host in hosts)}
    kept = [rule for rule in ours.rules if rule.host not in hosts and not any(p in shut for p, _ in led_by([rule]))]
    return "" if kept == list(ours.rules) else BACKENDS[ours.backend].swap(cluster, kept)
