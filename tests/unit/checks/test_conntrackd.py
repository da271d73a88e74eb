"""What ``check`` says of conntrackd: what it is to copy, whether the other one is heard, whether all is there."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.checks import conntrackd, gateways
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.cluster import in_step
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.conntrackd import CONFIGURATION, parse_link
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.settings.cluster import MASQUERADE
from repmgr_hooks.system.steps import Program
from tests.fake import LINK, Connection, FakeHost
from tests.unit.engine.test_gateways import HOSTS, MAIN
from tests.unit.setup.test_two_gateways import OTHER, OWN, PAIR, drafted, gateway_of

OWN_CACHE = ("DisableExternalCache yes", "")
DEBIANS = """#!/bin/sh
# what Debian's package has: conntrackd -c
case "$1" in
  primary)
    $CONNTRACKD_BIN -C $CONNTRACKD_CONFIG -c
    ;;
esac
"""


def found(root: Path, host: FakeHost, *changes: tuple[str, str]) -> list[Finding]:
    """What is said of conntrackd with such changes to its file."""
    text = drafted()[CONFIGURATION]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (root / CONFIGURATION.lstrip("/")).write_text(text)
    return [each for each in gateways.here(PAIR, host, root) if each.code in ("gateway.conntrackd", "gateway.sync")]


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    return gateway_of(tmp_path, drafted())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (*OWN_CACHE, "is not in this one's kernel"),
        ("DisableExternalCache yes", "DisableExternalCache no", "is not in this one's kernel"),
        ("DisableExternalCache yes", "# DisableExternalCache yes", "is not in this one's kernel"),
        ("Mode FTFW", "Mode NOTRACK", "is not sent again"),
        (OTHER, "10.0.0.99", f"does not name {OTHER}"),
        (
            f"IPv4_address {OWN}\n        IPv4_D",
            "IPv4_address 10.0.0.77\n        IPv4_D",
            "10.0.0.77 is not this host's",
        ),
        ("Interface ens3", "Interface ens4", "is not Interface ens4"),
        ("            TCP\n", "            UDP\n            ICMP\n", "of TCP are not copied"),
        ("Protocol Accept {", "Protocol Ignore {", "of TCP are not copied"),
        ("IPv4_address 127.0.0.1", "IPv4_address 10.0.0.30", "connections with 10.0.0.30 are not copied"),
        ("IPv4_address 127.0.0.1", "IPv4_address 10.0.0.11", "connections with 10.0.0.11 are not copied"),
        ("IPv4_address 127.0.0.1", "IPv4_address 10.0.0.0/28", "connections with 10.0.0.11, 10.0.0.12 are not copied"),
        ("Address Ignore {", "Address Accept {", "connections with 10.0.0.30 are not copied"),
        ("Protocol Accept {", "State Accept { CLOSED TIME_WAIT for TCP }\n Protocol Accept {", "that are established"),
    ],
)
def test_what_it_is_not_to_copy(tmp_path: Path, host: FakeHost, old: str, new: str, expected: str) -> None:
    first, heard = found(tmp_path, host, (old, new))
    assert (first.level, first.code) == ("WARN", "gateway.conntrackd")
    assert expected in first.message
    assert first.hint
    assert heard.level == "OK"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("        Protocol Accept {\n            TCP\n        }\n", ""),
        ("            TCP\n", "            SCTP\n            tcp\n"),
        ("Protocol Accept {", "State Accept { ESTABLISHED CLOSED for TCP }\n Protocol Accept {"),
        ("Address Ignore {", "Address Accept {\nIPv4_address 10.0.0.30\n"),
        ("IPv4_address 127.0.0.1", "IPv4_address 127.0.0.0/8\n IPv6_address ::/0"),
        ("Interface ens3\n", "# any interface\n"),
        ("UDP {", "UDP Default {"),
    ],
)
def test_what_is_as_good(tmp_path: Path, host: FakeHost, old: str, new: str) -> None:
    assert [each.level for each in found(tmp_path, host, (old, new))] == ["OK", "OK"]


@pytest.mark.parametrize(
    ("line", "script", "good"),
    [
        ('notify_master "/usr/sbin/conntrackd -c" root root', "", True),
        ('notify_master "/etc/conntrackd/primary-backup.sh primary"', DEBIANS, True),
        ("notify /etc/conntrackd/primary-backup.sh", DEBIANS, True),
        ('notify_master "/etc/conntrackd/primary-backup.sh primary"', "# conntrackd -c\ntrue\n", False),
        ('notify_master "/etc/conntrackd/no-such-script"', "", False),
        ('notify_master ""', "", False),
        ('notify_master " " root', "", False),
        ('notify_backup "/usr/sbin/conntrackd -c" root root', "", False),
        ('# notify_master "/usr/sbin/conntrackd -c"', "", False),
    ],
)
def test_an_external_cache_must_be_committed(
    tmp_path: Path, host: FakeHost, line: str, script: str, good: bool
) -> None:
    keepalived = tmp_path / gateways.KEEPALIVED.lstrip("/")
    given = 'notify_master "/usr/sbin/conntrackd -R" root root'
    assert given in keepalived.read_text()
    keepalived.write_text(keepalived.read_text().replace(given, line))
    (tmp_path / "etc/conntrackd/primary-backup.sh").write_text(script)
    assert (found(tmp_path, host, OWN_CACHE)[0].level == "OK") is good


def test_a_gateway_that_is_back_asks_twice() -> None:
    """keepalived gives the quoted words to the shell; conntrackd sends a question once, which a link may lose."""
    (words,) = re.findall(r'(?m)^ *notify_backup "([^"]*)"', drafted()[gateways.KEEPALIVED])
    shell, option, commands = shlex.split(words)
    assert (shell, option) == ("/usr/bin/sh", "-c")
    assert commands.split("; ") == ["/usr/sbin/conntrackd -n", "sleep 10", "/usr/sbin/conntrackd -n"]


def test_each_fault_is_a_finding_of_its_own(tmp_path: Path, host: FakeHost) -> None:
    changes = (OWN_CACHE, ("Mode FTFW", "Mode ALARM"), ("IPv4_address 127.0.0.1", "IPv4_address 10.0.0.12"))
    assert [each.level for each in found(tmp_path, host, *changes)] == ["WARN", "WARN", "WARN", "OK"]


# -- the other one -----------------------------------------------------------------------------------------------------


def test_the_other_one_is_not_heard(tmp_path: Path, host: FakeHost) -> None:
    """Its conntrackd is dead, or a firewall drops what it sends."""
    host.unheard, begun = True, host.now()
    sync = found(tmp_path, host)[-1]
    assert (sync.level, sync.code) == ("FAIL", "gateway.sync")
    assert sync.message == f"nothing has come from the conntrackd of {OTHER} for 15 s"
    assert "UDP port 3780" in sync.hint
    assert host.now() - begun < 20
    host.daemons.discard("conntrackd")
    assert [each.code for each in found(tmp_path, host)] == ["gateway.conntrackd"], "one cause, one finding"


def test_it_is_heard_late_and_after_a_restart_of_our_own(tmp_path: Path, host: FakeHost) -> None:
    host.came_by_conntrackd, host.unheard = 17, True
    host.at(host.now() + 6, lambda: setattr(host, "came_by_conntrackd", 0))
    host.at(host.now() + 11, lambda: setattr(host, "unheard", False))
    assert found(tmp_path, host)[-1].level == "OK"


def test_its_interface_is_down(tmp_path: Path, host: FakeHost) -> None:
    host.programs["conntrackd"] = lambda program: LINK.format(1).replace("RUNNING", "DOWN")
    sync = found(tmp_path, host)[-1]
    assert (sync.level, sync.message, sync.hint) == (
        "FAIL",
        "eth0 is down, by which conntrackd talks",
        "ip link set eth0 up",
    )


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "can't connect: is conntrackd running? appropriate permissions?\n",
        "\x1b[2J\u202eUDP traffic device=eth0 status=RUNNING role=ACTIVE:\n",
        LINK.format(1)[:90],
        LINK.format("9" * 40),
        LINK.format("-1"),
        LINK.format(1).replace("eth0", "x" * 5000),
    ],
)
def test_odd_output_is_not_judged(tmp_path: Path, host: FakeHost, printed: str) -> None:
    host.programs["conntrackd"] = lambda program: printed
    sync = found(tmp_path, host)[-1]
    assert sync.level == "WARN"
    assert "cannot be judged" in sync.message
    assert len(sync.message) < 600
    assert sync.message.isprintable()


def test_the_program_that_fails_is_not_judged(tmp_path: Path, host: FakeHost) -> None:
    def fails(program: Program) -> str:
        raise OperationFailed("conntrackd: exit code 1")

    host.programs["conntrackd"] = fails
    sync = found(tmp_path, host)[-1]
    assert (sync.level, "cannot be judged" in sync.message) == ("WARN", True)


def test_several_channels() -> None:
    two = LINK.format(4) + LINK.format(5).replace("UDP", "multicast").replace("eth0", "eth1").replace(
        "ACTIVE", "BACKUP"
    )
    assert [(each.device, each.received) for each in parse_link(two)] == [("eth0", 4), ("eth1", 5)]


# -- the tables --------------------------------------------------------------------------------------------------------


def connected(has_address: bool) -> FakeHost:
    """One of two gateways that tracks two connections: of a client, and of Barman's."""
    host = FakeHost()
    host.addresses = {HOSTS[0], *([host.gateway] if has_address else [])}
    for port, number in ((host.app_port, 40000), (host.barman_port, 40001)):
        host.connections.append(Connection(Flow("10.0.0.30", number, host.gateway, port), "10.0.0.11"))
    return host


