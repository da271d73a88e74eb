"""Where would a packet go? Rules of any back end as values, and the walk of one packet through a chain of them.

Pure. What a rule asks for may be unknown here (a mark, a set, a limit): then it may take the packet or not, and the
walk goes on with a doubt. A doubt that could have changed the end makes it unknown; nothing is passed over as good.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

PASS = ("ACCEPT", "RETURN", "POLICY")
STOP = ("DROP", "REJECT")
LEAD = ("DNAT", "REDIRECT", "TPROXY", "NETMAP", "REWRITE")
"""REWRITE: a rule of nft's that writes another address or port into the packet itself."""
TRANSLATE = ("SNAT", "MASQUERADE")
UNTRACK = ("NOTRACK",)
UNKNOWN = "UNKNOWN"
"""A target that is not known here, which may do anything."""
FIRST_OF_CLIENTS = 1024
TERMINAL = (*PASS, *STOP, *LEAD, *TRANSLATE, *UNTRACK, UNKNOWN)


@dataclass(frozen=True)
class Packet:
    """A TCP packet at one hook. None is what is not known: each client has an address and a port of its own, which is
    none of the first 1024 (nf_nat_core.c: nor is one of these given to it by SNAT).

    ``states``: what connection tracking says of it, in the words of ``--ctstate``; None before it has looked.
    ``local``: its destination is this host.
    """

    source: str | None
    destination: str | None
    sport: int | None
    dport: int | None
    indev: str = ""
    outdev: str = ""
    states: frozenset[str] | None = None
    local: bool = False
    flags: frozenset[str] | None = None
    strangers: frozenset[str] = frozenset()
    """Addresses that no client has: a rule about exactly one of these is not about clients."""


@dataclass(frozen=True)
class Match:
    """One thing that a rule asks for: ``values`` of which one must fit; ``negated``: none may."""

    key: str
    values: tuple[str, ...] = ()
    negated: bool = False


@dataclass(frozen=True)
class Rule:
    """``target``: a word of TERMINAL, a chain, or empty for what only counts, marks or logs."""

    text: str
    matches: tuple[Match, ...]
    target: str
    goto: bool = False


@dataclass(frozen=True)
class Chain:
    """A chain that the kernel calls itself: at ``hook``, in the order of ``priority``.

    What reaches its end gets ``policy``. ``where`` names it for people; ``remove``: the words that delete one of its
    rules, before the rule's own, where it is deleted by its text.
    """

    where: str
    hook: str
    kind: str
    priority: int
    policy: str
    name: str
    chains: Mapping[str, Sequence[Rule]]
    remove: str = ""
    devices: tuple[str, ...] = ()
    """What it is bound to; empty: all."""


@dataclass(frozen=True)
class End:
    """How a walk ended: the target, the rule that has it (empty: the policy), and the doubts on the way."""

    target: str
    rule: str = ""
    doubts: tuple[tuple[str, str], ...] = ()


def walk(chain: Chain, packet: Packet, own: str = "") -> End:
    """Walk a packet through a chain until a terminal target; a jump to our ``own`` chain ends it too, as ``OWN``."""
    doubts: list[tuple[str, str]] = []
    found = _walk(chain, chain.name, packet, own, doubts, frozenset())
    target, rule = found or (("DROP" if chain.policy == "DROP" else "POLICY"), "")
    return End("POLICY" if target == "RETURN" else target, rule, tuple(doubts))


def _walk(
    chain: Chain, name: str, packet: Packet, own: str, doubts: list[tuple[str, str]], above: frozenset[str]
) -> tuple[str, str] | None:
    """Return the target that takes the packet, and its rule; None if the end of the chain is reached."""
    for rule in chain.chains.get(name, ()):
        fits = _fits(rule, packet)
        if fits is False or not rule.target:
            continue
        if rule.target == own:
            if fits:
                return "OWN", rule.text
            continue
        if rule.target in chain.chains and rule.target not in above:
            inner: list[tuple[str, str]] = []
            found = _walk(chain, rule.target, packet, own, inner, above | {name})
            doubts += [(target, text) for target, text in inner if target != "RETURN"]
            if fits is None and found:
                doubts.append((found[0], rule.text))
            elif found:
                return found
            elif rule.goto and fits:
                return None
            continue
        target = rule.target if rule.target in TERMINAL else UNKNOWN
        if fits is None or target == UNKNOWN:
            doubts.append((target, rule.text))
        elif target == "RETURN":
            return None if above else ("RETURN", rule.text)
        else:
            return target, rule.text
    return None


