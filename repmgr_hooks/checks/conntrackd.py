"""conntrackd on this gateway: what it is to copy, whether it hears the other one's, and whether all is there."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.cluster import in_step
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.in_step import GIVE_ALL
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.conntrackd import (
    CACHE,
    CONFIGURATION,
    LINK,
    Channel,
    blocks,
    fills_kernel,
    parse_link,
    without_comments,
)
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host, Program
from repmgr_hooks.text import one_line

LIMIT = 10.0
HEARD_WITHIN = 15.0
"""conntrackd sends a sign of life each second (sync-ftfw.c, ALIVE_INT); on a busy machine it may be late."""
THERE_WITHIN = 15.0
LIKE = f"compare {CONFIGURATION} with the shipped config/conntrackd.conf"


def wrong(text: str, cluster: Cluster, host: Host) -> Iterator[tuple[str, str]]:
    """Yield what would make connections end when the address moves, and what to do about it."""
    gateway = cluster.gateway
    if not re.search(r"(?mi)^\s*Mode\s+FTFW\b", text):
        yield "what gets lost between the gateways is not sent again: only 'Mode FTFW' does that", LIKE
    yield from _way(text, cluster, host)
    accepted, ignored = (_words(text, "Protocol", verb) for verb in ("Accept", "Ignore"))
    if "TCP" in ignored or (accepted and "TCP" not in accepted):
        yield "connections of TCP are not copied to the other gateway", "Protocol Accept { TCP }"
    states = _words(text, "State", "Accept")
    if states and "ESTABLISHED" not in states:
        yield "connections that are established are not copied to the other gateway", "State Accept: add ESTABLISHED"
    needed = (gateway.address, *(node.host for node in cluster.nodes.values()))
    if lost := [address for address in needed if _holds(text, "Ignore", address)]:
        yield f"connections with {', '.join(lost)} are not copied to the other gateway", "take it out of Address Ignore"
    if _words(text, "Address", "Accept") and not _holds(text, "Accept", gateway.address):
        yield f"connections with {gateway.address} are not copied to the other gateway", "add it to Address Accept"


def runs(option: str, keepalived: str, root: Path) -> bool:
    """True if keepalived, or a script of its, runs conntrackd with an option when the address comes."""
    command = re.compile(rf"conntrackd.*\s{option}\b", re.IGNORECASE)
    for quoted, bare in re.findall(r'(?m)^\s*notify(?:_master)?\s+(?:"([^"\n]*)"|(\S+))', keepalived):
        words = quoted or bare
        script = next(iter(words.split()), "").lstrip("/")
        if command.search(words) or any(map(command.search, _script(root / script))):
            return True
    return False


def heard(cluster: Cluster, text: str, host: Host) -> Finding:
    """Say whether the other gateway's conntrackd is heard."""
    topic = Topic("gateway.sync", cluster.name)
    try:
        channels = last = _channels(host)
        if down := [channel.device for channel in channels if not channel.up]:
            return topic.fail(f"{', '.join(down)} is down, by which conntrackd talks", f"ip link set {down[0]} up")
        end = host.now() + HEARD_WITHIN
        while _received(channels) <= _received(last):
            if host.now() >= end:
                return topic.fail(*_unheard(cluster, text, host))
            host.sleep(1.0)
            last, channels = channels, _channels(host)
    except OperationFailed as error:
        return topic.warn(f"whether the other conntrackd is heard cannot be judged: {error}", error.hint)
    return topic.ok("the other gateway's conntrackd is heard")


def tables(cluster: Cluster, decision: PrimaryDecision | None, host: Host) -> Iterator[Finding]:
    """Say whether all connections of clients that the nodes know of are tracked here."""
    topic = Topic("gateway.tables", cluster.name)
    if decision is None or decision.primary is None or cluster.gateway.snat == MASQUERADE:
        return
    nodes = [state.node for state in decision.states if state.reachable]
    try:
        also = "" if fills_kernel(_configuration(host)) else host.run(Program(CACHE), LIMIT)
        seen = in_step.look_again(cluster, nodes, host, THERE_WITHIN, also)
    except OperationFailed as error:
        yield topic.warn(f"whether the tables are in step cannot be judged: {error}", error.hint)
        return
    if not seen.broken:
        yield topic.ok(f"{len(seen.sessions)} connection(s) of clients are tracked here")
        return
    when = "now" if serves(cluster.gateway, host) else f"when {cluster.gateway.address} comes"
    what = f"{len(seen.broken)} of {len(seen.sessions)} connections of clients are not tracked here: they break {when}"
    yield topic.warn(what, f"on the other gateway: {GIVE_ALL}")


def _way(text: str, cluster: Cluster, host: Host) -> Iterator[tuple[str, str]]:
    """What is wrong with the way to the other gateway."""
    there = [address for address in cluster.gateway.hosts if not host.route(address).local]
    ways = [dict(zip(words[::2], words[1::2], strict=False)) for words in blocks(text, "UDP")]
    if not any(_option(way, "Destination_Address") in there for way in ways):
        yield f"{CONFIGURATION} does not name {' or '.join(there)}", LIKE
        return
    for way in ways:
        own, device = _option(way, "address"), way.get("Interface", "")
        out = host.route(_option(way, "Destination_Address")) if _option(way, "Destination_Address") in there else None
        if own and host.route(own).local is False:
            yield f"{CONFIGURATION}: {own} is not this host's", LIKE
        elif out and device and out.device not in ("", device):
            yield f"{CONFIGURATION}: the way to the other gateway is not Interface {device}", f"Interface {out.device}"


def _option(way: dict[str, str], name: str) -> str:
    return next((way[key] for key in (f"IPv4_{name}", f"IPv6_{name}") if key in way), "")


def _words(text: str, *names: str) -> Sequence[str]:
    return [word.upper() for words in blocks(text, *names) for word in words]


def _holds(text: str, verb: str, address: str) -> bool:
    """True if an address stands in such a list, itself or as one of a network."""
    sought = ipaddress.ip_address(address)
    for word in _words(text, "Address", verb):
        try:
            network = ipaddress.ip_network(word, strict=False)
        except ValueError:
            continue  # IPv4_address, IPv6_address
        if sought.version == network.version and sought in network:
            return True
    return False


def _channels(host: Host) -> tuple[Channel, ...]:
    said = host.run(Program(LINK), LIMIT)
    try:
        return parse_link(said)
    except ValueError:
        hint = "conntrackd -v: 1.4.7 and 1.4.8 have been tried"
        raise OperationFailed(f"conntrackd -s link has printed: {one_line(said) or 'nothing'}", hint=hint) from None


def _received(channels: Sequence[Channel]) -> int:
    return sum(channel.received for channel in channels)


def _unheard(cluster: Cluster, text: str, host: Host) -> tuple[str, str]:
    there = [address for address in cluster.gateway.hosts if not host.route(address).local]
    port = next((words[words.index("Port") + 1] for words in blocks(text, "UDP") if "Port" in words[:-1]), "3780")
    what = f"nothing has come from the conntrackd of {' or '.join(there)} for {HEARD_WITHIN:.0f} s"
    return what, f"there: systemctl status conntrackd; let UDP port {one_line(port)} pass between the gateways"


def _configuration(host: Host) -> str:
    return without_comments(host.read(CONFIGURATION))


def _script(path: Path) -> list[str]:
    """Return the lines of a script that are no comments."""
    try:
        lines = path.read_text(errors="replace")[:100_000].splitlines()
    except OSError:
        return []
    return [line for line in lines if not line.lstrip().startswith("#")]
