"""Two gateways with one address between them: keepalived moves it, conntrackd keeps the connections, ours do the rest.

The tests go on with the lab as the one before has left it.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import needs_box
from tests.endtoend.looks import assert_nothing_lost
from tests.lab import Client, Host, Write, wait_for
from tests.lab.gateways import TwoGateways
from tests.lab.pgbouncer import ADMIN, PASSFILE, Pooler, hold

NODE_1 = {54321: "10.0.0.11", 54322: "10.0.0.11"}
NODE_2 = {54321: "10.0.0.12", 54322: "10.0.0.12"}


@pytest.fixture(scope="module")
def pair() -> Iterator[TwoGateways]:
    """Both in service; the first has the address."""
    needs_box()
    with TwoGateways() as lab:
        lab.open()
        yield lab


@pytest.fixture(scope="module")
def client(pair: TwoGateways) -> Client:
    return pair.start_client()


def streams(lab: TwoGateways, host: object) -> int:
    """How many receivers of Barman's stream from a node."""
    words = "select count(*) from pg_stat_replication where application_name = 'barman_receive_wal'"
    node = lab.db1 if host is lab.db1 else lab.db2
    return int(node.sql(words))


SESSION = "select pid from pg_stat_activity where usename = 'app' and client_addr = '10.0.0.20'"
"""Of the client; a gateway that tries its ports is there for a moment, too."""


def goes_on(node: Host, before: str) -> bool:
    """True if a session that was on a node before is still there."""
    return bool(set(before.split()) & set(node.sql(SESSION).split()))


def failed_since(client: Client, moment: float) -> list[Write]:
    return [write for write in client.writes() if write.begun > moment and write.row is None]


def nothing_left(host: Host) -> bool:
    """True when a gateway knows the primary and finds nothing to do; nodes may be down."""
    (said,) = json.loads(host.hooks("status", "--json").stdout).values()
    return bool(said["decision"]["primary"]) and not (said["pending"] or said["failed"] or said["waiting"])


def test_both_lead_their_ports_and_one_has_done_what_exists_once(pair: TwoGateways, client: Client) -> None:
    lab = pair
    assert [lab.led(host) for host in lab.gateways] == [NODE_1, NODE_1]
    wait_for(lambda: streams(lab, lab.db1) == 1, "Barman's stream")
    came_from = "select client_addr from pg_stat_activity where usename = 'app'"
    wait_for(lambda: lab.db1.sql(came_from) == "10.0.0.20", "the client alone to be there, from the shared address")
    for host in lab.gateways:
        wait_for(lambda h=host: h.hooks("status").returncode == 0, f"a good status of {host.name}", every=2)  # type: ignore[misc]
    assert "create slot" not in lab.gateway2.hooks("history", "--json").stdout
    wait_for(lambda: "dport=54322" in lab.tracked(lab.gateway2), "the second gateway to know the client's connection")


def checked(host: Host) -> dict[str, tuple[str, str, str]]:
    """What ``check`` says of the gateways, by code."""
    found = json.loads(host.hooks("check", "--json").stdout)
    return {each["code"]: (each["level"], each["message"], each["hint"]) for each in found}


def in_step(host: Host) -> bool:
    """Whether ``check`` says that conntrackd of both work together."""
    found = checked(host)
    return {found.get(f"gateway.{name}", ("",))[0] for name in ("conntrackd", "sync", "tables")} == {"OK"}


def test_check_says_why_connections_would_break(pair: TwoGateways, client: Client) -> None:
    """Flushed, unheard; what conntrackd prints is the real program's."""
    lab = pair
    for host in lab.gateways:
        wait_for(lambda h=host: in_step(h), f"{host.name} to be in step")  # type: ignore[misc]
        assert not checked(host)["gateway.tables"][1].startswith("0 "), "the client's is among them"
    other = lab.gateway2
    other.run("conntrack", "-F")
    level, message, hint = checked(other)["gateway.tables"]
    assert (level, message.endswith("they break when 10.0.0.20 comes")) == ("WARN", True), message
    assert "are not tracked by this gateway" in other.hooks("status").stdout
    lab.gateway.run("sh", "-c", hint.removeprefix("on the other gateway: "))
    wait_for(lambda: "dport=54322" in lab.tracked(other), "the second gateway to know the client's connection again")
    wait_for(lambda: in_step(other), "the second gateway to be in step again")
    drop = ("INPUT", "-p", "udp", "--dport", "3780", "-j", "DROP")
    other.run("iptables", "-I", *drop)
    try:
        assert checked(other)["gateway.sync"][:2] == (
            "FAIL",
            "nothing has come from the conntrackd of 10.0.0.21 for 15 s",
        )
    finally:
        other.run("iptables", "-D", *drop)
    wait_for(lambda: in_step(other), "the second gateway to hear the first one again")