def _fits(rule: Rule, packet: Packet) -> bool | None:
    """True, False, or None: that cannot be known.

    A rule about the addresses of clients is somebody's decision about who may come in: of one that lets through it is
    taken that it means our clients, of one that stops, that it does not.
    """
    answers = set()
    for match in rule.matches:
        answer = fits(match, packet)
        if answer is None and _of_client(match, packet) and rule.target not in (*LEAD, *TRANSLATE, *UNTRACK):
            answer = rule.target not in STOP
        answers.add(answer)
    return False if False in answers else None if None in answers else True


def _of_client(match: Match, packet: Packet) -> bool:
    return (match.key == "source" and packet.source is None) or (
        match.key == "destination" and packet.destination is None
    )


def fits(match: Match, packet: Packet) -> bool | None:
    """True if the packet has what is asked for, None if that cannot be known."""
    answers = {_has(match.key, value, packet) for value in match.values}
    yes = True if True in answers else None if None in answers or not answers else False
    return yes if yes is None else yes != match.negated


def _has(key: str, value: str, packet: Packet) -> bool | None:
    if key == "protocol":
        return value.lower() in ("tcp", "all", "0", "6")
    if key in ("source", "destination"):
        address = packet.source if key == "source" else packet.destination
        return False if address is None and value.partition("/")[0] in packet.strangers else _within(address, value)
    if key in ("sport", "dport", "port"):
        ports = {"sport": [packet.sport], "dport": [packet.dport], "port": [packet.sport, packet.dport]}[key]
        answers = {_in_range(port, value) for port in ports}
        return True if True in answers else None if None in answers else False
    if key in ("indev", "outdev"):
        return _is_device(packet.indev if key == "indev" else packet.outdev, value)
    if key == "state":
        return None if packet.states is None else value.upper() in packet.states
    if key == "flags" and packet.flags is not None and "/" in value:
        mask, _, wanted = value.partition("/")
        return set(mask.split(",")) & packet.flags == set(wanted.split(",")) - {"NONE"}
    if key == "type":
        return packet.local if value.upper() == "LOCAL" else None
    if key == "family":
        return value in (("ipv6", "ip6") if ":" in (packet.source or packet.destination or "") else ("ipv4", "ip"))
    return None


def _within(address: str | None, network: str) -> bool | None:
    low, dash, high = network.partition("-")
    try:
        if not dash:
            whole = ipaddress.ip_network(network, strict=False)
            if whole.prefixlen == 0:
                return True
            return None if address is None else ipaddress.ip_address(address) in whole
        if address is None:
            return None
        ends = [int(ipaddress.ip_address(end)) for end in (low, high)]
        return ends[0] <= int(ipaddress.ip_address(address)) <= ends[1]
    except ValueError:
        return None


def _in_range(port: int | None, value: str) -> bool | None:
    low, _, high = value.replace("-", ":").partition(":")
    try:
        least, most = int(low or 0), int(high or low or 65535)
        return (None if most >= FIRST_OF_CLIENTS else False) if port is None else least <= port <= most
    except ValueError:
        return None


def _is_device(device: str, pattern: str) -> bool | None:
    if not device:
        return None
    return device.startswith(pattern[:-1]) if pattern[-1:] in ("+", "*") else device == pattern


def in_order(chains: Iterable[Chain], *hooks: str) -> list[Chain]:
    """Return the chains of these hooks, in the order in which the kernel calls them."""
    return sorted((chain for chain in chains if chain.hook in hooks), key=lambda chain: chain.priority)


def calls(chain: Chain, packet: Packet) -> bool:
    """True unless the chain is bound to another device than that of the packet."""
    device = packet.outdev if chain.hook == "egress" else packet.indev
    return not (chain.devices and device) or device in chain.devices
