"""The gateway itself: boot, hand-over from repmgrd's user, Barman in ruins, the files in config/ and systemd/."""

from __future__ import annotations

import pytest

from tests.endtoend.looks import barman_streams_from, routes, slot
from tests.lab import REPOSITORY, Lab, wait_for


def reboot(lab: Lab) -> None:
    """The gateway loses its rules, its connections, its sysctl and Barman's receiver."""
    lab.gateway.run("barman", "receive-wal", "--stop", "main_backup", user="barman", check=False)
    switch = "ipv6.conf.all.forwarding" if lab.six else "ipv4.ip_forward"
    for words in ("nft flush ruleset", "conntrack -F", f"sysctl -q -w net.{switch}=0"):
        lab.gateway.run(*words.split())
    assert routes(lab) == {}


def test_boot_restores_everything(built_lab: Lab) -> None:
    lab = built_lab
    assert lab.gateway.hooks("reconcile").returncode == 0
    before = lab.gateway.nat()
    reboot(lab)

    result = lab.gateway.hooks("boot")

    assert result.returncode == 0, result.stdout + result.stderr
    assert lab.gateway.nat() == before
    assert barman_streams_from(lab.db1)
    assert lab.psql_app("select 1").stdout == "1\n"


def test_boot_after_the_primary_has_changed(built_lab: Lab) -> None:
    lab = built_lab
    assert lab.gateway.hooks("reconcile").returncode == 0
    lab.db1.pg_ctl("stop", "-m", "fast")
    reboot(lab)
    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", "standby", "promote", user="postgres")

    assert lab.gateway.hooks("boot").returncode == 0
    assert routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    assert lab.psql_app("insert into work default values returning 1").stdout == "1\n"


def test_boot_without_a_primary_opens_nothing(built_lab: Lab) -> None:
    lab = built_lab
    lab.db1.pg_ctl("stop", "-m", "fast")
    quicken(lab)

    result = lab.gateway.hooks("boot")

    assert result.returncode == 1
    assert routes(lab) == {}
    assert "node 1: Connection refused" in result.stdout
    assert "node 2: standby, timeline 1" in result.stdout
    assert "the primary is unknown: no node is out of recovery" in result.stdout


def quicken(lab: Lab, fail_open_after: int = 120) -> None:
    """Shorter limits than in config/, for what is waited for in vain."""
    config = lab.gateway.path("/etc/repmgr-hooks/config.yaml")
    text = config.read_text().replace("promotion_timeout: 30", "promotion_timeout: 1")
    config.write_text(text.replace("fail_open_after: 120", f"fail_open_after: {fail_open_after}"))


def test_event_of_repmgrds_user_is_handed_over(built_lab: Lab) -> None:
    lab = built_lab
    result = lab.gateway.hooks("event", "--cluster", "main", "1", "primary_register", user="postgres")
    assert result.returncode == 0, result.stderr
    wait_for(lambda: routes(lab) == {54321: "10.0.0.11", 54322: "10.0.0.11"}, "the run that 'event' started")
    for forbidden in (
        ("iptables-save",),
        ("/usr/local/bin/repmgr-hooks", "reconcile"),
        ("-u", "barman", "barman", "cron"),
        ("/usr/local/bin/repmgr-hooks", "worker"),
    ):
        refused = lab.gateway.result("sudo", "-n", *forbidden, user="postgres")
        assert refused.returncode == 1
        assert "password is required" in refused.stderr


def test_promotion_that_never_happens(built_lab: Lab) -> None:
    lab = built_lab
    quicken(lab)
    assert lab.gateway.hooks("reconcile").returncode == 0
    before = lab.gateway.nat()

    beside_a_primary = lab.gateway.hooks("replay", "2", "standby_promote")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    without_a_primary = lab.gateway.hooks("replay", "2", "standby_promote")

    assert (beside_a_primary.returncode, without_a_primary.returncode) == (1, 1)
    assert "standby_promote of node 2 contradicts the cluster: the primary is node 1" in beside_a_primary.stdout
    assert "the primary is unknown: no node is out of recovery" in without_a_primary.stdout
    assert lab.gateway.nat() == before


