"""Our rules as iptables has them: two chains in the nat table, and the jumps into them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence

from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.netfilter.our_rules import OurRules, Rule
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster, Gateway
from repmgr_hooks.settings.endpoint import Endpoint

PACKAGES: tuple[str, ...] = ("iptables", "iptables-nft")
OWN_TABLE = False
SHARES = "xt_statistic"
ABSENT = ""
VERSION: tuple[str, ...] = ("iptables", "-V")
LOCK_WAIT = "5"
NOBODYS_QUEUE = 65535
"""The last of the kernel's queues, which programs number from 0 on."""
COMMENT = re.compile(r" -m comment --comment (\S+)")
LED_PORT = re.compile(r" --dport (\d+) ")
LED_TO = re.compile(r"-j DNAT --to-destination \[?([0-9a-f.:]+?)\]?:(\d+)$")


def programs(family: Family) -> tuple[str, ...]:
    """Return the programs that it needs."""
    return (f"{family.iptables}-save", f"{family.iptables}-restore")


def table(cluster: Cluster) -> tuple[str, str]:
    """Return family and name of the table that has our rules."""
    return (Family(cluster.gateway.address).name, "nat")


def reading(cluster: Cluster) -> tuple[str, ...]:
    """Return the words that print the nat table."""
    return (f"{Family(cluster.gateway.address).iptables}-save", "-t", "nat")


def writing(cluster: Cluster) -> tuple[str, ...]:
    """Return the words that take changes of the nat table on stdin, as one transaction."""
    return (f"{Family(cluster.gateway.address).iptables}-restore", "--noflush", "--wait", LOCK_WAIT)


def trying(cluster: Cluster) -> tuple[str, ...]:
    """Return the words that only try that; the kernel is asked for each extension (NFT_MSG_COMPAT_GET)."""
    return (*writing(cluster), "--test")


def parse(printed: str, cluster: Cluster) -> OurRules:
    """Read what ``iptables-save`` has printed, with the quotes that it puts in some versions only.

    Only lines that name our chains are read: others (Kubernetes, Docker) may have ten thousands of rules there.
    """
    gateway, lines = cluster.gateway, printed.splitlines()
    dnat, snat = _chains(gateway)
    own = _chains(gateway, "-A {} ")
    nat = [unquoted(line) for line in lines if line.startswith("-A ") and (dnat in line or snat in line)]
    rules = tuple(_rule(line) for line in lines if line.startswith(own))
    theirs = [line for line in nat if not line.startswith(own) and line not in jumps(gateway)]
    shared = tuple(name for name in _chains(gateway) if any(re.search(f" -[jg] {name}$", line) for line in theirs))
    traces = (*own, *(f":{name} " for name in _chains(gateway) if name not in shared))
    jumping = {jump: nat.count(jump) for jump in jumps(gateway)}
    return OurRules(
        "iptables",
        rules,
        any(jumping.values()) or any(line.startswith(traces) for line in lines),
        tuple(jump for jump, times in jumping.items() if not times),
        tuple(line for jump, times in jumping.items() for line in once(jump, times)),
        shared,
    )


def dnat_rule(cluster: Cluster, port: str, to: Endpoint, one_of: int = 1) -> Rule:
    """Return the rule that leads a named port to a node, in the form that ``iptables-save`` prints.

    Only the first packet of a connection comes to the nat table, so it is connections that ``nth`` counts.
    """
    gateway, family = cluster.gateway, Family(cluster.gateway.address)
    share = f"-m statistic --mode nth --every {one_of} --packet 0 " if one_of > 1 else ""
    return _rule(
        f"-A {gateway.chains.dnat} -d {family.exactly(gateway.address)} -p tcp -m tcp --dport {gateway.ports[port]} "
        f"{share}"
        f"-m comment --comment repmgr_hooks:{cluster.name}:{port} "
        f"-j DNAT --to-destination {to}"
    )


def hold_rule(cluster: Cluster, port: str) -> Rule:
    """Return the rule by which new connections to a named port wait.

    The nat table refuses DROP. What is queued where nobody reads is dropped too (iptables-extensions(8), NFQUEUE).
    """
    gateway, family = cluster.gateway, Family(cluster.gateway.address)
    return _rule(
        f"-A {gateway.chains.dnat} -d {family.exactly(gateway.address)} -p tcp -m tcp --dport {gateway.ports[port]} "
        f"-m comment --comment repmgr_hooks:{cluster.name}:{port} "
        f"-j NFQUEUE --queue-num {NOBODYS_QUEUE}"
    )


