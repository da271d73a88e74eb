"""Rules of others on a gateway: which packets each is said to take or drop, and what is said not to be judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.checks.foreign_rules import look
from repmgr_hooks.handlers import firewall
from repmgr_hooks.netfilter.route import Route
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
    assert firewall.nat_rules(MAIN.gateway, host)
