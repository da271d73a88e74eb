"""Other members of each kind of rule that keeps clients from a node: each is named, and undone by its hint as typed."""

from __future__ import annotations

import json

import pytest

from tests.endtoend.rules import rules
from tests.endtoend.test_clients import a_client_writes, served, writes
from tests.lab import CONFIG_FILE, PYTHON, Lab

__all__ = ["served"]
# This part of `check` alone: the whole takes many times as long.
LOOK = """
import json, sys
from pathlib import Path
from repmgr_hooks import config
from repmgr_hooks.checks import finding, foreign_rules
from repmgr_hooks.system.host import LocalHost
found = [*foreign_rules.look(config.load(Path(sys.argv[1])).clusters["main"].cluster, LocalHost({}))]
print(json.dumps([item for item in finding.as_dicts(found) if item["level"] != "OK"]))
"""
NATIVE = "add table {0} theirs; add chain {0} theirs c {{ type {1} ; }}; add rule {0} theirs c {2}"


def found(lab: Lab) -> list[dict[str, str]]:
    """What ``check`` says of the rules."""
    result: list[dict[str, str]] = json.loads(lab.gateway.run(PYTHON, "-c", LOOK, CONFIG_FILE))
    return result


def typed(lab: Lab, hint: str) -> None:
    lab.gateway.run("sh", "-ec", hint)


def nft(family: str, chain: str, rule: str) -> str:
    return "nft " + NATIVE.format(family, chain, rule)


@pytest.mark.parametrize(
    ("command", "who", "words"),
    [
        (
            nft("ip", "nat hook prerouting priority -150", "tcp dport 54322 dnat to 10.0.0.12:5432"),
            *("port 54322 (app): ", "a rule of others takes it before ours: nft rule ip theirs c"),
        ),
        (
            nft("ip", "nat hook prerouting priority -150", "dnat to tcp dport map { 54322 : 10.0.0.12 }"),
            *("port 5432", "a rule of others takes it before ours: nft rule ip theirs c"),
        ),
        (
            nft("ip", "filter hook prerouting priority -150", "tcp dport 54322 drop"),
            *("port 54322 (app): ", "dropped by nft rule ip theirs c"),
        ),
        (
            nft("ip", "filter hook prerouting priority -150", "tcp dport 54322 tcp dport set 9"),
            *("port 54322 (app): ", "led elsewhere: nft rule ip theirs c"),
        ),
        (
            nft("ip", "filter hook prerouting priority -300", "tcp dport 54322 notrack"),
            *("port 54322 (app): ", "not tracked, so not translated: nft rule ip theirs c"),
        ),
        (
            nft("netdev", 'filter hook ingress device "eth0" priority 0', "tcp dport 54322 drop"),
            *("port 54322 (app): ", "dropped by nft rule netdev theirs c"),
        ),
        (
            nft("inet", "filter hook forward priority 0 ; policy drop", "tcp dport 22 accept"),
            *("clients to node 1, ", "dropped by the policy of nft chain inet theirs c"),
        ),
        (
            nft("ip", "filter hook postrouting priority 0", "tcp sport 5432 drop"),
            *("node 1 to clients, node 2 to clients: ", "dropped by nft rule ip theirs c"),
        ),
        (
            "iptables -t nat -I PREROUTING 1 -p tcp --dport 54322 -j REDIRECT --to-ports 9",
            *("port 54322 (app): ", "a rule of others takes it before ours: iptables -t nat -A PREROUTING"),
        ),
        (
            "iptables -t mangle -A PREROUTING -p tcp --dport 54322 -j TPROXY --on-port 9 --on-ip 10.0.0.20",
            *("port 54322 (app): ", "led elsewhere: iptables -t mangle -A PREROUTING"),
        ),
        (
            "iptables -t mangle -A PREROUTING -p tcp --dport 54322 -j DROP",
            *("port 54322 (app): ", "dropped by iptables -t mangle -A PREROUTING"),
        ),
        (
            "iptables -t mangle -A FORWARD -p tcp --dport 5432 -j DROP",
            *("clients to node 1, clients to node 2: ", "dropped by iptables -t mangle -A FORWARD"),
        ),
        (
            "iptables -t raw -A PREROUTING -p tcp --dport 54322 -j CT --notrack",
            *("port 54322 (app): ", "not tracked, so not translated: iptables -t raw -A PREROUTING"),
        ),
        (
            "iptables -t security -A FORWARD -p tcp --dport 5432 -j DROP",
            *("clients to node 1, clients to node 2: ", "dropped by iptables -t security -A FORWARD"),
        ),
        (
            "iptables -t nat -I POSTROUTING 1 -p tcp --dport 5432 -j ACCEPT",
            *("clients to node 1, clients to node 2: ", "takes it before ours: iptables -t nat -A POSTROUTING"),
        ),
        (
            "iptables -t nat -I POSTROUTING 1 -p tcp --dport 5432 -j SNAT --to-source 10.0.0.99",
            *("clients to node 1, clients to node 2: ", "takes it before ours: iptables -t nat -A POSTROUTING"),
        ),
    ],
)
def test_a_rule_that_keeps_clients_out(served: Lab, command: str, who: str, words: str) -> None:
    with rules(served, command):
        assert not writes(served)
        (finding,) = found(served)
        assert finding["level"] == "FAIL"
        assert finding["message"].startswith(who)
        assert words in finding["message"]
        typed(served, finding["hint"])
        assert found(served) == []
        a_client_writes(served)


