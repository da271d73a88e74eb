"""Our rules in the nat table, as text: those that should be there, those that are, and where they lead."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable

from repmgr_hooks.netfilter.iptables import Family
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster, Gateway

Leading = tuple[int, str]
"""A port of the gateway, and the address that it leads to."""


def parse_rules(saved: str) -> tuple[str, ...]:
    """Return the rules that ``iptables-save`` prints, without the quotes that it puts in some versions only.

    >>> parse_rules('*nat\\n-A a -m comment --comment "repmgr_hooks:main:app" -j b\\n# done')
    ('-A a -m comment --comment repmgr_hooks:main:app -j b',)
    """
    return tuple(unquoted(line) for line in saved.splitlines() if line.startswith("-A "))


def unquoted(line: str) -> str:
    """Return a rule as it is without the quotes that only some versions of iptables print."""
    try:
        return " ".join(shlex.split(line))
    except ValueError:  # a foreign rule with a quote of its own in it
        return line


def leads_to(cluster: Cluster, nat: Iterable[str]) -> dict[str, int | None]:
    """Return for each named port the node that our rules lead it to; None if the port is closed."""
    meant = {
        without_comment(dnat_rule(cluster, name, node.host)): (name, number)
        for name in cluster.gateway.ports
        for number, node in cluster.nodes.items()
    }
    # Of two rules for one port the first one counts.
    found = dict(reversed([meant[rule] for rule in map(without_comment, nat) if rule in meant]))
    return {name: found.get(name) for name in cluster.gateway.ports}


def without_comment(rule: str) -> str:
    """Return a rule without its comment: those of the article's scripts have none, and lead clients all the same."""
    return re.sub(r" -m comment --comment \S+", "", rule)


def dnat_rule(cluster: Cluster, port: str, host: str) -> str:
    """Return the rule that leads a named port to a node, in the form that ``iptables-save`` prints."""
    gateway, family = cluster.gateway, Family(cluster.gateway.address)
    return (
        f"-A {gateway.chains.dnat} -d {family.exactly(gateway.address)} -p tcp -m tcp --dport {gateway.ports[port]} "
        f"-m comment --comment repmgr_hooks:{cluster.name}:{port} "
        f"-j DNAT --to-destination {family.socket(host, cluster.postgres.port)}"
    )


def snat_rule(cluster: Cluster, host: str, here: bool = True) -> str:
    """Return the rule that makes the node answer through the gateway.

    ``--ctstate DNAT`` holds for what a DNAT rule has led (iptables-extensions(8), conntrack): what goes to a node from
    this host itself, as repmgrd's looks and ours do, keeps its way. With an address that is not ``here``, every answer
    would go elsewhere; then the kernel chooses one that is (MASQUERADE).
    """
    gateway, family = cluster.gateway, Family(cluster.gateway.address)
    target = f"SNAT --to-source {gateway.snat}" if here and gateway.snat != MASQUERADE else "MASQUERADE"
    return (
        f"-A {gateway.chains.snat} -d {family.exactly(host)} -p tcp -m tcp --dport {cluster.postgres.port} "
        "-m conntrack --ctstate DNAT "
        f"-m comment --comment repmgr_hooks:{cluster.name}:{cluster.postgres.port} "
        f"-j {target}"
    )


def jumps(gateway: Gateway) -> list[str]:
    """Return the rules that lead into our chains, as the article has them."""
    dnat, snat = gateway.chains.dnat, gateway.chains.snat
    return [f"-A PREROUTING -j {dnat}", f"-A OUTPUT -j {dnat}", f"-A POSTROUTING -j {snat}"]


def own_rules(gateway: Gateway, nat: Iterable[str]) -> list[str]:
    """Return the rules in our own chains."""
    return [line for line in nat if line.startswith((f"-A {gateway.chains.dnat} ", f"-A {gateway.chains.snat} "))]


def swap(gateway: Gateway, rules: Iterable[str]) -> str:
    """Return the transaction that empties our chains and adds these rules."""
    declared = [f":{gateway.chains.dnat} - [0:0]", f":{gateway.chains.snat} - [0:0]"]
    return "\n".join(["*nat", *declared, *rules, "COMMIT", ""])


def once(rule: str, times: int) -> list[str]:
    """Return what makes a rule that is there ``times`` times be there once."""
    return [rule] if times == 0 else [rule.replace("-A ", "-D ", 1)] * (times - 1)


def led_by(rules: Iterable[str]) -> set[Leading]:
    """Return the gateway's ports that DNAT rules lead on, and to which address.

    >>> led_by(["-A a -p tcp -m tcp --dport 54322 -j DNAT --to-destination [fd00::11]:5432"])
    {(54322, 'fd00::11')}
    """
    led = re.compile(r" --dport (\d+) .*-j DNAT --to-destination \[?([0-9a-f.:]+?)\]?:\d+$")
    return {(int(found[1]), found[2]) for rule in rules if (found := led.search(rule))}
