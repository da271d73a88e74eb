"""Rules of others on the way of a client, in each table of each back end: what takes its packets before ours do, or
drops what we forward, in both directions and for each node, not only for today's primary.

Read, not tried: the gateway's own probe takes OUTPUT, where a client takes PREROUTING and FORWARD. What cannot be
judged here is said to be that.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.packages import install
from repmgr_hooks.errors import NoSuchProgram, OperationFailed
from repmgr_hooks.netfilter import iptables, nft_rules, saved_rules
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.netfilter.packet import (
    LEAD,
    STOP,
    TRANSLATE,
    UNKNOWN,
    UNTRACK,
    Chain,
    End,
    Packet,
    calls,
    in_order,
    walk,
)
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster
from repmgr_hooks.system.rules import in_nf_tables
from repmgr_hooks.system.steps import Host, Program

log = logging.getLogger(__name__)

LIMIT = 10.0
FIRST, ANSWER = frozenset({"SYN"}), frozenset({"SYN", "ACK"})
NEW, BACK = frozenset({"NEW", "DNAT"}), frozenset({"ESTABLISHED", "DNAT", "SNAT"})
SEEN_LATE = -100
"""Before this priority nobody knows yet what a packet is to be translated to (NF_IP_PRI_NAT_DST)."""
TRY = "try it from where clients are: config.yaml, probe: {shell: [ssh, HOST]}"


@dataclass(frozen=True)
class Leg:
    """A packet of a client's connection at some hooks of the gateway, in words and as a value."""

    what: str
    hooks: tuple[str, ...]
    packet: Packet
    ours: bool = False
    """It is a packet of our own looks: whether a node answers is tried anyway, so only what surely stops it is said."""


@dataclass(frozen=True)
class Fault:
    """What a rule, or the policy, of one chain does to packets of ours, and what to do about it.

    Not ``sure``: what cannot be judged.
    """

    where: str
    what: str
    hint: str
    sure: bool = True


def look(cluster: Cluster, host: Host, only: int | None = None) -> Iterator[Finding]:
    """Walk a client's packets through all rules that can be read here; ``only``: to and from this node."""
    topic = Topic("rules.foreign", cluster.name)
    try:
        chains, unread, refused = all_chains(Family(cluster.gateway.address), host)
    except OperationFailed as error:
        yield unseen(topic, error)
        return
    found: dict[Fault, list[str]] = {}
    legs = list(_legs(cluster, host, only))
    for what, fault in (
        *_before_ours(cluster, chains, host),
        *_back_past_us(cluster, chains, host, legs),
        *_on_the_way(cluster, chains, legs),
    ):
        found.setdefault(fault, []).append(what)
    # One a chain, that is sure if there is one: what it hides comes to light when it is gone.
    first = {fault.where: fault for fault in sorted(found, key=lambda fault: fault.sure)}
    for where, fault in first.items():
        topic = Topic("rules.foreign", f"{cluster.name} {where}")
        line = f"{', '.join(dict.fromkeys(found[fault]))}: {fault.what}"
        yield topic.fail(line, fault.hint) if fault.sure else topic.warn(line, fault.hint)
    if unread:
        tables = ", ".join(" ".join(table) for table in sorted(unread))
        topic = Topic("rules.foreign", f"{cluster.name} nft")
        way = "look at them: nft list ruleset" if shutil.which("nft") else install("nftables")
        yield topic.warn(f"cannot be read, so cannot be judged: nftables' own {tables}", way)
    for program, why in refused.items():
        yield unseen(Topic("rules.foreign", f"{cluster.name} {program}"), why)
    if not (unread or refused or found):
        yield topic.ok("no rule of others takes, drops or diverts what clients and nodes send")