@pytest.mark.parametrize("ruin", ["exit 1", "exit 0", "sleep 600 & sleep 600"])
def test_barman_in_ruins_keeps_the_port_closed_until_the_limit_only(built_lab: Lab, ruin: str) -> None:
    lab = built_lab
    quicken(lab, fail_open_after=6)
    lab.put(lab.gateway, "/usr/local/bin/barman", f"#!/bin/sh\n{ruin}\n", 0o755)

    result = lab.gateway.hooks("replay", "1", "primary_register")

    assert result.returncode == 1
    assert "firewall {open: app, fail_open_after: 6} although an earlier action failed" in result.stdout
    assert lab.psql_app("select 1").stdout == "1\n"
    wait_for(lambda: "sleep 600" not in lab.gateway.run("ps", "-eo", "args"), "what Barman had begun to end")


def test_installed_files_are_valid(built_lab: Lab) -> None:
    lab = built_lab
    lab.gateway.run("visudo", "-c")
    for unit in (REPOSITORY / "systemd").glob("*.[st]*[er]"):
        name = unit.name.replace("@.", "@db1.")
        lab.put(lab.gateway, f"/etc/systemd/system/{unit.name}", unit.read_text())
        result = lab.gateway.result("systemd-analyze", "verify", f"/etc/systemd/system/{name}")
        assert (result.returncode, result.stderr) == (0, ""), unit.name
    lab.gateway.run("sysctl", "-p", "/dev/stdin", stdin=(REPOSITORY / "config/sysctl.conf").read_text())
    assert "OK" in lab.gateway.hooks("check").stdout


def test_slot_that_lost_its_wal_is_made_anew(built_lab: Lab) -> None:
    lab = built_lab
    assert lab.gateway.hooks("reconcile").returncode == 0
    lab.gateway.barman("receive-wal", "--stop", "main_backup")
    wait_for(lambda: slot(lab.db1).startswith("f"), "the slot to be inactive")
    lab.db1.sql("alter system set max_slot_wal_keep_size = '16MB'")
    lab.db1.sql("alter system set wal_keep_size = 0")
    lab.db1.pg_ctl("reload")
    wait_for(lambda: loses_its_wal(lab), "the slot to lose its WAL")
    # The slot alone: what Barman has missed meanwhile is another matter.
    config = lab.gateway.path("/etc/repmgr-hooks/config.yaml")
    routes_of_config = config.read_text().index("    routes:")
    route = "    routes: [{on: [primary_register], do: [slot: {on: primary}]}]\n"
    config.write_text(config.read_text()[:routes_of_config] + route)

    result = lab.gateway.hooks("reconcile")

    assert result.returncode == 0, result.stdout
    assert "drop slot barman on node 1: it holds no WAL" in result.stdout
    assert slot(lab.db1).split("|")[1:] == ["t", "reserved"]


def loses_its_wal(lab: Lab) -> bool:
    """Write more; a checkpoint takes away what a slot may no longer hold."""
    lab.db1.sql("set synchronous_commit = local; select txid_current(); select pg_switch_wal()")
    lab.db1.sql("checkpoint")
    return slot(lab.db1).endswith("lost")


def test_active_slot_on_a_standby_is_released_and_dropped(built_lab: Lab) -> None:
    lab = built_lab
    lab.db2.sql("select pg_create_physical_replication_slot('barman', true)")
    receiver = "host=10.0.0.12 user=streaming_barman application_name=barman_receive_wal"
    lab.gateway.run("mkdir", "/var/lib/barman/stray", user="barman")
    lab.gateway.start(
        "pg_receivewal", "-n", "-D", "/var/lib/barman/stray", "-S", "barman", "-d", receiver, user="barman"
    )
    wait_for(lambda: slot(lab.db2).startswith("t"), "the stray receiver")

    result = lab.gateway.hooks("replay", "2", "standby_register")

    assert result.returncode == 0, result.stdout
    assert slot(lab.db2) == ""


def test_slot_of_that_name_that_is_not_barmans(built_lab: Lab) -> None:
    lab = built_lab
    lab.db1.sql("alter system set wal_level = 'logical'")
    lab.db1.pg_ctl("restart", "-m", "fast")
    lab.db1.sql("select pg_create_logical_replication_slot('barman', 'pgoutput')", "app")
    quicken(lab, fail_open_after=3)

    result = lab.gateway.hooks("replay", "1", "primary_register")

    assert result.returncode == 1
    assert "the slot 'barman' is logical, so it is not Barman's" in result.stdout
    assert slot(lab.db1) != ""
