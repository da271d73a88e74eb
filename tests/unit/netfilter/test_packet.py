"""Where a packet goes: rules of iptables and of nft, walked by one packet, with what cannot be known."""

from __future__ import annotations

import json

import pytest

from repmgr_hooks.netfilter import nft_rules, saved_rules
from repmgr_hooks.netfilter.packet import UNKNOWN, Chain, End, Packet, in_order, walk

CLIENT = Packet(
    None,
    "10.0.0.11",
    None,
    5432,
    "eth0",
    "eth1",
    frozenset({"NEW", "DNAT"}),
    flags=frozenset({"SYN"}),
    strangers=frozenset({"10.0.0.12"}),
)


def forward(*rules: str, policy: str = "ACCEPT") -> Chain:
    lines = [f"-A {rule}" if not rule.startswith("-") else f"-A FORWARD {rule}" for rule in rules]
    text = "\n".join(["*filter", f":FORWARD {policy} [0:0]", ":U - [0:0]", ":V - [0:0]", *lines, "COMMIT"])
    (chain,) = saved_rules.parse(text, "iptables")
    return chain


@pytest.mark.parametrize(
    ("rules", "policy", "target"),
    [
        ([], "ACCEPT", "POLICY"),
        ([], "DROP", "DROP"),
        (["-p tcp -m tcp --dport 5432 -j DROP"], "ACCEPT", "DROP"),
        (["-p tcp -m tcp --dport 5000:6000 -j DROP"], "ACCEPT", "DROP"),
        (["-p tcp -m tcp --dport 5433:6000 -j DROP"], "ACCEPT", "POLICY"),
        (["-p tcp -m tcp ! --dport 5432 -j DROP"], "ACCEPT", "POLICY"),
        (["-p tcp -m multiport --dports 80,5432 -j REJECT --reject-with tcp-reset"], "ACCEPT", "REJECT"),
        (["-p udp -j DROP"], "ACCEPT", "POLICY"),
        (["-d 10.0.0.12/32 -j DROP"], "ACCEPT", "POLICY"),
        (["-d 10.0.0.0/24 -j DROP"], "ACCEPT", "DROP"),
        (["! -d 10.0.0.0/24 -j DROP"], "ACCEPT", "POLICY"),
        (["-m iprange --dst-range 10.0.0.1-10.0.0.20 -j DROP"], "ACCEPT", "DROP"),
        (["-i eth0 -o eth1 -j ACCEPT"], "DROP", "ACCEPT"),
        (["-i eth+ -j ACCEPT"], "DROP", "ACCEPT"),
        (["-i docker0 -j ACCEPT", "! -i docker0 -o docker0 -j ACCEPT"], "DROP", "DROP"),
        (["-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"], "DROP", "DROP"),
        (["-m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT"], "DROP", "ACCEPT"),
        (["-m conntrack --ctstate DNAT -j ACCEPT"], "DROP", "ACCEPT"),
        (["-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j DROP"], "ACCEPT", "DROP"),
        (["-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m state --state NEW -j DROP"], "ACCEPT", "POLICY"),
        (["-j U", "U -j RETURN", "U -j DROP"], "ACCEPT", "POLICY"),
        (["-j U", "U -j V", "V -j DROP"], "ACCEPT", "DROP"),
        (["-g U", "-j DROP"], "ACCEPT", "POLICY"),
        (["-j LOG --log-prefix x", "-j ACCEPT"], "DROP", "ACCEPT"),
        (["-s 10.7.0.0/16 -j ACCEPT"], "DROP", "ACCEPT"),
        (["-s 10.7.0.0/16 -j DROP"], "ACCEPT", "POLICY"),
        (["-s 10.0.0.12/32 -j ACCEPT"], "DROP", "DROP"),
        (["-s 10.7.0.0/16 -j U", "U -j ACCEPT"], "DROP", "ACCEPT"),
        (["-j RETURN", "-j DROP"], "ACCEPT", "POLICY"),
        (["-j U", "U -j U"], "ACCEPT", "POLICY"),
    ],
)
def test_what_takes_the_packet(rules: list[str], policy: str, target: str) -> None:
    end = walk(forward(*rules, policy=policy), CLIENT)
    assert end.target == target
    assert end.doubts == () or rules == ["-j U", "U -j U"]


@pytest.mark.parametrize(
    ("rules", "doubts"),
    [
        (["-m mark --mark 0x1 -j DROP"], [("DROP", "-A FORWARD -m mark --mark 0x1 -j DROP")]),
        (["-m limit --limit 1/sec -j U", "U -j DROP"], [("DROP", "-A FORWARD -m limit --limit 1/sec -j U")]),
        (["-j U", "U -m set --match-set x src -j ACCEPT"], [("ACCEPT", "-A U -m set --match-set x src -j ACCEPT")]),
        (["-j SYNPROXY"], [("UNKNOWN", "-A FORWARD -j SYNPROXY")]),
        (["-m set --match-set x src -j LOG"], []),
        (["-m mark --mark 0x1 -d 10.0.0.12/32 -j DROP"], []),
    ],
)
def test_what_cannot_be_known_is_a_doubt(rules: list[str], doubts: list[tuple[str, str]]) -> None:
    assert walk(forward(*rules), CLIENT) == End("POLICY", "", tuple(doubts))


def test_our_own_chain_ends_the_walk() -> None:
    text = "*nat\n:PREROUTING ACCEPT [0:0]\n:ours - [0:0]\n-A PREROUTING -i eth9 -j DNAT --to-destination 10.0.0.9\n"
    text += "-A PREROUTING -j ours\n-A PREROUTING -j DNAT --to-destination 10.0.0.8\nCOMMIT\n"
    (chain,) = saved_rules.parse(text, "iptables")
    assert walk(chain, CLIENT, "ours").target == "OWN"


