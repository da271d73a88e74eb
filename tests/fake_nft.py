"""The tables of nftables, for the unit tests: take and print libnftables-json(5) as the real nft does; walk packets.

Nothing here asks the code under test; what nft 1.0.6, 1.1.3 and 1.1.7 print is in ``tests/unit/netfilter/nft``.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, field
from typing import Any

Table = tuple[str, str]
HOOKS = ("prerouting", "output", "postrouting")


class NftError(Exception):
    """What the real ``nft -f`` would refuse; nothing is changed then."""


@dataclass
class Chain:
    """``base``: type, hook, priority and policy of one that the kernel calls."""

    base: dict[str, Any]
    rules: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class NftTables:
    """Each table by family and name, its chains by name."""

    tables: dict[Table, dict[str, Chain]] = field(default_factory=dict)
    generation: int = 0

    def take(self, text: str) -> None:
        """Take a transaction: all of it, or (NftError) nothing."""
        tables = copy.deepcopy(self.tables)
        for item in json.loads(text)["nftables"]:
            ((verb, what),) = item.items()
            ((kind, value),) = what.items()
            take = {"add table": _add_table, "delete table": _delete_table, "add chain": _add_chain}.get(
                f"{verb} {kind}", _add_rule
            )
            take(tables, value)
        self.tables = tables
        self.generation += 1

    def list(self, family: str, name: str) -> str | None:
        """Print a table as ``nft -j list table`` does; None if there is none."""
        return _listing([(family, name, self.tables[family, name])]) if (family, name) in self.tables else None

    def list_all(self) -> str:
        """Print all tables as ``nft -j list ruleset`` does."""
        return _listing([(family, name, chains) for (family, name), chains in self.tables.items()])

    def flush(self) -> None:
        """``nft flush ruleset``."""
        self.tables.clear()
        self.generation += 1

    def verdict(
        self,
        hook: str,
        address: str,
        port: int,
        led: bool = False,
        one_of: list[int] | None = None,
        turn: int = 0,
        own: bool = False,
    ) -> dict[str, Any] | None:
        """Return the statement that translates a packet at a hook; None if none does.

        ``one_of`` is filled with what the rules in turn ask for that it comes by; it passes ``turn`` of them by.
        """
        family = "ip6" if ":" in address else "ip"
        packet = _Packet(family, address, port, led, turn, [] if one_of is None else one_of, own)
        bases = sorted(
            (chain.base["prio"], name, chains)
            for (of, _), chains in self.tables.items()
            for name, chain in chains.items()
            if of in (family, "inet") and chain.base.get("hook") == hook
        )
        found = (_walk(chains, name, packet) for _, name, chains in bases)
        return next((statement for statement in found if statement), None)

    def reached(self, address: str, port: int, hook: str = "prerouting") -> str | None:
        """Return the host:port that a client of ``address:port`` is led to; None if it stays on the gateway."""
        dnat = (self.verdict(hook, address, port) or {}).get("dnat")
        return None if dnat is None else f"{_socket(dnat['addr'])}:{dnat['port']}"

    def spread(self, address: str, port: int) -> list[tuple[str, int]]:
        """Return each host:port that clients are led to, and of how many that come there it takes one."""
        found = []
        for turn in range(20):
            one_of: list[int] = []
            dnat = (self.verdict("prerouting", address, port, one_of=one_of, turn=turn) or {}).get("dnat")
            if dnat is None:
                return found
            found.append((f"{_socket(dnat['addr'])}:{dnat['port']}", one_of[-1] if len(one_of) > turn else 1))
            if len(one_of) <= turn:
                return found
        raise AssertionError("the rules have no end")

    def source_seen_by(self, host: str, port: int, led: bool = True, own: bool = False) -> str | None:
        """Return the address that a node sees as its client's; None if the client's own. See ``NatTable``."""
        statement = self.verdict("postrouting", host, port, led, own=own) or {}
        if "masquerade" in statement:
            return "MASQUERADE"
        return str(statement["snat"]["addr"]) if "snat" in statement else None


def _listing(tables: list[tuple[str, str, dict[str, Chain]]]) -> str:
    items: list[dict[str, Any]] = [
        {"metainfo": {"version": "1.0.6", "release_name": "Lester Gooch #5", "json_schema_version": 1}}
    ]
    for family, name, chains in tables:
        where = {"family": family, "table": name}
        items.append({"table": {"family": family, "name": name, "handle": 2}})
        items += [{"chain": {**where, "name": each, "handle": 1, **chain.base}} for each, chain in chains.items()]
        items += [
            {"rule": {**where, "chain": each, "handle": 7, **rule, "expr": [_printed(one) for one in rule["expr"]]}}
            for each, chain in chains.items()
            for rule in chain.rules
        ]
    return json.dumps({"nftables": items})


def _socket(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _add_table(tables: dict[Table, dict[str, Chain]], value: dict[str, Any]) -> None:
    tables.setdefault((value["family"], value["name"]), {})


def _delete_table(tables: dict[Table, dict[str, Chain]], value: dict[str, Any]) -> None:
    if tables.pop((value["family"], value["name"]), None) is None:
        raise NftError("Error: Could not process rule: No such file or directory")


def _add_chain(tables: dict[Table, dict[str, Chain]], value: dict[str, Any]) -> None:
    base = {key: value[key] for key in ("type", "hook", "prio", "policy") if key in value}
    chain = tables[value["family"], value["table"]].setdefault(value["name"], Chain(base))
    if chain.base != base:
        raise NftError("Error: Could not process rule: File exists")


def _add_rule(tables: dict[Table, dict[str, Chain]], value: dict[str, Any]) -> None:
    chains = tables[value["family"], value["table"]]
    for statement in value["expr"]:
        if "jump" in statement and statement["jump"]["target"] not in chains:
            raise NftError("Error: Could not process rule: No such file or directory")
    chains[value["chain"]].rules.append({key: value[key] for key in ("comment", "expr") if key in value})


def _printed(statement: dict[str, Any]) -> dict[str, Any]:
    return {"counter": {"packets": 3, "bytes": 180}} if "counter" in statement else statement


@dataclass
class _Packet:
    family: str
    address: str
    port: int
    led: bool
    turn: int
    one_of: list[int]
    own: bool


def _walk(chains: dict[str, Chain], name: str, packet: _Packet) -> dict[str, Any] | None:
    for rule in chains[name].rules:
        for statement in rule["expr"]:
            ((kind, value),) = statement.items()
            if kind == "match" and not _fits(value, packet):
                break
            if kind == "jump" and (found := _walk(chains, value["target"], packet)):
                return found
            if kind in ("dnat", "snat", "masquerade", "accept", "drop"):
                return dict(statement)
    return None


def _fits(match: dict[str, Any], packet: _Packet) -> bool:
    """A match that is not known here is an error, never a guess."""
    left, right = match["left"], match["right"]
    if left == {"payload": {"protocol": packet.family, "field": "daddr"}}:
        return bool(right == packet.address)
    if left == {"payload": {"protocol": "tcp", "field": "dport"}}:
        return bool(right == packet.port)
    if "numgen" in left:
        assert (left["numgen"]["mode"], left["numgen"]["offset"], right) == ("inc", 0, 0), match
        packet.one_of.append(left["numgen"]["mod"])
        return len(packet.one_of) > packet.turn
    if left == {"fib": {"result": "type", "flags": ["saddr"]}}:
        assert right == "local"
        return packet.own
    assert (left, right) == ({"ct": {"key": "status"}}, "dnat"), match
    return packet.led
