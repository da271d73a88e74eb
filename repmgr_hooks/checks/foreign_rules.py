"""Rules of others on the way of a client, in each table of each back end: what takes its packets before ours do, or
drops what we forward, in both directions and for each node, not only for today's primary.

Read, not tried: the gateway's own probe takes OUTPUT, where a client takes PREROUTING and FORWARD. What cannot be
judged here is said to be that.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace

from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter import nft_rules, saved_rules
from repmgr_hooks.netfilter.iptables import Family
from repmgr_hooks.netfilter.packet import LEAD, STOP, UNKNOWN, UNTRACK, Chain, End, Packet, in_order, walk
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster
from repmgr_hooks.system.steps import Host, Program

log = logging.getLogger(__name__)

LIMIT = 10.0
FIRST, ANSWER = frozenset({"SYN"}), frozenset({"SYN", "ACK"})
NEW, BACK = frozenset({"NEW", "DNAT"}), frozenset({"ESTABLISHED", "DNAT", "SNAT"})
TRY = "try it from where clients are: config.yaml, probe: {shell: [ssh, HOST]}"


@dataclass(frozen=True)
class Leg:
    """A packet of a client's connection at some hooks of the gateway, in words and as a value."""

    what: str
    hooks: tuple[str, ...]
    packet: Packet


@dataclass(frozen=True)
class Fault:
    """What a rule, or the policy, of one chain does to packets of ours, and what mends it.

    Not ``sure``: what cannot be judged.
    """

    where: str
    what: str
    mend: str
    sure: bool = True


def look(cluster: Cluster, host: Host) -> Iterator[Finding]:
    """Walk a client's packets through all rules that can be read here."""
    topic = Topic("rules.foreign", cluster.name)
    try:
        chains, unread = all_chains(Family(cluster.gateway.address), host)
    except OperationFailed as error:
        yield unseen(topic, error)
        return
    found: dict[Fault, list[str]] = {}
    for what, fault in (*_before_ours(cluster, chains, host), *_on_the_way(cluster, chains, host)):
        found.setdefault(fault, []).append(what)
    # One a chain, that is sure if there is one: what it hides comes to light when it is gone.
    first = {fault.where: fault for fault in sorted(found, key=lambda fault: fault.sure)}
    for where, fault in first.items():
        topic = Topic("rules.foreign", f"{cluster.name} {where}")
        line = f"{', '.join(dict.fromkeys(found[fault]))}: {fault.what}"
        yield topic.fail(line, fault.mend) if fault.sure else topic.warn(line, fault.mend)
    if unread:
        tables = ", ".join(" ".join(table) for table in sorted(unread))
        topic = Topic("rules.foreign", f"{cluster.name} nft")
        yield topic.warn(f"cannot be read, so cannot be judged: nftables' own {tables}", "apt install nftables")
    elif not found:
        yield topic.ok("no rule of others takes, drops or diverts what clients and nodes send")


def all_chains(family: Family, host: Host) -> tuple[list[Chain], set[tuple[str, str]]]:
    """Return the chains of every back end, and the tables of nftables that cannot be read. Raises OperationFailed."""
    saved = host.run(Program((f"{family.iptables}-save",)), LIMIT)
    by_nft = host.rules_generation() is not None or "(nf_tables)" in saved
    other = family.iptables.replace("tables", "tables-legacy" if by_nft else "tables-nft")
    theirs = host.run(Program((f"{other}-save",)), LIMIT) if shutil.which(f"{other}-save") else ""
    chains = [*saved_rules.parse(saved, family.iptables), *saved_rules.parse(theirs, other)]
    name = "ip6" if family.six else "ip"
    seen = {(name, line[1:].strip()) for line in (saved if by_nft else theirs).splitlines() if line[:1] == "*"}
    native = {table for table in host.nft_tables() if table[0] in (name, "inet")} - seen
    if not native:
        return chains, set()
    try:
        listing = host.run(Program(("nft", "-j", "list", "ruleset")), LIMIT)
        return [*chains, *nft_rules.parse(listing, family.six, seen)], set()
    except (OperationFailed, ValueError, KeyError, TypeError, AttributeError) as error:
        log.debug("nft: %s", error)
        return chains, native