def all_chains(family: Family, host: Host) -> tuple[list[Chain], set[tuple[str, str]], dict[str, OperationFailed]]:
    """Return the chains of every back end, the tables of nftables that cannot be read, and the programs that may not.

    iptables-legacy-save reads /proc/net/ip_tables_names, which only root may, whatever our capabilities.

    Raises OperationFailed.
    """
    saved = _saved(family, host)
    by_nft = in_nf_tables(iptables, host)
    other = family.iptables.replace("tables", "tables-legacy" if by_nft else "tables-nft")
    theirs, refused = "", dict[str, OperationFailed]()
    try:
        theirs = host.run(Program((f"{other}-save",)), LIMIT) if shutil.which(f"{other}-save") else ""
    except OperationFailed as error:
        refused[other] = error
    chains = [*saved_rules.parse(saved, family.iptables), *saved_rules.parse(theirs, other)]
    name = "ip6" if family.six else "ip"
    seen = {(name, line[1:].strip()) for line in (saved if by_nft else theirs).splitlines() if line[:1] == "*"}
    native = {table for table in host.nft_tables() if table[0] in (name, "inet", "netdev")} - seen
    if not native:
        return chains, set(), refused
    try:
        listing = host.run(Program(("nft", "-j", "list", "ruleset")), LIMIT)
        return [*chains, *nft_rules.parse(listing, family.six, seen)], set(), refused
    except (OperationFailed, ValueError, KeyError, TypeError, AttributeError) as error:
        log.debug("nft: %s", error)
        return chains, native, refused


def _saved(family: Family, host: Host) -> str:
    """What no program has written nobody needs to read: with nftables, iptables need not be installed."""
    try:
        return host.run(Program((f"{family.iptables}-save",)), LIMIT)
    except NoSuchProgram:
        return ""


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
                    yield from ((f"port {port} ({name})", fault) for fault in _taken(chain, end, sure, own))


def _taken(chain: Chain, end: End, sure: bool, own: str) -> Iterator[Fault]:
    """What ends the chain ends only that one: our own is called next, unless a packet is translated already
    (nf_nat_core.c, nf_nat_inet_fn)."""
    ended = bool(end.rule) and end.target in ("ACCEPT", "POLICY") and own in chain.chains
    takes = end.target in (*LEAD, *TRANSLATE) or ended
    if takes and sure:
        what = f"a rule of others takes it before ours: {_named(chain, end.rule)}"
        yield Fault(chain.where, what, _remove(chain, end.rule))
        return
    doubts = [rule for target, rule in end.doubts if target in (*LEAD, *TRANSLATE, UNKNOWN)]
    for rule in [end.rule] if takes and end.target in (*LEAD, *TRANSLATE) else doubts:
        what = f"cannot be judged whether this rule takes it before ours: {_named(chain, rule)}"
        yield Fault(chain.where, what, f"{TRY}; or {_remove(chain, rule)}", sure=False)


def _back_past_us(
    cluster: Cluster, chains: list[Chain], host: Host, legs: Sequence[Leg]
) -> Iterator[tuple[str, Fault]]:
    """Look for what keeps our chain from giving a packet to a node the address that the answer is to go to."""
    own = cluster.gateway.chains.snat
    nat = [chain for chain in in_order(chains, "postrouting") if chain.kind == "nat"]
    ours = next((chain.priority for chain in nat if own in chain.chains), None)
    before = [chain for chain in nat if ours is not None and chain.priority <= ours]
    for leg in legs:
        node = leg.packet.destination
        for chain in before if node and "postrouting" in leg.hooks else ():
            end = walk(chain, leg.packet, own if own in chain.chains else "")
            same = _gives_our_address(cluster, host.route(node or "").source)
            if not same((end.target, end.rule)):
                other = tuple(doubt for doubt in end.doubts if not same(doubt))
                # nft does not name its rules by what they say: the address may be the same.
                sure = own in chain.chains or (chain.priority < (ours or 0) and (end.target != "SNAT" or chain.remove))
                yield from ((leg.what, fault) for fault in _taken(chain, replace(end, doubts=other), bool(sure), own))


def _gives_our_address(cluster: Cluster, source: str) -> Callable[[tuple[str, str]], bool]:
    """Return what says whether the nodes see the same by a target; ``source``: our own address on their network."""
    snat = cluster.gateway.snat

    def same(done: tuple[str, str]) -> bool:
        target, rule = done
        masquerades = target == "MASQUERADE" and snat in (MASQUERADE, source)
        return masquerades or (target == "SNAT" and f" --to-source {snat} " in f"{rule} ")

    return same


def _on_the_way(cluster: Cluster, chains: list[Chain], legs: Sequence[Leg]) -> Iterator[tuple[str, Fault]]:
    """Look for what drops, or keeps from being translated, a packet on its way to a node or back."""
    for leg in legs:
        for chain in in_order(chains, *leg.hooks):
            if chain.kind != "nat" and calls(chain, leg.packet):
                end = walk(chain, leg.packet)
                fault = _stopped(chain, end, _let(chain, leg, cluster))
                if fault and (not leg.ours or (fault.sure and end.target in STOP)):
                    yield leg.what, fault


