"""Rules of others on the way of a client, in each table of each back end: what takes its packets before ours do, or
drops what we forward, in both directions and for each node, not only for today's primary.

Read, not tried: the gateway's own probe takes OUTPUT, where a client takes PREROUTING and FORWARD. What cannot be
judged here is said to be that.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace

from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter import nft_rules, saved_rules
from repmgr_hooks.netfilter.iptables import Family
from repmgr_hooks.netfilter.packet import LEAD, STOP, UNKNOWN, UNTRACK, Chain, End, Packet, in_order, walk
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Program

LIMIT = 10.0
FIRST, ANSWER = frozenset({"SYN"}), frozenset({"SYN", "ACK"})
NEW, BACK = frozenset({"NEW", "DNAT"}), frozenset({"ESTABLISHED", "DNAT", "SNAT"})
LEGACY = "/proc/net/ip_tables_names"


@dataclass(frozen=True)
class Leg:
    """A packet of a client's connection at some hooks of the gateway, in words and as a value."""

    what: str
    hooks: tuple[str, ...]
    packet: Packet


def look(cluster: Cluster, host: Host) -> Iterator[Finding]:
    """Walk a client's packets through all rules that can be read here."""
    topic = Topic("rules.foreign", cluster.name)
    try:
        chains, unread = all_chains(Family(cluster.gateway.address), host)
    except OperationFailed as error:
        yield unseen(topic, error)
        return
    found = [*_before_ours(topic, cluster, chains, host), *_on_the_way(topic, cluster, chains, host)]
    found = list({finding.what: finding for finding in found}.values())
    if unread:
        found.append(topic.warn(f"native nftables rules cannot be read: {unread}", "apt install nftables"))
    yield from found or [topic.ok("no rule of others takes, drops or diverts what clients and nodes send")]


def all_chains(family: Family, host: Host) -> tuple[list[Chain], str]:
    """Return the chains of every back end, and why those of nftables could not be read. Raises OperationFailed."""
    save = f"{family.iptables}-save"
    saved = host.run(Program((save,)), LIMIT)
    chains = saved_rules.parse(saved, family.iptables)
    legacy = family.iptables.replace("tables", "tables-legacy")
    try:
        tables = host.read(LEGACY.replace("/ip_", "/ip6_") if family.six else LEGACY)
    except OperationFailed:
        tables = ""
    if tables.strip() and shutil.which(f"{legacy}-save"):
        theirs = host.run(Program((f"{legacy}-save",)), LIMIT)
        chains += saved_rules.parse(theirs, legacy) if theirs != saved else []
    tables_seen = {("ip6" if family.six else "ip", line[1:].strip()) for line in saved.splitlines() if line[:1] == "*"}
    try:
        listing = host.run(Program(("nft", "-j", "list", "ruleset")), LIMIT)
        return [*chains, *nft_rules.parse(listing, family.six, tables_seen)], ""
    except (OperationFailed, ValueError, KeyError, TypeError) as error:
        return chains, str(error)


def _before_ours(topic: Topic, cluster: Cluster, chains: list[Chain], host: Host) -> Iterator[Finding]:
    """Look for what takes the packets to our address and ports before our chain does."""
    gateway, own = cluster.gateway, cluster.gateway.chains.dnat
    device = host.route(gateway.address).device
    for name, port in gateway.ports.items():
        packet = Packet(None, gateway.address, None, port, device, states=frozenset({"NEW"}), local=True, flags=FIRST)
        for hook, there in (("prerouting", packet), ("output", replace(packet, source=gateway.address, indev=""))):
            nat = [chain for chain in in_order(chains, hook) if chain.kind == "nat"]
            ours = next((chain.priority for chain in nat if own in chain.chains), None)
            for chain in nat:
                if ours is None or chain.priority > ours:
                    continue
                if own not in chain.chains:
                    yield from _taken(topic, f"port {port} ({name})", chain, walk(chain, there))
                else:
                    yield from _taken(topic, f"port {port} ({name})", chain, walk(chain, there, own))