def _before_ours(cluster: Cluster, chains: list[Chain], host: Host) -> Iterator[tuple[str, Fault]]:
    """Look for what takes the packets to our address and ports before our chain does."""
    gateway, own = cluster.gateway, cluster.gateway.chains.dnat
    device = host.route(gateway.address).device
    for name, port in gateway.ports.items():
        packet = Packet(None, gateway.address, None, port, device, "", frozenset({"NEW"}), True, FIRST)
        for hook, there in (("prerouting", packet), ("output", replace(packet, source=gateway.address, indev=""))):
            nat = [chain for chain in in_order(chains, hook) if chain.kind == "nat"]
            ours = next((chain.priority for chain in nat if own in chain.chains), None)
            for chain in nat:
                if ours is not None and chain.priority <= ours:
                    end = walk(chain, there, own if own in chain.chains else "")
                    # Of two chains with one priority that of the older table comes first; which that is is not shown.
                    sure = own in chain.chains or chain.priority < ours
                    yield from ((f"port {port} ({name})", fault) for fault in _taken(chain, end, sure))


def _taken(chain: Chain, end: End, sure: bool) -> Iterator[Fault]:
    takes = end.target in LEAD or (bool(end.rule) and end.target in ("ACCEPT", "POLICY"))
    if takes and sure:
        what = f"a rule of others takes it before ours: {_named(chain, end.rule)}"
        yield Fault(chain.where, what, _remove(chain, end.rule))
        return
    doubts = [rule for target, rule in end.doubts if target in (*LEAD, UNKNOWN)]
    for rule in [end.rule] if takes and end.target in LEAD else doubts:
        what = f"cannot be judged whether this rule takes it before ours: {_named(chain, rule)}"
        yield Fault(chain.where, what, f"{TRY}; or {_remove(chain, rule)}", sure=False)


def _on_the_way(cluster: Cluster, chains: list[Chain], host: Host) -> Iterator[tuple[str, Fault]]:
    """Look for what drops, or keeps from being translated, a packet on its way to a node or back."""
    for leg in _legs(cluster, host):
        for chain in in_order(chains, *leg.hooks):
            if chain.kind != "nat" and (fault := _stopped(chain, walk(chain, leg.packet))):
                yield leg.what, fault


def _stopped(chain: Chain, end: End) -> Fault | None:
    if end.target in UNTRACK:
        what = f"not tracked, so not translated: {_named(chain, end.rule)}"
        return Fault(chain.where, what, _remove(chain, end.rule))
    stops = end.target in STOP
    other = [rule for target, rule in end.doubts if (target in STOP) != stops or target in (UNKNOWN, *UNTRACK)]
    if other:
        what = f"cannot be judged whether it is dropped, which depends on this rule: {_named(chain, other[0])}"
        return Fault(chain.where, what, f"{TRY}; or {_let(chain)}", sure=False)
    by = _named(chain, end.rule) if end.rule else f"the policy of {chain.where}"
    return Fault(chain.where, f"dropped by {by}", _let(chain)) if stops else None


def _legs(cluster: Cluster, host: Host) -> Iterator[Leg]:
    gateway, port = cluster.gateway, cluster.postgres.port
    clients = host.route(gateway.address).device
    strangers = frozenset({gateway.address, *(node.host for node in cluster.nodes.values())})
    for name, number in gateway.ports.items():
        to_us = Packet(None, gateway.address, None, number, clients, "", None, True, FIRST)
        yield Leg(f"port {number} ({name})", ("prerouting",), to_us)
    for node, settings in cluster.nodes.items():
        if settings.witness:
            continue
        way = host.route(settings.host)
        there = Packet(None, settings.host, None, port, clients, way.device, NEW, False, FIRST, strangers)
        snat = way.source if gateway.snat == MASQUERADE else gateway.snat
        answer = Packet(settings.host, snat, port, None, way.device, "", None, True, ANSWER)
        back = Packet(settings.host, None, port, None, way.device, clients, BACK, False, ANSWER, strangers)
        yield Leg(f"clients to node {node}", ("forward", "postrouting"), there)
        yield Leg(f"node {node} to clients", ("prerouting",), answer)
        yield Leg(f"node {node} to clients", ("forward", "postrouting"), back)


def _named(chain: Chain, rule: str) -> str:
    return f"{chain.where.rpartition(' ')[0]} {rule}" if chain.remove else f"nft rule {rule}"


def _remove(chain: Chain, rule: str) -> str:
    if chain.remove:
        return f"{chain.remove}{rule.removeprefix('-A ')}"
    return f"nft delete rule {rule}"


def _let(chain: Chain) -> str:
    """What DNAT has led may pass, there and back: connection tracking says so of both directions."""
    if chain.remove:
        table, _, name = chain.where.rpartition(" ")
        return f"{table} -I {name} -m conntrack --ctstate DNAT -j ACCEPT"
    return f"nft insert rule {chain.where.removeprefix('nft chain ')} ct status dnat accept"
