"""Two gateways with a Barman on each, then with one Barman on one of them.

The tests go on with the lab as the one before has left it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import needs_box
from tests.endtoend.test_barmans_places import level
from tests.endtoend.test_two_gateways import NODE_2, nothing_left
from tests.lab import CONFIG_FILE, Host, wait_for
from tests.lab.gateways import TwoBarmans

ONE_BARMAN = """\
    barman:
      server: main_backup
      slot_name: barman_1
      command: [ssh, -o, BatchMode=yes, -o, ConnectTimeout=5, barman@10.0.0.21, barman]
      gateways:
        10.0.0.21: {command: [barman]}
"""


def one_barman(text: str) -> str:
    """The configuration with one Barman, which the second gateway reaches by ssh, and a gate that waits for 10 s."""
    text = re.sub(r"(?ms)^    barman:\n.*?(?=^    #)", ONE_BARMAN, text, count=1)
    return text.replace("fail_open_after: 120", "fail_open_after: 10")


@pytest.fixture(scope="module")
def pair() -> Iterator[TwoBarmans]:
    """Both in service; the first has the address."""
    needs_box()
    with TwoBarmans() as lab:
        lab.open()
        yield lab


def active_slots(host: Host) -> list[str]:
    return host.sql("select slot_name from pg_replication_slots where slot_name ~ '^barman' and active").split()


def wait_until_nothing_is_left(lab: TwoBarmans) -> None:
    for host in lab.gateways:
        wait_for(lambda h=host: nothing_left(h), f"nothing to be left to do on {host.name}", every=2)  # type: ignore[misc]


def test_each_gateway_sees_to_its_own_barman(pair: TwoBarmans) -> None:
    lab = pair
    wait_for(lambda: sorted(active_slots(lab.db1)) == ["barman_1", "barman_2"], "both streams")
    wait_until_nothing_is_left(lab)
    both = [rf"gateway 10.0.0.2{n}.*; its Barman streams \(slot barman_{n}\)" for n in (1, 2)]
    for host in lab.gateways:
        wait_for(lambda h=host: shows(h, both), f"{host.name} to show both", every=2)  # type: ignore[misc]
    wait_for(lambda: all_is_well(lab.gateway2), "check to be content", every=2)


def shows(host: Host, patterns: list[str]) -> bool:
    shown = host.hooks("status").stdout
    return all(re.search(pattern, shown) for pattern in patterns)


def all_is_well(host: Host) -> bool:
    shown = host.hooks("check").stdout
    print(shown)
    return {level(shown, key) for key in ("gateway.others", "barman.slot", "barman.answer", "routes.state")} == {"OK"}


@pytest.mark.parametrize(
    ("words", "barman"),
    [
        ((), "gateways: {10.0.0.21: {slot_name: barman_1}, 10.0.0.22: {slot_name: barman_2}}"),
        (
            ("--barman-host", "barman@10.0.0.21"),
            "slot_name: barman_1, command: [ssh, -o, BatchMode=yes, -o, ConnectTimeout=5, barman@10.0.0.21, barman], "
            "gateways: {10.0.0.21: {command: [barman]}}",
        ),
    ],
)
def test_init_drafts_where_barman_is(pair: TwoBarmans, words: tuple[str, ...], barman: str) -> None:
    """The same file on both; the second way is for one Barman, on the first gateway."""
    lab, drafts = pair, []
    for host, other in zip(lab.gateways, lab.gateways[::-1], strict=True):
        lab.put(host, "/var/tmp/db1.conf", lab.db1.path("/etc/repmgr/db1.conf").read_text(), 0o600)
        given = ("--gateway", lab.known_address, "--other-gateway", other.address, *words)
        done = host.hooks("init", "--repmgr-conf", "/var/tmp/db1.conf", "--repmgrd-on-nodes", *given, "/var/tmp/draft")
        assert done.returncode == 0, done.stdout + done.stderr
        drafts.append(host.path(f"/var/tmp/draft{CONFIG_FILE}").read_text())
        host.run("rm", "-rf", "/var/tmp/draft")
    assert drafts[0] == drafts[1]
    assert f"\n    barman: {{server: main_backup, {barman}}}\n" in drafts[0]


def test_both_follow_a_failover(pair: TwoBarmans) -> None:
    lab = pair
    lab.db1.pg_ctl("stop", "-m", "immediate")
    for host in lab.gateways:
        wait_for(lambda h=host: lab.led(h) == NODE_2, f"{host.name} to lead to db2")  # type: ignore[misc]
    wait_for(lambda: sorted(active_slots(lab.db2)) == ["barman_1", "barman_2"], "both streams")


def test_the_address_moves_and_both_barmans_go_on(pair: TwoBarmans) -> None:
    """The connection of the gateway that had it came from there, and ends."""
    lab = pair
    lab.db2.sql("alter system set wal_sender_timeout = '10s'")
    # A commit would wait for the Barman whose connection is dead.
    lab.db2.sql("alter system set synchronous_standby_names = ''")
    lab.db2.pg_ctl("reload")
    (had,) = lab.holders()
    lab.stop_keepalived(had)
    wait_for(lambda: lab.holders() not in ([], [had]), "the other gateway to have the address")
    lab.start_keepalived(had)
    lab.db2.sql("insert into work select from generate_series(1, 1000)", "app")
    written = lab.db2.sql("select pg_current_wal_flush_lsn()")
    have = f"select count(*) from pg_replication_slots where slot_name ~ '^barman' and restart_lsn >= '{written}'"
    lab.db2.sql("select pg_switch_wal()")
    wait_for(lambda: lab.db2.sql(have) == "2", "both Barmans to have what was written", 120, every=1)
    wait_until_nothing_is_left(lab)


def test_a_gateway_is_away_with_its_barman(pair: TwoBarmans) -> None:
    lab = pair
    lab.kill_gateway(lab.gateway2)
    said = "WARNING Barman on gateway 10.0.0.22 does not stream from node 2 (slot barman_2)"
    wait_for(lambda: active_slots(lab.db2) == ["barman_1"], "the primary to notice it", every=1)
    wait_for(lambda: said in lab.gateway.hooks("status").stdout, "the other gateway to say so", every=2)
    lab.db2.sql("insert into work select from generate_series(1, 1000)", "app")
    lab.db2.sql("select pg_switch_wal()")
    lab.plug_in(lab.gateway2)
    lab.start_gateway(lab.gateway2)
    wait_for(lambda: sorted(active_slots(lab.db2)) == ["barman_1", "barman_2"], "it to go on")
    wait_until_nothing_is_left(lab)
    assert "STREAM_GAP" not in lab.gateway2.log("worker")


def test_one_barman_on_the_gateway_that_dies(pair: TwoBarmans) -> None:
    """The other one takes the address, and opens its app port when the limit of its gate is over."""
    lab = pair
    lab.configure_gateways(one_barman)
    lab.kill("cron", lab.gateway2)

    def ended() -> bool:
        lab.gateway2.barman("receive-wal", "--stop", "main_backup", check=False)
        return active_slots(lab.db2) == ["barman_1"]

    wait_for(ended, "the second Barman to end")
    lab.db2.sql("select pg_drop_replication_slot('barman_2')")
    wait_until_nothing_is_left(lab)
    lab.kill_gateway(lab.gateway)
    wait_for(lambda: lab.holders() == [lab.gateway2], "the second gateway to have the address")
    lab.gateway2.wipe_nat()
    wait_for(lambda: lab.led(lab.gateway2) == NODE_2, "the app port to open all the same")
    wait_for(lambda: "although an earlier action failed" in lab.gateway2.log("worker"), "the service to say so")
    assert lab.db2.sql("select restart_lsn is not null from pg_replication_slots where slot_name = 'barman_1'") == "t"