def _taken(topic: Topic, what: str, chain: Chain, end: End) -> Iterator[Finding]:
    takes = (*LEAD, *(("ACCEPT", "RETURN") if end.target != "POLICY" else ()))
    if end.rule and end.target in takes:
        yield topic.fail(
            f"{what}: a rule of others takes it before ours: {_named(chain, end.rule)}", _remove(chain, end.rule)
        )
        return
    for target, rule in end.doubts:
        if target in (*LEAD, UNKNOWN):
            what_ = f"{what}: cannot be judged whether this rule takes it before ours: {_named(chain, rule)}"
            yield topic.warn(what_, f"see to it that ours comes first, or remove it: {_remove(chain, rule)}")


def _on_the_way(topic: Topic, cluster: Cluster, chains: list[Chain], host: Host) -> Iterator[Finding]:
    """Look for what drops, or keeps from being translated, a packet on its way to a node or back."""
    for leg in _legs(cluster, host):
        for chain in in_order(chains, *leg.hooks):
            if chain.kind == "nat":
                continue
            end = walk(chain, leg.packet)
            if end.target in UNTRACK and not end.doubts:
                what = f"{leg.what}: not tracked, so not translated: {_named(chain, end.rule)}"
                yield topic.fail(what, _remove(chain, end.rule))
            else:
                yield from _dropped(topic, leg, chain, end)


def _dropped(topic: Topic, leg: Leg, chain: Chain, end: End) -> Iterator[Finding]:
    stops = end.target in STOP
    other = [rule for target, rule in end.doubts if (target in STOP) != stops or target == UNKNOWN]
    by = _named(chain, end.rule) if end.rule else f"the policy of {chain.where}"
    if other:
        what = f"{leg.what}: cannot be judged: it depends on this rule whether it is dropped: {_named(chain, other[0])}"
        yield topic.warn(what, f"try it from where clients are: config.yaml, probe: {{shell: [...]}}; or {_let(chain)}")
    elif stops:
        yield topic.fail(f"{leg.what}: dropped by {by}", _let(chain))


def _legs(cluster: Cluster, host: Host) -> Iterator[Leg]:
    gateway, port = cluster.gateway, cluster.postgres.port
    clients = host.route(gateway.address).device
    for name, number in gateway.ports.items():
        to_us = Packet(None, gateway.address, None, number, clients, local=True, flags=FIRST)
        yield Leg(f"clients to port {number} ({name})", ("prerouting",), to_us)
    for node, settings in cluster.nodes.items():
        if settings.witness:
            continue
        way = host.route(settings.host)
        there = Packet(None, settings.host, None, port, clients, way.device, NEW, flags=FIRST)
        snat = way.source if gateway.snat == "masquerade" else gateway.snat
        answer = Packet(settings.host, snat, port, None, way.device, "", None, True, ANSWER)
        back = Packet(settings.host, None, port, None, way.device, clients, BACK, flags=ANSWER)
        yield Leg(f"clients to node {node}", ("forward", "postrouting"), there)
        yield Leg(f"node {node} to clients", ("prerouting",), answer)
        yield Leg(f"node {node} to clients", ("forward", "postrouting"), back)


def _named(chain: Chain, rule: str) -> str:
    return f"{chain.where}: {rule}" if chain.remove else f"nft rule {rule}"


def _remove(chain: Chain, rule: str) -> str:
    if chain.remove:
        return f"{chain.remove}{rule.removeprefix('-A ')}"
    family, table, name, *handle = rule.split()
    return f"nft delete rule {family} {table} {name} {' '.join(handle)}"


def _let(chain: Chain) -> str:
    """What DNAT has led may pass, there and back: connection tracking says so of both directions."""
    if chain.remove:
        program, table, name = chain.where.split()[0], chain.where.split()[2], chain.where.split()[3]
        return f"{program} -t {table} -I {name} -m conntrack --ctstate DNAT -j ACCEPT"
    return f"nft insert rule {chain.where.removeprefix('nft chain ')} ct status dnat accept"
