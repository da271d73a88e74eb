"""Our rules as nftables has them: a table of our own for each cluster, replaced as a whole in one transaction.

Read and written as JSON (libnftables-json(5)) by the program nft. python3-nftables would load libnftables into the
service, where no time limit could end it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.netfilter.our_rules import OurRules, Rule
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster
from repmgr_hooks.settings.endpoint import Endpoint

PACKAGES: tuple[str, ...] = ("nftables",)
OWN_TABLE = True
SHARES = "nft_numgen"
ABSENT = "Error: No such file or directory"
VERSION: tuple[str, ...] = ()
TABLE = "repmgr_hooks_{}"
# Before those of others, who use dstnat (-100) and srcnat (100) and, as firewalld, what comes after: of several chains
# at a hook the first that translates a connection is the only one (nf_nat_core.c, nf_nat_inet_fn). Ours ask for our own
# address and ports, so nothing is taken from others. The names are those of iptables, which no chain of a user's has.
BASES = {"PREROUTING": ("prerouting", -110), "OUTPUT": ("output", -110), "POSTROUTING": ("postrouting", 90)}

LED = json.loads('{"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}')
"""``ct status dnat``: what a DNAT rule has led."""
OWN = json.loads('{"match": {"op": "==", "left": {"fib": {"result": "type", "flags": ["saddr"]}}, "right": "local"}}')
"""``fib saddr type local``: what comes from this host itself."""
OWN_AS_WELL = json.loads(json.dumps(OWN).replace('["saddr"]', '"saddr"'))
WRITABLE = {"match", "counter", "dnat", "snat", "masquerade", "accept", "drop", "return"}

Object = dict[str, Any]
"""One of libnftables-json(5): of a table, a chain, a rule, a statement."""


def programs(family: Family) -> tuple[str, ...]:
    """Return the programs that it needs."""
    return ("nft",)


def table(cluster: Cluster) -> tuple[str, str]:
    """Return family and name of our table."""
    return (Family(cluster.gateway.address).name, TABLE.format(cluster.name))


def reading(cluster: Cluster) -> tuple[str, ...]:
    """Return the words that print our table."""
    return ("nft", "-j", "list", "table", *table(cluster))


def writing(cluster: Cluster) -> tuple[str, ...]:
    """Return the words that take a change on stdin, as one transaction."""
    return ("nft", "-j", "-f", "-")


def trying(cluster: Cluster) -> tuple[str, ...]:
    """Return the words that only try that."""
    return ("nft", "-c", "-j", "-f", "-")


def parse(printed: str, cluster: Cluster) -> OurRules:
    """Read our table. Handles, counters, and what a version says beside count for nothing."""
    there = [next(iter(item.items())) for item in _objects(printed)]
    there = [(kind, value) for kind, value in there if kind != "metainfo"]
    ours = _chains(cluster)
    rules = tuple(_rule(cluster, value) for kind, value in there if kind == "rule" and value["chain"] in ours)
    around = Counter(_said(kind, value) for kind, value in there if kind != "rule" or value["chain"] not in ours)
    wanted = Counter(_said(kind, value) for item in _frame(cluster) for kind, value in item.items())
    missing, strange = wanted - around, around - wanted
    return OurRules("nftables", rules, bool(there), tuple(missing), (*missing, *strange))


def dnat_rule(cluster: Cluster, port: str, to: Endpoint, one_of: int = 1) -> Rule:
    """Return the rule that leads a named port to a node."""
    gateway = cluster.gateway
    turn = {"numgen": {"mode": "inc", "mod": one_of, "offset": 0}}
    expr = [
        *_to(gateway.address, gateway.ports[port]),
        *([{"match": {"op": "==", "left": turn, "right": 0}}] if one_of > 1 else []),
        {"counter": None},
        {"dnat": {"addr": to.host, "port": to.port}},
    ]
    comment = f"repmgr_hooks:{cluster.name}:{port}"
    return _rule(cluster, {"chain": gateway.chains.dnat, "comment": comment, "expr": expr})


def hold_rule(cluster: Cluster, port: str) -> Rule:
    """Return the rule by which new connections to a named port wait."""
    gateway = cluster.gateway
    expr = [*_to(gateway.address, gateway.ports[port]), {"counter": None}, {"drop": None}]
    comment = f"repmgr_hooks:{cluster.name}:{port}"
    return _rule(cluster, {"chain": gateway.chains.dnat, "comment": comment, "expr": expr})


def snat_rules(cluster: Cluster, to: Endpoint, here: bool = True) -> list[Rule]:
    """Return the rules that make the node answer through the gateway."""
    gateway = cluster.gateway
    masquerade: Object = {"masquerade": None}
    target: Object = {"snat": {"addr": gateway.snat}} if here and gateway.snat != MASQUERADE else masquerade
    kinds = [*([[LED, OWN, {"counter": None}, masquerade]] if gateway.hosts else []), [LED, {"counter": None}, target]]
    rule = {"chain": gateway.chains.snat, "comment": f"repmgr_hooks:{cluster.name}:{to.port}"}
    return [_rule(cluster, {**rule, "expr": [*_to(to.host, to.port), *statements]}) for statements in kinds]


def swap(cluster: Cluster, rules: Iterable[Rule], repairs: Iterable[str] = ()) -> str:
    """Return the change that makes our table anew, whatever is wrong with it; a packet meets the old or the new one."""
    written = [json.loads(rule.text) for rule in rules if rule.text]
    return _change([*_removed(cluster), *({"add": item} for item in (*_frame(cluster), *written))])


def removal(cluster: Cluster, ours: OurRules) -> str:
    """Return the change that removes our table."""
    return _change(_removed(cluster))


def after(printed: str, change: str) -> str:
    """Return what would be printed after a change: each replaces the table."""
    return _change([item["add"] for item in _objects(change)[2:]])


def _removed(cluster: Cluster) -> list[Object]:
    """Added first: what is not there cannot be deleted (``destroy`` needs nft 1.0.7 and Linux 6.3)."""
    ours = {"table": _named(cluster)}
    return [{"add": ours}, {"delete": ours}]


def _frame(cluster: Cluster) -> list[Object]:
    """The table, our chains, those that the kernel calls, and the jumps from these to ours."""
    where, (dnat, snat) = _in_table(cluster), _chains(cluster)
    bases = [
        {**where, "name": name, "type": "nat", "hook": hook, "prio": priority, "policy": "accept"}
        for name, (hook, priority) in BASES.items()
    ]
    jumps = [
        {**where, "chain": name, "expr": [{"jump": {"target": snat if name == "POSTROUTING" else dnat}}]}
        for name in BASES
    ]
    return [
        {"table": _named(cluster)},
        *({"chain": chain} for chain in ({**where, "name": dnat}, {**where, "name": snat}, *bases)),
        *({"rule": jump} for jump in jumps),
    ]


def _chains(cluster: Cluster) -> tuple[str, str]:
    return (cluster.gateway.chains.dnat, cluster.gateway.chains.snat)


def _named(cluster: Cluster) -> Object:
    family, name = table(cluster)
    return {"family": family, "name": name}


def _in_table(cluster: Cluster) -> Object:
    family, name = table(cluster)
    return {"family": family, "table": name}


def _to(address: str, port: int) -> list[Object]:
    return [_equal(Family(address).name, "daddr", address), _equal("tcp", "dport", port)]


def _equal(protocol: str, field: str, value: str | int) -> Object:
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": value}}


def _rule(cluster: Cluster, rule: Object) -> Rule:
    """Read a rule in a chain of ours. One that refers to something else cannot be written again: it has no text."""
    expr: list[Object] = [{"counter": None} if "counter" in statement else statement for statement in _statements(rule)]
    kinds = {kind for statement in expr for kind in statement}
    kept: Object = {name: rule[name] for name in ("chain", "comment") if name in rule}
    text = json.dumps({"rule": {**_in_table(cluster), **kept, "expr": expr}})
    port = next((each["match"]["right"] for each in expr if _asks_for_port(each)), None)
    to: Object = next((each["dnat"] for each in expr if "dnat" in each), {})
    return Rule(
        text if kinds <= WRITABLE and '"@' not in text else "",
        _said("rule", rule),
        rule.get("comment", ""),
        port if isinstance(port, int) else None,
        _endpoint(to.get("addr"), to.get("port", port)),
    )


def _endpoint(address: object, port: object) -> Endpoint | None:
    """What names no port keeps that of the packet (nft(8), NAT STATEMENTS); of several, none is known."""
    return Endpoint(address, port if isinstance(port, int) else 0) if isinstance(address, str) else None


def _statements(rule: Object) -> list[Object]:
    """For some statements, such as a jump to a chain without a name, nft has text alone (json.c, stmt_print_json); and
    newer versions print a single flag without the list (json.c, fib_expr_json)."""
    said = [{each: None} if isinstance(each, str) else each for each in rule["expr"]]
    return [OWN if each in (OWN, OWN_AS_WELL) else each for each in said]


def _asks_for_port(statement: Object) -> bool:
    left = statement.get("match", {}).get("left")
    return bool(left == _equal("tcp", "dport", 0)["match"]["left"])


def _said(kind: str, value: Object) -> str:
    """Return what something in our table is, in one line."""
    if kind == "table":
        return " ".join(("table", value["name"], *value.get("flags", ())))
    if kind == "chain":
        said = (str(value[key]) for key in ("name", "type", "hook", "prio", "policy") if key in value)
        return f"chain {' '.join(said)}"
    if kind == "rule":
        expr = [statement for statement in _statements(value) if "counter" not in statement]
        return f"rule {value['chain']} {json.dumps(expr, sort_keys=True)}"
    return f"{kind} {value.get('name', '')}"


def _objects(text: str) -> list[Object]:
    found: list[Object] = json.loads(text)["nftables"] if text.strip() else []
    return found


def _change(items: Sequence[Object]) -> str:
    """One a line, for a dry run shows it."""
    return '{"nftables": [\n' + ",\n".join(map(json.dumps, items)) + "\n]}\n"