def decision(host: FakeHost) -> PrimaryDecision:
    return PrimaryFinder(MAIN.cluster, LastKnownPrimary()).decision(host)


def tables(host: FakeHost) -> Finding:
    (one,) = conntrackd.tables(MAIN.cluster, decision(host), host)
    return one


@pytest.mark.parametrize(("has_address", "when"), [(True, "now"), (False, "when 10.0.0.20 comes")])
def test_all_is_tracked_and_something_is_not(has_address: bool, when: str) -> None:
    host = connected(has_address)
    assert (tables(host).level, tables(host).message) == ("OK", "2 connection(s) of clients are tracked here")
    host.sessions = [(1, 40002)]
    one = tables(host)
    assert (one.level, one.code) == ("WARN", "gateway.tables")
    assert one.message == f"1 of 3 connections of clients are not tracked here: they break {when}"
    assert one.hint == "on the other gateway: conntrackd -R; sleep 1; conntrackd -B"


def test_a_reader_on_a_standby_and_a_port_that_two_nodes_know() -> None:
    host = connected(False)
    host.sessions = [(2, 40000)]
    assert "1 of 3" in tables(host).message, "node 1 has a client by that port, and node 2 another one"
    host.connections.append(Connection(Flow("10.0.0.30", 40000, host.gateway, 54324), "10.0.0.12"))
    host.sessions = []
    assert tables(host).level == "OK"


