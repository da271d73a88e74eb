"""A gateway whose rules nftables has: one cluster, one story, in the order of the tests."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import (
    assert_nothing_lost,
    barman_streams_from,
    led_to,
    nothing_missing,
    routes,
    unplugged_under_open_connections,
    wait_until_good,
    worker_log,
)
from tests.endtoend.rules import rules
from tests.lab import CONFIG_FILE, Lab, wait_for
from tests.lab.three import rejoin

TABLE = """\
table ip repmgr_hooks_main {
chain repmgr_dnat {
ip daddr 10.0.0.20 tcp dport 54321 dnat to 10.0.0.11:5432 comment "repmgr_hooks:main:barman"
ip daddr 10.0.0.20 tcp dport 54322 dnat to 10.0.0.11:5432 comment "repmgr_hooks:main:app"
}

chain repmgr_snat {
ip daddr 10.0.0.11 tcp dport 5432 ct status dnat snat to 10.0.0.20 comment "repmgr_hooks:main:5432"
}

chain PREROUTING {
type nat hook prerouting priority -110; policy accept;
jump repmgr_dnat
}

chain OUTPUT {
type nat hook output priority -110; policy accept;
jump repmgr_dnat
}

chain POSTROUTING {
type nat hook postrouting priority 90; policy accept;
jump repmgr_snat
}
}
"""
THEIRS = """\
table inet theirs {
    chain in { type filter hook input priority 0; policy accept; tcp dport 9 drop; }
    chain pre { type nat hook prerouting priority -100; policy accept; tcp dport 8080 redirect to :80; }
}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with fresh_lab(backend="nftables") as lab:
        lab.open()
        yield lab


def said(lab: Lab) -> list[dict[str, str]]:
    """What ``check`` finds wrong with the kernel, the rules, and what clients get."""
    findings = json.loads(lab.gateway.hooks("check", "--json").stdout)
    kinds = ("kernel.", "rules.", "gateway.", "client.", "routes.")
    return [item for item in findings if item["level"] != "OK" and item["code"].startswith(kinds)]


def test_a_table_of_our_own_and_nothing_of_iptables(lab: Lab) -> None:
    assert lab.gateway.nat() == TABLE.splitlines()
    assert lab.gateway.run("iptables-save") == ""
    assert said(lab) == []
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", every=0.5)
    assert lab.psql_app("select inet_client_addr()").stdout == "10.0.0.20\n"
    assert barman_streams_from(lab.db1)


def test_a_ruleset_that_is_loaded_anew(lab: Lab) -> None:
    """/etc/nftables.conf begins with ``flush ruleset`` on Debian and RHEL; then it has rules of others."""
    lab.put(lab.gateway, "/etc/nftables.conf", f"#!/usr/sbin/nft -f\nflush ruleset\n{THEIRS}")
    lab.gateway.run("nft", "-f", "/etc/nftables.conf")
    wait_for(lambda: lab.gateway.nat() == TABLE.splitlines(), "our table to be there again")
    theirs = lab.gateway.run("nft", "list", "table", "inet", "theirs")
    assert "dport 8080 redirect" in theirs
    assert said(lab) == []


def read_again_with(lab: Lab, backend: str) -> None:
    place = lab.gateway.path(CONFIG_FILE)
    text, times = re.subn(r"(?<= backend: )\w+", backend, place.read_text())
    assert times == 1
    place.write_text(text)
    lab.daemons["worker"].send_signal(signal.SIGHUP)


def test_to_iptables_and_back(lab: Lab) -> None:
    """No write fails meanwhile, and in the end there is one that leads clients."""
    client, begun = lab.start_client(), time.time()
    for old, new in (("nftables", "iptables"), ("iptables", "nftables")):
        read_again_with(lab, new)
        removed = f"remove our rules from {old}: now {new} has them"
        wait_for(lambda said=removed: any(said in line for line in worker_log(lab)), f"the rules to be with {new}")
        wait_for(lambda: nothing_missing(lab), "all to be done")
        by_iptables = [line for line in lab.gateway.rules("nat") if "repmgr" in line]
        assert (len(by_iptables), bool(lab.gateway.nat())) == ((8, False) if new == "iptables" else (0, True))
        client.wait_for_write(time.time())
    assert lab.gateway.nat() == TABLE.splitlines()
    assert [write for write in client.writes() if write.begun > begun and write.row is None] == []
    client.stop()


def nft(chain: str, rule: str) -> str:
    return f"nft add table ip theirs; add chain ip theirs c {{ type {chain} ; }}; add rule ip theirs c {rule}"


ELSEWHERE = "tcp dport 54322 dnat to 10.0.0.12:5432"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (
            nft("nat hook prerouting priority -150", ELSEWHERE),
            "a rule of others takes it before ours: nft rule ip theirs c",
        ),
        (nft("filter hook forward priority 0", "tcp dport 5432 drop"), "dropped by nft rule ip theirs c"),
    ],
)
def test_a_rule_that_keeps_clients_out(lab: Lab, command: str, words: str) -> None:
    with rules(lab, command):
        assert lab.psql_app("insert into work default values", patience=3).returncode != 0
        (finding,) = said(lab)
        assert (finding["code"], finding["level"]) == ("rules.foreign", "FAIL")
        assert words in finding["message"]
        lab.gateway.run("sh", "-ec", finding["hint"])
        assert said(lab) == []
        assert lab.psql_app("insert into work default values", patience=20).returncode == 0


def test_what_comes_after_ours_changes_nothing_for_clients(lab: Lab) -> None:
    """With iptables in our place each of these would be in front."""
    with rules(
        lab,
        nft("nat hook prerouting priority -100", ELSEWHERE),
        "iptables -t nat -I PREROUTING 1 -p tcp --dport 54322 -j DNAT --to-destination 10.0.0.12:5432",
        "iptables -t nat -I POSTROUTING 1 -p tcp --dport 5432 -j SNAT --to-source 10.0.0.99",
    ):
        assert lab.psql_app("insert into work default values").returncode == 0
        assert said(lab) == []


def test_primary_unplugged_under_open_connections(lab: Lab) -> None:
    """No reset comes from db1, neither to the application nor to a client on the gateway itself, as Barman is one."""
    clients = unplugged_under_open_connections(lab, lab.db1)
    wait_for(lambda: nothing_missing(lab), "the end of the failover")
    assert led_to(lab, lab.db2)
    assert lab.gateway.nat() == TABLE.replace("10.0.0.11", "10.0.0.12").splitlines()
    for client in clients:
        assert_nothing_lost(client, lab.db2)
        client.stop()


def test_a_stale_primary_gets_no_client(lab: Lab) -> None:
    """db1 comes back while db2 is away; and somebody leads a port to it."""
    before = lab.gateway.nat()
    lab.unplug(lab.db2)
    lab.plug_in(lab.db1)
    wait_for(lambda: "SPLIT-BRAIN: node 1 is a stale primary" in lab.gateway.hooks("status").stdout, "a stale primary")
    assert lab.gateway.nat() == before

    rule = "ip daddr 10.0.0.20 tcp dport 54322 dnat to 10.0.0.11:5432"
    lab.gateway.run("nft", "insert", "rule", "ip", "repmgr_hooks_main", "repmgr_dnat", *rule.split())
    wait_for(lambda: routes(lab) == {54321: "10.0.0.12"}, "the port to be closed")

    lab.plug_in(lab.db2)
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db2), "the port to be open again")
    rejoin(lab.db1, lab.db2)
    wait_until_good(lab, lab.db2, [lab.db1])