def _stopped(chain: Chain, end: End, let: str) -> Fault | None:
    if end.target in UNTRACK:
        what = f"not tracked, so not translated: {_named(chain, end.rule)}"
        return Fault(chain.where, what, _remove(chain, end.rule))
    if end.target in LEAD:
        return Fault(chain.where, f"led elsewhere: {_named(chain, end.rule)}", _remove(chain, end.rule))
    stops = end.target in STOP
    other = [rule for target, rule in end.doubts if (target in STOP) != stops or target in (UNKNOWN, *UNTRACK, *LEAD)]
    if other:
        what = f"cannot be judged whether it is dropped, which depends on this rule: {_named(chain, other[0])}"
        return Fault(chain.where, what, f"{TRY}; or {let}", sure=False)
    by = _named(chain, end.rule) if end.rule else f"the policy of {chain.where}"
    return Fault(chain.where, f"dropped by {by}", let) if stops else None


def _legs(cluster: Cluster, host: Host, only: int | None) -> Iterator[Leg]:
    gateway = cluster.gateway
    clients = host.route(gateway.address).device
    strangers = frozenset({gateway.address, *(node.host for node in cluster.nodes.values())})
    for name, number in gateway.ports.items():
        to_us = Packet(None, gateway.address, None, number, clients, "", None, True, FIRST)
        yield Leg(f"port {number} ({name})", ("ingress", "prerouting"), to_us)
    for node, settings in cluster.nodes.items():
        if settings.witness or only not in (None, node):
            continue
        way, port = host.route(settings.host), cluster.endpoint(node).port
        there = Packet(None, settings.host, None, port, clients, way.device, NEW, False, FIRST, strangers)
        snat = way.source if gateway.snat == MASQUERADE else gateway.snat
        answer = Packet(settings.host, snat, port, None, way.device, "", None, True, ANSWER)
        back = Packet(settings.host, None, port, None, way.device, clients, BACK, False, ANSWER, strangers)
        yield Leg(f"clients to node {node}", ("forward", "postrouting", "egress"), there)
        yield Leg(f"node {node} to clients", ("ingress", "prerouting"), answer)
        yield Leg(f"node {node} to clients", ("forward", "postrouting", "egress"), back)
        asked = Packet(way.source, settings.host, None, port, "", way.device, frozenset({"NEW"}), False, FIRST)
        reply = Packet(settings.host, way.source, port, None, way.device, "", frozenset({"ESTABLISHED"}), True, ANSWER)
        yield Leg(f"this host to node {node}", ("output",), asked, ours=True)
        yield Leg(f"node {node} to this host", ("input",), reply, ours=True)


def _named(chain: Chain, rule: str) -> str:
    return f"{chain.where.rpartition(' ')[0]} {rule}" if chain.remove else f"nft rule {rule}"


def _remove(chain: Chain, rule: str) -> str:
    if chain.remove:
        return f"{chain.remove}{rule.removeprefix('-A ')}"
    return f"nft delete rule {rule}"


def _let(chain: Chain, leg: Leg, cluster: Cluster) -> str:
    """Return what lets pass what we send and get, there and back.

    What DNAT has led is known by that, in both directions, once it has been led; before, and of our own packets, by
    its ports.
    """
    by_ports = leg.ours or chain.hook == "ingress" or (chain.hook == "prerouting" and chain.priority < SEEN_LATE)
    ports = dict.fromkeys([*cluster.gateway.ports.values(), *(cluster.endpoint(node).port for node in cluster.nodes)])
    if chain.remove:
        table, _, name = chain.where.rpartition(" ")
        which = (
            f"-p tcp -m multiport --ports {','.join(map(str, ports))}" if by_ports else "-m conntrack --ctstate DNAT"
        )
        return f"{table} -I {name} {which} -j ACCEPT"
    insert, some = f"nft insert rule {chain.where.removeprefix('nft chain ')}", ", ".join(map(str, ports))
    if not by_ports:
        return f"{insert} ct status dnat accept"
    return "; ".join(f"{insert} tcp {end} '{{ {some} }}' accept" for end in ("dport", "sport"))