def test_a_drill_on_the_gateway_that_has_the_address(pair: TwoGateways, client: Client) -> None:
    """repmgrd is on the database hosts; the other gateway refuses, and follows."""
    lab = pair
    refused = lab.gateway2.hooks("drill", "--to", "2")
    assert refused.returncode == 1
    assert (
        "FAIL  switchover.gateway  main: another gateway has 10.0.0.20: its clients would not be held" in refused.stdout
    )
    drill = lab.gateway.hooks("drill", "--to", "2", limit=900)
    print(drill.stdout)
    failed = re.findall(r"(?m)^FAIL  drill\.(\w+)", drill.stdout)
    assert set(failed) <= {"held", "failed", "steps"}, "only how long clients wait is the machine's"
    assert len(re.findall("OK    drill.switchover .*: done, and the ports lead there", drill.stdout)) == 2
    assert re.search(r"0 of \d{2,} acknowledged transactions are lost \(limit 0\)", drill.stdout)
    assert drill.stdout.splitlines()[-1].endswith("node 1 is the primary")
    for host in lab.gateways:
        wait_for(lambda h=host: lab.led(h) == NODE_1, f"{host.name} to lead to db1")  # type: ignore[misc]
        wait_for(lambda h=host: h.hooks("status").returncode == 0, f"a good status of {host.name}", 120, every=2)  # type: ignore[misc]
    paused = [host.sql("select repmgr.repmgrd_is_paused()", "repmgr") for host in lab.databases]
    assert paused == ["f", "f"]
    client.wait_for_write(time.time())
    assert_nothing_lost(client, lab.db1)


def test_the_first_gateway_dies_and_no_connection_breaks(pair: TwoGateways, client: Client) -> None:
    lab = pair
    before = lab.db1.sql(SESSION)
    died = lab.kill_gateway(lab.gateway)
    client.wait_for_write(time.time())
    assert lab.holders() == [lab.gateway2]
    assert goes_on(lab.db1, before), "the client's connection goes on"
    print(f"the client waited {client.outage(died):.1f} s")
    wait_for(lambda: streams(lab, lab.db1) == 1, "Barman's stream")


def test_the_primary_dies_while_one_gateway_is_gone(pair: TwoGateways, client: Client) -> None:
    lab = pair
    lab.db1.pg_ctl("stop", "-m", "immediate")
    died = time.time()
    wait_for(lambda: lab.led(lab.gateway2) == NODE_2, "the second gateway to lead to db2")
    client.wait_for_write(died)
    print(f"the client waited {client.outage(died):.1f} s")
    print(lab.gateway2.hooks("history", "--failover", "last").stdout)
    wait_for(lambda: streams(lab, lab.db2) == 1, "Barman's stream")


def test_the_first_gateway_comes_back_and_changes_nothing(pair: TwoGateways, client: Client) -> None:
    lab = pair
    before = lab.db2.sql(SESSION)
    lab.plug_in(lab.gateway)
    time.sleep(3)  # the network is there before a host has booted
    back, said = time.time(), lab.gateway.log_from_now("conntrackd")
    lab.start_gateway(lab.gateway)
    wait_for(lambda: lab.led(lab.gateway) == NODE_2, "the first gateway to lead to db2")
    time.sleep(10)
    assert lab.holders() == [lab.gateway2]
    wait_for(lambda: streams(lab, lab.db2) == 1, "Barman's stream")
    client.wait_for_write(time.time())
    assert goes_on(lab.db2, before), "the client's connection goes on"
    assert failed_since(client, back) == []
    print(f"the client waited {client.outage(back):.1f} s")
    wait_for(lambda: "dport=54322" in lab.tracked(lab.gateway), "the first gateway to know the client's connection")
    # As it starts, and twice because keepalived makes it.
    wait_for(lambda: said().count("resync requested\n") >= 3, "conntrackd to have asked three times")


def test_a_gateway_whose_service_is_gone_gives_the_address_away(pair: TwoGateways, client: Client) -> None:
    lab = pair
    has = "gateway 10.0.0.22: has the address"
    wait_for(lambda: has in lab.gateway.hooks("status").stdout, "status to say who has it", every=1)
    before = time.time()
    lab.kill("worker", lab.gateway2)
    wait_for(lambda: lab.holders() == [lab.gateway], "the address to move")
    client.wait_for_write(before + 15)
    lab.start_service(lab.gateway2)
    time.sleep(10)
    assert lab.holders() == [lab.gateway]
    wait_for(lambda: streams(lab, lab.db2) == 1, "Barman's stream")
    assert failed_since(client, before) == []
    print(f"the client waited {client.outage(before):.1f} s")


def priorities(lab: TwoGateways) -> list[list[str]]:
    """Which priorities each gateway has had since its keepalived began, the present one last."""
    change = re.compile(r"Changing effective priority from \d+ to (\d+)")
    return [change.findall(host.log("keepalived")) for host in lab.gateways]


