"""A primary comes back from the dead, on the timeline of yesterday: three nodes, and nobody is led to it."""

from __future__ import annotations

import time

from tests.endtoend.looks import (
    assert_nothing_lost,
    barman_streams_from,
    follows,
    led_to,
    nothing_missing,
    routes,
    routes_during,
    wait_until_good,
    worker_log,
)
from tests.lab import DATA, Host, Lab, scram, wait_for, wait_for_answer
from tests.lab.three import rejoin

STALE_PRIMARY = "10.0.0.11"
"""db1, when it comes back from the dead."""


def first_line_of_status(lab: Lab) -> tuple[int, str]:
    """The exit code of ``status`` and its first line."""
    result = lab.gateway.hooks("status")
    return result.returncode, result.stdout.partition("\n")[0]


def status_tells_of_a_stale_primary(lab: Lab) -> bool:
    code, line = first_line_of_status(lab)
    return code == 1 and "split-brain" in line.lower()


def log_tells_of_a_stale_primary(lab: Lab) -> bool:
    return any("split-brain" in line.lower() for line in worker_log(lab))


def test_stale_primary(three: Lab) -> None:
    """db1 was unplugged, never knew that it was given up, and is plugged in again, its repmgrd still watching it."""
    lab = three
    client = lab.start_client()
    lab.unplug(lab.db1)
    wait_for(lambda: led_to(lab, lab.db2) and follows(lab.db3, lab.db2), "the failover", 120)
    wait_for(lambda: nothing_missing(lab), "the end of the failover")

    lab.plug_in(lab.db1)
    assert routes_during(lab, 10) == [{54321: "10.0.0.12", 54322: "10.0.0.12"}]
    assert lab.db1.sql("select pg_is_in_recovery()") == "f", "db1 is still a stale primary"
    wait_for(lambda: status_tells_of_a_stale_primary(lab), "a status that tells of the stale primary", every=0.5)
    wait_for(lambda: log_tells_of_a_stale_primary(lab), "a log that tells of the stale primary")

    lab.db1.pg_ctl("stop", "-m", "fast")
    rejoin(lab.db1, lab.db2)
    wait_until_good(lab, lab.db2, [lab.db1, lab.db3])
    assert "split-brain" not in first_line_of_status(lab)[1].lower()
    client.wait_for_write(time.time())
    assert_nothing_lost(client, lab.db2)


def cut_off(lab: Lab, host: Host, verb: str = "-I") -> None:
    """Let no packet pass between the gateway and a node (``-D``: let it pass again)."""
    for words in (("INPUT", "-s"), ("OUTPUT", "-d"), ("FORWARD", "-s"), ("FORWARD", "-d")):
        lab.gateway.run("iptables", verb, *words, host.address, "-j", "DROP")


def test_gateway_cut_off_from_the_new_primary(three_without_repmgrd: Lab) -> None:
    """It sees db3, which follows db2, and db1, back from the dead: the only node that says that it is the primary."""
    lab = three_without_repmgrd
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    cut_off(lab, lab.db2)
    promote = ("standby", "promote", "--siblings-follow")
    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", *promote, user="postgres", limit=300)
    wait_for(lambda: follows(lab.db3, lab.db2), "db3 to follow db2")
    lab.db1.pg_ctl("start")

    wait_for(lambda: STALE_PRIMARY not in routes(lab).values(), "its ports to be closed")
    # Barman is a synchronous standby: streaming from it, it would acknowledge a commit that nobody else has.
    lab.gateway.barman("cron", check=False)
    assert [seen for seen in routes_during(lab, 8) if STALE_PRIMARY in seen.values()] == []
    assert not barman_streams_from(lab.db1)
    wait_for(lambda: status_tells_of_a_stale_primary(lab), "a status that tells of the stale primary", every=0.5)
    wait_for(lambda: log_tells_of_a_stale_primary(lab), "a log that tells of the stale primary")

    cut_off(lab, lab.db2, "-D")
    healed = time.time()
    wait_for(lambda: led_to(lab, lab.db2), "the routes to db2")
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    client.wait_for_write(healed)
    assert_nothing_lost(client, lab.db2)


def make_anew(lab: Lab, host: Host) -> None:
    """Put a database system of its own in a node's place, with repmgr's schema and a slot named like Barman's."""
    host.pg_ctl("stop", "-m", "fast")
    host.run("mv", DATA, f"{DATA}.before", user="postgres")
    host.run("initdb", "--no-sync", "-A", "peer", "-D", DATA, user="postgres")
    lab.configure(host)
    lab.put(host, f"{DATA}/alone.conf", "synchronous_standby_names = ''\n", owner="postgres")
    lab.append(host, f"{DATA}/postgresql.conf", "include_if_exists 'alone.conf'\n")
    host.pg_ctl("start")
    for role in ("repmgr", "barman", "app"):
        host.sql(f"create role {role} superuser login password '{scram.verifier(lab.passwords[role])}'")
    host.sql("create database app owner app")
    host.sql("create database repmgr owner repmgr")
    host.sql("create extension repmgr", "repmgr")
    host.sql("select pg_create_physical_replication_slot('barman', true)")


def test_a_node_of_another_system_has_no_say(three: Lab) -> None:
    """Somebody makes db3 anew. That is named, and nothing is done to it; the promotion of another is followed.

    repmgrd takes it for the new primary, tries to follow it once a second, and promotes nobody; so that is said before.
    """
    lab = three
    client = lab.start_client()
    make_anew(lab, lab.db3)
    status = wait_for_answer(
        lambda: lab.gateway.hooks("status").stdout,
        lambda shown: "no standby would be promoted: node 3 is out of recovery too" in shown,
        "the node to be named",
    )
    assert "node 3 does not have the cluster's system identifier" in status
    assert "primary is node 1" in status and "or stop it and clone it: repmgr standby clone" in status, status
    assert lab.gateway.hooks("check").returncode == 1
    assert lab.gateway.hooks("reconcile").returncode == 0, "it stands in the way of no repair"

    lab.db1.pg_ctl("stop", "-m", "immediate")
    time.sleep(8)
    assert lab.db2.sql("select pg_is_in_recovery()") == "t", "repmgrd promotes it: then the words above are wrong"
    promoted = time.time()
    lab.db2.sql("select pg_promote()")
    wait_for(lambda: led_to(lab, lab.db2), "the routes to db2")
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    client.wait_for_write(promoted)
    assert_nothing_lost(client, lab.db2)
    assert lab.db3.sql("select slot_name from pg_replication_slots") == "barman", "it is not ours"


def test_a_failover_after_the_node_of_another_system_was_stopped(three: Lab) -> None:
    """As the hint says."""
    lab = three
    client = lab.start_client()
    make_anew(lab, lab.db3)
    wait_for(lambda: "stop it before the primary fails" in lab.gateway.hooks("status").stdout, "the hint", every=1)
    lab.db3.pg_ctl("stop", "-m", "fast")
    wait_for(lambda: "would promote node 2" in lab.gateway.hooks("status").stdout, "a failover to be possible", every=1)
    lab.db1.pg_ctl("stop", "-m", "immediate")
    stopped = time.time()
    wait_for(lambda: led_to(lab, lab.db2), "the failover", 120)
    client.wait_for_write(stopped)
    assert_nothing_lost(client, lab.db2)