@pytest.mark.parametrize(
    ("command", "who"),
    [
        ("iptables -A OUTPUT -p tcp --dport 5432 -j DROP", "this host to node 1, this host to node 2: "),
        ("iptables -A INPUT -s 10.0.0.11 -j DROP", "node 1 to this host: "),
        (nft("inet", "filter hook input priority 0", "tcp sport 5432 drop"), "node 1 to this host, node 2 to this"),
    ],
)
def test_a_rule_that_keeps_us_from_the_nodes(served: Lab, command: str, who: str) -> None:
    with rules(served, command):
        (finding,) = found(served)
        assert finding["message"].startswith(who)
        typed(served, finding["hint"])
        assert found(served) == []


@pytest.mark.parametrize(
    "command",
    [
        "iptables -t nat -I POSTROUTING 1 -j MASQUERADE",
        "iptables -t nat -I POSTROUTING 1 -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "iptables -t nat -I POSTROUTING 1 -p tcp --dport 5432 -j SNAT --to-source 10.0.0.20",
        "iptables -t mangle -A PREROUTING -p tcp --dport 54322 -j MARK --set-mark 1",
        nft("ip", "filter hook prerouting priority -150", "tcp dport 54322 ip dscp set cs1"),
        nft("netdev", 'filter hook ingress device "eth0" priority 0', "tcp dport 22 drop"),
    ],
)
def test_a_rule_that_changes_nothing_for_clients(served: Lab, command: str) -> None:
    with rules(served, command):
        a_client_writes(served)
        assert found(served) == []


@pytest.mark.parametrize(
    "command",
    [
        "iptables -A FORWARD -p tcp --dport 5432 -m connlimit --connlimit-above 0 -j REJECT",
        "iptables -A FORWARD -p tcp --dport 5432 -m limit --limit 1/hour --limit-burst 1 -j DROP",
        "iptables -A FORWARD -p tcp --dport 5432 -j NFQUEUE --queue-num 3",
        nft("inet", "filter hook forward priority 0", "tcp dport 5432 jump { drop ; }"),
    ],
)
def test_what_cannot_be_judged_is_said(served: Lab, command: str) -> None:
    with rules(served, command):
        (finding,) = found(served)
        assert (finding["level"], "cannot be judged" in finding["message"]) == ("WARN", True)
        typed(served, finding["hint"].rpartition("; or ")[2])
        assert found(served) == []
        a_client_writes(served)


def test_a_device_that_does_not_forward(served: Lab) -> None:
    served.gateway.run("sysctl", "-q", "-w", "net/ipv4/conf/eth0/forwarding=0")
    try:
        assert not writes(served)
        findings = json.loads(served.gateway.hooks("check", "--json").stdout)
        (finding,) = [item for item in findings if item["code"] == "kernel.forwarding" and item["level"] != "OK"]
        assert (finding["level"], finding["where"]) == ("FAIL", "main eth0")
        typed(served, finding["hint"])
        a_client_writes(served)
    finally:
        served.gateway.run("sysctl", "-q", "-w", "net/ipv4/conf/eth0/forwarding=1")