# -- nft: as libnftables 1.0.6 prints it -------------------------------------------------------------------------------


def listed(*exprs: list[object], policy: str = "accept", family: str = "ip") -> list[Chain]:
    base = {
        "family": family,
        "table": "t",
        "name": "c",
        "type": "filter",
        "hook": "forward",
        "prio": 5,
        "policy": policy,
    }
    rules = [
        {"rule": {"family": family, "table": "t", "chain": "c", "handle": n, "expr": e}} for n, e in enumerate(exprs)
    ]
    inner = {"rule": {"family": family, "table": "t", "chain": "d", "handle": 99, "expr": [{"drop": None}]}}
    elements = {
        "set": {"family": family, "table": "t", "name": "s", "elem": ["10.0.0.11", {"range": ["1.1.1.1", "1.1.1.2"]}]}
    }
    chain = {"chain": {"family": family, "table": "t", "name": "d", "handle": 1}}
    everything = [
        {"metainfo": {}},
        {"table": {"family": family, "name": "t"}},
        elements,
        chain,
        {"chain": base},
        inner,
        *rules,
    ]
    return nft_rules.parse(json.dumps({"nftables": everything}), False, [])


def match(left: object, right: object, op: str = "==") -> dict[str, object]:
    return {"match": {"op": op, "left": left, "right": right}}


DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
DADDR = {"payload": {"protocol": "ip", "field": "daddr"}}
STATE, STATUS = {"ct": {"key": "state"}}, {"ct": {"key": "status"}}
DROP: dict[str, object] = {"drop": None}
ACCEPT: dict[str, object] = {"accept": None}


@pytest.mark.parametrize(
    ("expr", "policy", "target"),
    [
        ([match(DPORT, 5432), DROP], "accept", "DROP"),
        ([match(DPORT, 5432, "!="), DROP], "accept", "POLICY"),
        ([match(DPORT, {"set": [22, 5432]}), {"counter": {}}, DROP], "accept", "DROP"),
        ([match(DPORT, {"range": [1, 1024]}), DROP], "accept", "POLICY"),
        ([match(DADDR, {"prefix": {"addr": "10.0.0.0", "len": 24}}), DROP], "accept", "DROP"),
        ([match(DADDR, {"range": ["10.0.0.12", "10.0.0.20"]}), DROP], "accept", "POLICY"),
        ([match(DADDR, "@s"), DROP], "accept", "DROP"),
        ([match({"payload": {"protocol": "ip6", "field": "daddr"}}, "fd00::1"), DROP], "accept", "POLICY"),
        ([match({"payload": {"protocol": "udp", "field": "dport"}}, 5432), DROP], "accept", "POLICY"),
        ([match(STATE, {"set": ["established", "related"]}), ACCEPT], "drop", "DROP"),
        ([match(STATE, ["established", "new"], "in"), ACCEPT], "drop", "ACCEPT"),
        ([match(STATUS, "dnat", "in"), ACCEPT], "drop", "ACCEPT"),
        ([match({"meta": {"key": "iifname"}}, "eth0"), {"reject": {"type": "tcp reset"}}], "accept", "REJECT"),
        ([match({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), DROP], "accept", "DROP"),
        ([{"jump": {"target": "d"}}], "accept", "DROP"),
        ([{"vmap": {"key": STATE, "data": {"set": [["invalid", DROP], ["new", ACCEPT]]}}}], "drop", "ACCEPT"),
        ([{"vmap": {"key": DPORT, "data": {"set": [[5432, {"jump": {"target": "d"}}]]}}}], "accept", "DROP"),
    ],
)
def test_what_takes_the_packet_in_nft(expr: list[object], policy: str, target: str) -> None:
    (chain,) = listed(expr, policy=policy)
    assert (walk(chain, CLIENT).target, walk(chain, CLIENT).doubts) == (target, ())


@pytest.mark.parametrize(
    "statement",
    [
        match({"meta": {"key": "mark"}}, 1),
        match({"concat": [DADDR, DPORT]}, {"set": [{"concat": ["10.0.0.11", 5432]}]}),
        match({"ct": {"key": "direction"}}, "reply"),
        {"limit": {"rate": 1, "per": "second"}},
    ],
)
def test_what_cannot_be_known_is_a_doubt_in_nft(statement: object) -> None:
    (chain,) = listed([statement, DROP])
    assert walk(chain, CLIENT) == End("POLICY", "", (("DROP", "ip t c handle 0"),))
    (chain,) = listed([{"xt": None}])
    assert walk(chain, CLIENT).doubts == (("UNKNOWN", "ip t c handle 0"),)


def test_tables_of_another_family_and_those_seen_already_are_left_out() -> None:
    assert listed(family="ip6") == []
    assert [chain.where for chain in listed(family="inet")] == ["nft chain inet t c"]
    everything = json.dumps({"nftables": [{"chain": {"family": "ip", "table": "nat", "name": "P", "hook": "forward"}}]})
    assert nft_rules.parse(everything, False, [("ip", "nat")]) == []


def test_an_anonymous_chain_is_a_rule_of_which_nothing_is_known() -> None:
    """nft prints it as its own text; the rules beside it are read all the same."""
    (chain,) = listed(["jump {\n\t\tdrop\n\t}"], [{"accept": None}])
    assert [rule.target for rule in chain.chains["c"]] == [UNKNOWN, "ACCEPT"]


def test_the_order_of_chains() -> None:
    (late,), first = listed(), forward()
    assert in_order([late, first], "forward") == [first, late]
    assert in_order([late, first], "prerouting") == []
