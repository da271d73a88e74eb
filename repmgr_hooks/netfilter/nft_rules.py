"""What ``nft -j list ruleset`` prints (libnftables-json(5)), as chains that a packet can walk."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from repmgr_hooks.netfilter.packet import UNKNOWN, Chain, Match, Rule

VERDICTS = {
    "accept": "ACCEPT",
    "drop": "DROP",
    "reject": "REJECT",
    "return": "RETURN",
    "notrack": "NOTRACK",
    "dnat": "DNAT",
    "redirect": "REDIRECT",
    "tproxy": "TPROXY",
    "snat": "SNAT",
    "masquerade": "MASQUERADE",
}
HARMLESS = ("counter", "log", "mangle", "comment", "secmark", "meter", "continue", "flow", "ct helper", "last")
"""Statements after which the packet goes on, or that ask for nothing."""
META = {
    "iifname": "indev",
    "oifname": "outdev",
    "iif": "indev",
    "oif": "outdev",
    "l4proto": "protocol",
    "nfproto": "family",
    "protocol": "family",
}
PAYLOAD = {"saddr": "source", "daddr": "destination", "sport": "sport", "dport": "dport", "protocol": "protocol"}

Table = tuple[str, str]
"""Family and name."""


def parse(listing: str, six: bool, seen: Collection[Table]) -> list[Chain]:
    """Return the chains that the kernel calls for IPv4, or IPv6; without the tables that have been ``seen`` otherwise.

    Raises ValueError for what is no such listing.
    """
    objects = json.loads(listing)["nftables"]
    families = ("inet", "netdev", "ip6" if six else "ip")
    bases: list[tuple[Table, Mapping[str, Any]]] = []
    chains: dict[Table, dict[str, list[Rule]]] = defaultdict(lambda: defaultdict(list))
    sets: dict[tuple[str, str, str], Any] = {}
    for item in objects:
        ((kind, value),) = item.items()
        table = (value.get("family", ""), value.get("table", ""))
        if table[0] not in families or table in seen:
            continue
        if kind in ("set", "map"):
            sets[(*table, value["name"])] = value.get("elem", [])
        elif kind == "chain":
            chains[table][value["name"]] = []
            if "hook" in value:
                bases.append((table, value))
    for item in objects:
        if rule := item.get("rule"):
            table = (rule["family"], rule["table"])
            if table in chains:
                chains[table][rule["chain"]] += _rules(
                    rule, {name[2]: elem for name, elem in sets.items() if name[:2] == table}
                )
    return [
        Chain(
            f"nft chain {' '.join(table)} {base['name']}",
            base["hook"],
            base.get("type", "filter"),
            int(base.get("prio", 0)),
            base.get("policy", "accept").upper(),
            base["name"],
            chains[table],
            devices=_devices(base.get("dev", [])),
        )
        for table, base in bases
    ]


def _devices(dev: str | Sequence[str]) -> tuple[str, ...]:
    return (dev,) if isinstance(dev, str) else tuple(dev)


def _rules(rule: Mapping[str, Any], sets: Mapping[str, Any]) -> Iterator[Rule]:
    """Yield a rule; a verdict map is a rule for each of its entries."""
    handle = f"{rule['family']} {rule['table']} {rule['chain']} handle {rule['handle']}"
    matches: list[Match] = []
    for statement in rule["expr"]:
        if not isinstance(statement, Mapping):  # an anonymous chain is printed as nft's own text
            yield Rule(handle, tuple(matches), UNKNOWN)
            return
        ((kind, value),) = statement.items()
        if kind == "match":
            matches += _match(value, sets)
        elif kind in VERDICTS:
            yield Rule(handle, tuple(matches), VERDICTS[kind])
            return
        elif kind in ("jump", "goto"):
            yield Rule(handle, tuple(matches), value["target"], kind == "goto")
            return
        elif kind == "vmap":
            yield from _entries(handle, matches, value, sets)
        elif kind == "mangle" and _key(value["key"])[0] in ("source", "destination", "sport", "dport"):
            yield Rule(handle, tuple(matches), "REWRITE")
            return
        elif kind == "limit":
            matches.append(Match("limit"))
        elif kind not in HARMLESS:
            yield Rule(handle, tuple(matches), UNKNOWN)
            return


def _entries(handle: str, matches: list[Match], vmap: Mapping[str, Any], sets: Mapping[str, Any]) -> Iterator[Rule]:
    data = vmap["data"]
    entries = sets.get(data.removeprefix("@"), []) if isinstance(data, str) else data.get("set", [])
    for key, verdict in entries:
        ((word, value),) = verdict.items()
        target = VERDICTS.get(word) or (value["target"] if word in ("jump", "goto") else UNKNOWN)
        more = _match({"op": "==", "left": vmap["key"], "right": key}, sets)
        yield Rule(handle, (*matches, *more), target, word == "goto")


def _match(value: Mapping[str, Any], sets: Mapping[str, Any]) -> list[Match]:
    key, extra = _key(value["left"])
    values, negated = tuple(_values(value["right"], sets)), value["op"] == "!="
    if key == "" or value["op"] not in ("==", "!=", "in") or not values:
        return [*extra, Match("unknown")]
    return [*extra, Match(key, values, negated)]


def _key(left: Any) -> tuple[str, list[Match]]:
    """Return what is asked about, empty if that is not known here, and what it takes for granted."""
    if not isinstance(left, Mapping) or len(left) != 1:
        return "", []
    ((kind, what),) = left.items()
    if kind == "meta":
        return META.get(what["key"], ""), []
    if kind == "payload" and what.get("protocol") in ("ip", "ip6"):
        taken = [Match("family", ("ipv6" if what["protocol"] == "ip6" else "ipv4",))]
        return PAYLOAD.get(what.get("field", ""), ""), taken
    if kind == "payload" and what.get("protocol") in ("tcp", "th"):
        return (PAYLOAD[what["field"]] if what.get("field") in ("sport", "dport") else ""), []
    if kind == "payload":
        return "", [Match("protocol", (str(what.get("protocol", "")),))]
    if kind == "ct" and what.get("key") in ("state", "status") and "dir" not in what:
        return "state", []
    if kind == "fib" and what.get("result") == "type" and what.get("flags") == ["daddr"]:
        return "type", []
    return "", []


def _values(right: Any, sets: Mapping[str, Any]) -> Iterator[str]:
    """Yield the values of which one must fit, as ``packet.fits`` reads them."""
    if isinstance(right, str) and right.startswith("@"):
        right = sets.get(right[1:], [])
    if isinstance(right, Mapping) and "set" in right:
        right = right["set"]
    for value in right if isinstance(right, list) else [right]:
        if isinstance(value, Mapping) and "elem" in value:
            value = value["elem"].get("val")
        if isinstance(value, Mapping) and "prefix" in value:
            yield f"{value['prefix']['addr']}/{value['prefix']['len']}"
        elif isinstance(value, Mapping) and "range" in value:
            yield "-".join(map(str, value["range"]))
        elif isinstance(value, (str, int)):
            yield str(value)
        else:
            yield "?"
