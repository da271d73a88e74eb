"""The files of one of two gateways that share an address: keepalived's and conntrackd's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from repmgr_hooks.checks.gateways import KEEPALIVED, TRACK
from repmgr_hooks.errors import UsageError
from repmgr_hooks.netfilter.conntrackd import CONFIGURATION as CONNTRACKD
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.settings.schema import IpAddress
from repmgr_hooks.setup.discover import Found
from repmgr_hooks.setup.render import CONFIGURATION, barman_section

FILES = {
    KEEPALIVED: "config/keepalived.conf",
    TRACK: "config/repmgr-hooks-track",
    CONNTRACKD: "config/conntrackd.conf",
}
"""Where each file goes, and where it comes from."""
SHARED, OWN, PEER, DEVICE = "10.0.0.20", "10.0.0.21", "10.0.0.22", "eth0"
"""What stands in the shipped files."""


def drafted(texts: Mapping[str, str], found: Found, other: str, way: Route, shipped: Path) -> dict[str, str]:
    """Return the drafted files and those of a gateway that shares its address with another one.

    ``way``: the route to a node, which shows this host's own address. Raises UsageError, OSError.
    """
    if wrong := IpAddress().problem(other):
        raise UsageError(f"--other-gateway {wrong}", hint="name the other gateway's own address, such as 10.0.0.22")
    if not way.source or way.source in (found.gateway, other):
        hint = "name the address that both share with --gateway, and the other gateway's own with --other-gateway"
        raise UsageError(f"{way.source or 'none'} is not this gateway's own address", hint=hint)
    words = {SHARED: found.gateway, OWN: way.source, PEER: other, DEVICE: way.device or DEVICE}
    ours = {place: filled((shipped / file).read_text(), words) for place, file in FILES.items()}
    hosts = sorted((way.source, other))
    listed = ", ".join(map(_quoted, hosts))
    text = re.sub(r"(?m)^(      )(address: .*)$", rf"\1\2\n\1hosts: [{listed}]", texts[CONFIGURATION], count=1)
    text = re.sub(r"(?m)^    barman: \{.*\}$", lambda _: f"    barman: {{{_barman(found, hosts)}}}", text, count=1)
    return {**texts, **ours, CONFIGURATION: text}


def _barman(found: Found, hosts: Sequence[str]) -> str:
    """Return the section of Barman, the same on each gateway: one on another host, on one of them, or on each."""
    if found.barman_address in hosts:
        return f"{barman_section(found)}, gateways: {{{_quoted(found.barman_address)}: {{command: [barman]}}}}"
    if found.barman_address:
        return barman_section(found)
    # Each file of Barman's names its own slot; what the other's says is not known here, and both drafts are to be one.
    stem = re.sub(r"_[12]$", "", found.slot)
    slots = ", ".join(f"{_quoted(host)}: {{slot_name: {stem}_{number}}}" for number, host in enumerate(hosts, 1))
    return f"server: {found.server}, gateways: {{{slots}}}"


def _quoted(host: str) -> str:
    return f"'{host}'" if ":" in host else host


def filled(text: str, words: Mapping[str, str]) -> str:
    """Return a shipped file with the words of this gateway.

    >>> filled("UDP {\\n    IPv4_address 10.0.0.21", {"10.0.0.21": "fd00::21"})
    'UDP {\\n    IPv6_address fd00::21'
    """
    six = any(":" in word for word in words.values())
    pattern = re.compile("|".join(rf"(?<![\w.]){re.escape(word)}(?![\w.])" for word in words))
    text = pattern.sub(lambda match: words[match[0]], text)
    if not six:
        return text
    own = "IPv4_address 127.0.0.1"
    return text.replace(own, "IPv6_address ::1").replace("IPv4_", "IPv6_").replace("/32 dev", "/128 dev")