def test_what_comes_or_ends_meanwhile_is_in_step() -> None:
    host = connected(False)
    host.sessions = [(1, 40002), (1, 40003)]
    host.at(host.now() + 3, lambda: setattr(host, "sessions", [(1, 40003)]))
    late = Connection(Flow("10.0.0.30", 40003, host.gateway, host.app_port), "10.0.0.11")
    host.at(host.now() + 7, lambda: (host.connections.append(late), setattr(host, "sessions", [])))
    assert tables(host).level == "OK"


def test_always_others_that_are_new_are_in_step() -> None:
    host, shown = connected(False), iter(range(50000, 60000))
    original = host.fetch_each

    def each_time_another(*arguments: object) -> object:
        host.sessions = [(1, next(shown))]
        return original(*arguments)  # type: ignore[arg-type]

    host.fetch_each = each_time_another  # type: ignore[method-assign,assignment]
    assert tables(host).level == "OK"


def test_who_is_at_work_may_have_no_client_any_more() -> None:
    host = connected(True)
    host.sessions, host.at_work = [(1, 40002)], {40002}
    begun = host.now()
    assert tables(host).level == "OK"
    assert host.now() - begun < 6
    host.at(host.now() + 2, host.at_work.clear)
    host.at(host.now() + 4, lambda: host.at_work.add(40002))
    assert tables(host).level == "WARN", "it has listened meanwhile, and is still there"


def test_an_entry_that_is_over_translates_nothing() -> None:
    host = connected(True)
    host.connections[0] = replace(host.connections[0], state="TIME_WAIT")
    assert tables(host).level == "WARN"


def test_what_cannot_be_judged() -> None:
    host = connected(False)
    host.sees_sessions = False
    one = tables(host)
    assert (one.level, "cannot be judged" in one.message, "grants.sql" in one.hint) == ("WARN", True, True)
    host = connected(False)
    host.programs["conntrack"] = lambda program: "\x1b]0;tcp src=10.0.0.11 src=x\n" * 3
    assert tables(host).level == "WARN", "what is no entry tracks nothing"


@pytest.mark.parametrize(
    "answer",
    [
        [],
        [(True, "here; drop", [[1, True]])],
        [(True, "10.0.0.11", [["x", True]])],
        [(True, "10.0.0.11", [1])],
        [(True,)],
    ],
)
def test_a_node_that_answers_oddly(answer: list[tuple[object, ...]]) -> None:
    host = connected(False)
    known = decision(host)
    host.fetch_each = lambda queries, limit: {1: answer}  # type: ignore[method-assign]
    (one,) = conntrackd.tables(MAIN.cluster, known, host)
    assert (one.level, "cannot be judged" in one.message) == ("WARN", True)


def test_nothing_to_compare() -> None:
    host = connected(True)
    alone = replace(MAIN.cluster, gateway=replace(MAIN.cluster.gateway, hosts=()))
    masquerade = replace(MAIN.cluster, gateway=replace(MAIN.cluster.gateway, snat_address=MASQUERADE))
    for cluster in (alone, masquerade):
        assert in_step.look(cluster, [1, 2], host) == in_step.Tracking()
    host.nodes[1].reachable = host.nodes[2].reachable = False
    assert list(conntrackd.tables(MAIN.cluster, decision(host), host)) == []