def snat_rules(cluster: Cluster, to: Endpoint, here: bool = True) -> list[Rule]:
    """Return the rules that make the node answer through the gateway.

    ``--ctstate DNAT`` holds for what a DNAT rule has led, ``--src-type LOCAL`` for what comes from this host itself
    (iptables-extensions(8), conntrack and addrtype).
    """
    gateway, family = cluster.gateway, Family(cluster.gateway.address)
    target = f"SNAT --to-source {gateway.snat}" if here and gateway.snat != MASQUERADE else "MASQUERADE"
    own = [("-m addrtype --src-type LOCAL ", "MASQUERADE")] if gateway.hosts else []
    return [
        _rule(
            f"-A {gateway.chains.snat} -d {family.exactly(to.host)} -p tcp -m tcp --dport {to.port} "
            f"-m conntrack --ctstate DNAT {sources}"
            f"-m comment --comment repmgr_hooks:{cluster.name}:{to.port} "
            f"-j {target}"
        )
        for sources, target in (*own, ("", target))
    ]


def swap(cluster: Cluster, rules: Iterable[Rule], repairs: Iterable[str] = ()) -> str:
    """Return the transaction that empties our chains and adds these rules.

    With ``--noflush``, naming a user chain flushes that chain alone, inside the same transaction.
    """
    return _transaction([*_chains(cluster.gateway, ":{} - [0:0]"), *repairs, *(rule.text for rule in rules)])


def removal(cluster: Cluster, ours: OurRules) -> str:
    """Return the transaction that removes our chains, and each jump into them."""
    gateway = cluster.gateway
    there = [jump for jump in jumps(gateway) if jump not in ours.missing]
    away = [jump.replace("-A ", "-D ", 1) for jump in there] + [line for line in ours.repairs if line.startswith("-D ")]
    gone = [f"-X {name}" for name in _chains(gateway) if name not in ours.shared]
    return _transaction([*_chains(gateway, ":{} - [0:0]"), *away, *gone])


def after(printed: str, change: str) -> str:
    """Return what ``iptables-save`` would print after ``iptables-restore --noflush``.

    >>> after("*nat\\n:a - [0:0]\\n-A a -j x\\n-A b -j y\\nCOMMIT", "*nat\\n:a - [0:0]\\n-A a -j z\\nCOMMIT")
    '*nat\\n:a - [0:0]\\n-A b -j y\\n-A a -j z\\nCOMMIT'
    """
    lines = change.splitlines()
    flushed = tuple(f"-A {line[1:].split()[0]} " for line in lines if line.startswith(":"))
    gone = tuple(f":{line.split()[1]} " for line in lines if line.startswith("-X "))
    removed = [unquoted(line.replace("-D ", "-A ", 1)) for line in lines if line.startswith("-D ")]
    rules = []
    for line in printed.splitlines():
        if removed and unquoted(line) in removed:
            removed.remove(unquoted(line))
        elif not line.startswith(flushed + gone) and line != "COMMIT":
            rules.append(line)
    return "\n".join([*rules, *(line for line in lines if line.startswith("-A ")), "COMMIT"])


def jumps(gateway: Gateway) -> list[str]:
    """Return the rules that lead into our chains, as the article has them."""
    dnat, snat = gateway.chains.dnat, gateway.chains.snat
    return [f"-A PREROUTING -j {dnat}", f"-A OUTPUT -j {dnat}", f"-A POSTROUTING -j {snat}"]


def once(rule: str, times: int) -> list[str]:
    """Return what makes a rule that is there ``times`` times be there once."""
    return [rule] if times == 0 else [rule.replace("-A ", "-D ", 1)] * (times - 1)


def unquoted(line: str) -> str:
    """Return a rule as it is without the quotes that only some versions of iptables print."""
    try:
        return " ".join(shlex.split(line))
    except ValueError:  # a foreign rule with a quote of its own in it
        return line


def _rule(line: str) -> Rule:
    """Read a rule in a chain of ours. Those of the article's scripts have no comment, and lead clients all the same.

    >>> rule = _rule('-A a -p tcp --dport 54322 -m comment --comment "x:y" -j DNAT --to-destination [fd00::11]:5432')
    >>> rule.port, str(rule.to), rule.comment
    (54322, '[fd00::11]:5432', 'x:y')
    >>> rule.key
    '-A a -p tcp --dport 54322 -j DNAT --to-destination [fd00::11]:5432'
    """
    plain = unquoted(line)
    comment, port, to = COMMENT.search(plain), LED_PORT.search(plain), LED_TO.search(plain)
    return Rule(
        line,
        COMMENT.sub("", plain),
        comment[1] if comment else "",
        int(port[1]) if port else None,
        Endpoint(to[1], int(to[2])) if to else None,
    )


def _chains(gateway: Gateway, form: str = "{}") -> tuple[str, ...]:
    return (form.format(gateway.chains.dnat), form.format(gateway.chains.snat))


def _transaction(lines: Sequence[str]) -> str:
    return "\n".join(["*nat", *lines, "COMMIT", ""])