def test_both_services_are_gone_and_the_address_stays(pair: TwoGateways, client: Client) -> None:
    """Neither is better than the other, and neither is said to be well now and again."""
    lab = pair
    wait_for(lambda: [each[-1:] for each in priorities(lab)] == [["100"], ["100"]], "both to be well")
    before = priorities(lab)
    for host in lab.gateways:
        lab.kill("worker", host)
    wait_for(lambda: [each[-1:] for each in priorities(lab)] == [["50"], ["50"]], "both to be ill")
    time.sleep(5)
    wait_for(lambda: len(lab.holders()) == 1, "one gateway to have the address")
    client.wait_for_write(time.time())
    assert priorities(lab) == [[*each, "50"] for each in before]
    for host in lab.gateways:
        lab.start_service(host)
    wait_for(lambda: [each[-1:] for each in priorities(lab)] == [["100"], ["100"]], "both to be well again")
    assert [lab.led(host) for host in lab.gateways] == [NODE_2, NODE_2]


def test_two_that_have_the_address_at_once(pair: TwoGateways, client: Client) -> None:
    """VRRP does not get through between them, and all else does."""
    lab = pair
    drop = ("INPUT", "-p", "112", "-j", "DROP")
    for host in lab.gateways:
        host.run("iptables", "-I", *drop)
    try:
        wait_for(lambda: len(lab.holders()) == 2, "both to have the address")
        said = "WARNING 10.0.0.20 is on 10.0.0.21 and 10.0.0.22 at once"
        for host in lab.gateways:
            wait_for(lambda h=host: said in h.hooks("status").stdout, f"{host.name} to say so")  # type: ignore[misc]
        assert [lab.led(host) for host in lab.gateways] == [NODE_2, NODE_2]
        wait_for(lambda: streams(lab, lab.db2) == 1, "Barman's stream")
    finally:
        for host in lab.gateways:
            host.run("iptables", "-D", *drop)
    wait_for(lambda: len(lab.holders()) == 1, "one to have the address")
    client.wait_for_write(time.time())


def test_nobody_has_the_address(pair: TwoGateways, client: Client) -> None:
    """Both say so, lead their ports all the same, and leave what exists once as it is."""
    lab = pair
    for host in lab.gateways:
        lab.stop_keepalived(host)
    try:
        assert lab.holders() == []
        said = "WARNING no gateway that watches the cluster has 10.0.0.20"
        for host in lab.gateways:
            wait_for(lambda h=host: said in h.hooks("status").stdout, f"{host.name} to say so", every=1)  # type: ignore[misc]
            host.wipe_nat()
        for host in lab.gateways:
            wait_for(lambda h=host: lab.led(h).get(54321) == NODE_2[54321], f"{host.name} to lead to db2")  # type: ignore[misc]
    finally:
        for host in lab.gateways:
            lab.start_keepalived(host)
    wait_for(lambda: len(lab.holders()) == 1, "one to have the address")
    client.wait_for_write(time.time(), 120)


def test_barmans_host_dies_and_comes_back(pair: TwoGateways, client: Client) -> None:
    """As after a failover, the app port is closed until the limit of its gate; then Barman goes on where it was."""
    lab = pair
    (holder,) = lab.holders()
    lab.configure_gateways(lambda text: text.replace("fail_open_after: 120", "fail_open_after: 10"))
    # Barman is the only synchronous standby that is left.
    lab.db2.sql("alter system set synchronous_standby_names = ''")
    lab.db2.pg_ctl("reload")
    lab.unplug(lab.backup)
    began = time.time()
    holder.wipe_nat()
    wait_for(lambda: lab.led(holder) == NODE_2, "the app port to open all the same")
    client.wait_for_write(began)
    wait_for(lambda: "although an earlier action failed" in holder.log("worker"), "the service to say so")
    lab.plug_in(lab.backup)
    wait_for(lambda: streams(lab, lab.db2) == 1 and nothing_left(holder), "nothing to be left to do", every=2)


def test_a_gateway_dies_while_it_holds_clients(pair: TwoGateways, client: Client) -> None:
    """The record of a hold dies with it: the other one lets go who waits in a PgBouncer beside the applications."""
    lab = pair
    (holder,) = lab.holders()
    (other,) = (host for host in lab.gateways if host is not holder)
    pooler = Pooler(lab, lab.app)
    lab.passwords[ADMIN] = secrets.token_hex(8)
    for host in lab.gateways:
        lab.put(host, PASSFILE, lab.pgpass(), 0o600, "barman")
    pooler.start()
    line = f"- pgbouncer: {{databases: [app], on: [{pooler.console}]}}"
    lab.configure_gateways(lambda text: re.sub(r"(?m)^( +)(- firewall: {open: app.*)$", rf"\1\2\n\1{line}", text))
    pooled = lab.start_client(name="pooled", way=pooler.way, patience=200)
    wait_for(lambda: pooler.is_watched_by(other), "the other gateway to have seen that nobody is held", every=1)
    lab.gateway = holder
    held = hold(lab, limit=600)
    try:
        assert pooler.paused()
        died = lab.kill_gateway(holder)
    finally:
        held.kill()
    wait_for(lambda: lab.holders() == [other], "the other gateway to have the address")
    lab.gateway = other
    pooled.wait_for_write(died + 1, 180)
    assert not pooler.paused()
    said = f"the gateway that had 10.0.0.20 before held the clients of app of PgBouncer {lab.app.address}:6432"
    assert said in other.log("worker")
