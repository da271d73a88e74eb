"""Rules of others on a gateway: which packets each is said to take or drop, and what is said not to be judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.checks.foreign_rules import look
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.system.rules import our_rules
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost, NatTable

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"].cluster
DNAT = "-p tcp -m tcp --dport 54322 -j DNAT --to-destination 10.0.0.12:5432"


class Gateway(FakeHost):
    """Clients on eth0, nodes behind eth1."""

    def route(self, address: str) -> Route:
        return Route(True, address, "eth0") if address == self.gateway else Route(False, "10.1.0.20", "eth1")


def found(host: FakeHost) -> list[tuple[str, str, str]]:
    return [(item.level, item.where, item.message) for item in look(MAIN, host) if item.level != "OK"]


def before_ours(rule: str) -> FakeHost:
    host = Gateway()
    host.nat = NatTable(
        host.nat.save().replace("-A PREROUTING -j repmgr_dnat", f"{rule}\n-A PREROUTING -j repmgr_dnat")
    )
    return host


def test_nothing_of_others() -> None:
    assert [item.level for item in look(MAIN, Gateway())] == ["OK"]


@pytest.mark.parametrize(
    ("rule", "level"),
    [
        (f"-A PREROUTING {DNAT}", "FAIL"),
        (f"-A PREROUTING -i eth0 {DNAT}", "FAIL"),
        (f"-A PREROUTING -i eth1 {DNAT}", ""),
        (f"-A PREROUTING -d 10.0.0.21/32 {DNAT}", ""),
        (f"-A PREROUTING -m addrtype --dst-type LOCAL {DNAT}", "FAIL"),
        ("-A PREROUTING -p tcp -m tcp --dport 54322 -j REDIRECT --to-ports 80", "FAIL"),
        ("-A PREROUTING -d 10.0.0.20/32 -j RETURN", "FAIL"),
        (f"-A PREROUTING -s 10.7.0.0/16 {DNAT}", "WARN"),
        (f"-A PREROUTING -m mark --mark 0x1 {DNAT}", "WARN"),
        ("-A PREROUTING -m mark --mark 0x1 -j RETURN", ""),
    ],
)
def test_a_nat_rule_before_ours(rule: str, level: str) -> None:
    said = found(before_ours(rule))
    assert [item[0] for item in said] == [level] * bool(level)
    assert all(where == "main iptables -t nat PREROUTING" and rule in what for _, where, what in said)


def native(priority: int, *expr: object) -> FakeHost:
    host = Gateway()
    host.native_tables = {("ip", "nat"), ("ip", "theirs")}
    chain = {"family": "ip", "table": "theirs", "name": "c", "type": "nat", "hook": "prerouting", "prio": priority}
    port = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 54322}}
    rule = {"family": "ip", "table": "theirs", "chain": "c", "handle": 7, "expr": [port, *expr]}
    host.programs["nft"] = lambda program: json.dumps({"nftables": [{"chain": chain}, {"rule": rule}]})
    return host


@pytest.mark.parametrize(("priority", "level"), [(-101, "FAIL"), (-100, "WARN"), (-99, "")])
def test_a_nat_chain_of_nft(priority: int, level: str) -> None:
    said = found(native(priority, {"dnat": {"addr": "10.0.0.12", "port": 5432}}))
    assert [(item[0], item[1]) for item in said] == [(level, "main nft chain ip theirs c")] * bool(level)


def test_what_nft_does_not_say_is_not_passed_over() -> None:
    host = Gateway()
    host.native_tables = {("inet", "theirs"), ("ip", "nat")}
    for answer in ("", "no json", '{"nftables": [{"rule": 1}]}'):
        host.programs["nft"] = lambda program, answer=answer: answer  # type: ignore[misc]
        ((level, where, what),) = found(host)
        assert (level, where) == ("WARN", "main nft")
        assert "inet theirs" in what


def test_a_policy_is_named_once_for_all_it_drops() -> None:
    host = Gateway()
    host.filter = ":FORWARD DROP [0:0]\n"
    (finding,) = findings(host)
    assert finding.message == (
        "clients to node 1, node 1 to clients, clients to node 2, node 2 to clients: "
        "dropped by the policy of iptables -t filter FORWARD"
    )
    assert finding.hint == "iptables -t filter -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT"


def test_a_rule_for_todays_primary_alone() -> None:
    host = Gateway()
    host.filter = ":FORWARD DROP [0:0]\n-A FORWARD -d 10.0.0.11/32 -j ACCEPT\n-A FORWARD -s 10.0.0.11/32 -j ACCEPT\n"
    assert findings(host)[0].message.startswith("clients to node 2, node 2 to clients: dropped by")


def findings(host: FakeHost) -> list[Finding]:
    return [item for item in look(MAIN, host) if item.level != "OK"]


def test_other_tables_are_walked_too() -> None:
    host = Gateway()

    def saved(program: Program) -> str:
        raw = "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --sport 5432 -j CT --notrack\nCOMMIT\n"
        return raw + host.nat.save()

    host.programs["iptables-save"] = saved
    (finding,) = findings(host)
    assert finding.message.startswith("node 1 to clients, node 2 to clients: not tracked, so not translated")
    assert finding.hint == "iptables -t raw -D PREROUTING -p tcp -m tcp --sport 5432 -j CT --notrack"
    assert our_rules(MAIN, host).rules


def native_rule(family: str, base: dict[str, object], *expr: object) -> FakeHost:
    host = Gateway()
    host.native_tables = {("ip", "nat"), (family, "theirs")}
    chain = {"family": family, "table": "theirs", "name": "c", "type": "filter", "prio": 0, **base}
    rule = {"family": family, "table": "theirs", "chain": "c", "handle": 7, "expr": [*expr]}
    host.programs["nft"] = lambda program: json.dumps({"nftables": [{"chain": chain}, {"rule": rule}]})
    return host


def port(number: int) -> object:
    return {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": number}}


@pytest.mark.parametrize(
    ("device", "number", "level"), [("eth0", 54322, "FAIL"), ("eth1", 22, ""), (["eth1", "eth0"], 54322, "FAIL")]
)
def test_what_is_dropped_as_it_comes_in(device: object, number: int, level: str) -> None:
    host = native_rule("netdev", {"hook": "ingress", "dev": device}, port(number), {"drop": None})
    said = findings(host)
    assert [item.level for item in said] == [level] * bool(level)
    assert all("tcp dport '{ 54321, 54322, 5432 }' accept" in item.hint for item in said)


def test_what_writes_another_port_into_the_packet() -> None:
    other = {"mangle": {"key": {"payload": {"protocol": "tcp", "field": "dport"}}, "value": 9}}
    (finding,) = findings(native_rule("ip", {"hook": "prerouting", "prio": -150}, port(54322), other))
    assert (finding.level, finding.hint) == ("FAIL", "nft delete rule ip theirs c handle 7")
    mark = {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 9}}
    assert findings(native_rule("ip", {"hook": "prerouting", "prio": -150}, port(54322), mark)) == []


@pytest.mark.parametrize(
    ("rule", "level"),
    [
        ("-A POSTROUTING -p tcp -m tcp --dport 5432 -j ACCEPT", "FAIL"),
        ("-A POSTROUTING -p tcp -m tcp --dport 5432 -j SNAT --to-source 10.0.0.99", "FAIL"),
        ("-A POSTROUTING -p tcp -m tcp --dport 5432 -j SNAT --to-source 10.0.0.20", ""),
        ("-A POSTROUTING -j MASQUERADE", "FAIL"),  # as 10.1.0.20
        ("-A POSTROUTING -o docker0 -j MASQUERADE", ""),
        ("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "WARN"),
        ("-A POSTROUTING -d 10.7.0.0/16 -j ACCEPT", ""),
    ],
)
def test_a_rule_that_gives_the_nodes_another_address_to_answer(rule: str, level: str) -> None:
    host = Gateway()
    host.nat = NatTable(
        host.nat.save().replace("-A POSTROUTING -j repmgr_snat", f"{rule}\n-A POSTROUTING -j repmgr_snat")
    )
    assert [(item.level, item.where) for item in findings(host)] == [
        (level, "main iptables -t nat POSTROUTING")
    ] * bool(level)


@pytest.mark.parametrize(
    ("rule", "who"),
    [
        ("-A OUTPUT -p tcp -m tcp --dport 5432 -j DROP", "this host to node 1, this host to node 2: "),
        ("-A INPUT -s 10.0.0.12/32 -j DROP", "node 2 to this host: "),
        ("-A INPUT -m set --match-set blocked src -j DROP", ""),
        ("-A INPUT -p tcp -m tcp --dport 22 -j DROP", ""),
        ("-A FORWARD -p tcp -m tcp --dport 22 -j DROP", ""),
    ],
)
def test_our_own_way_to_the_nodes(rule: str, who: str) -> None:
    host = Gateway()
    host.filter = f":INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rule}\n"
    assert [item.message.startswith(who) for item in findings(host)] == [True] * bool(who)


@pytest.mark.parametrize(
    ("statement", "level"),
    [({"snat": {"addr": "10.0.0.20"}}, "WARN"), ({"accept": None}, ""), ({"masquerade": None}, "FAIL")],
)
def test_a_nat_chain_of_nft_before_ours_in_postrouting(statement: object, level: str) -> None:
    to_node = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 5432}}
    host = native_rule("ip", {"type": "nat", "hook": "postrouting", "prio": 90}, to_node, statement)
    assert [item.level for item in findings(host)] == [level] * bool(level)
