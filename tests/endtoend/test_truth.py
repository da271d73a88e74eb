"""The truth comes from the cluster, not from its events: three nodes, and events that are late, lost or wrong."""

from __future__ import annotations

import time

from tests.endtoend.looks import (
    assert_nothing_lost,
    barman_streams_from,
    follows,
    led_to,
    routes_during,
    runs,
    slot,
    wait_until_good,
    worker_log,
)
from tests.lab import Lab, wait_for


def test_promotion_by_hand_without_repmgrd(three_without_repmgrd: Lab) -> None:
    """db1 has died and no event comes at all; db3 still waits for db1, so nobody has said who follows whom."""
    lab = three_without_repmgrd
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    lab.db2.sql("select pg_promote()")
    promoted = time.time()

    client.wait_for_write(promoted)
    wait_for(lambda: led_to(lab, lab.db2), "the routes to db2")
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    assert slot(lab.db2) == "t|t|reserved"
    assert_nothing_lost(client, lab.db2)
    assert {run["cause"] for run in runs(lab)} - {"retry"} == {"reconcile", "drift"}
    assert not any(run["events"] for run in runs(lab))


def test_promotion_by_hand_beside_a_healthy_primary(three: Lab) -> None:
    """db2 is on a newer timeline, and still nobody's primary."""
    lab = three
    client = lab.start_client()
    begun = time.time()
    lab.db2.sql("select pg_promote()")
    assert lab.db2.sql("select pg_is_in_recovery()") == "f"

    seen = routes_during(lab, 15)

    assert seen == [{54321: "10.0.0.11", 54322: "10.0.0.11"}]
    assert barman_streams_from(lab.db1)
    assert slot(lab.db2) == ""
    assert [write for write in client.writes() if write.begun > begun and write.row is None] == []
    client.wait_for_write(time.time())
    assert_nothing_lost(client, lab.db1)
    beside = "node 2 was promoted beside"
    wait_for(lambda: beside in lab.gateway.hooks("status").stdout, "status to say so", every=0.5)
    wait_for(lambda: beside in "\n".join(worker_log(lab)), "the service to say so")


def test_switchover(three: Lab) -> None:
    """repmgr raises its events on db2, where no hook is; the gateway hears only what its own repmgrd notice."""
    lab = three
    client = lab.start_client()

    words = ("standby", "switchover", "--siblings-follow")
    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", *words, user="postgres", limit=300)

    wait_until_good(lab, lab.db2, [lab.db1, lab.db3])
    client.wait_for_write(time.time())
    assert_nothing_lost(client, lab.db2)
    for host in (lab.db1, lab.db3):
        wait_for(lambda h=host: follows(h, lab.db2), f"{host.name} to follow db2")


def test_dead_standby_does_not_hold_up_a_failover(three: Lab) -> None:
    """repmgrd wants more than half of the standbys for an election, so it must have marked the dead one first."""
    lab = three
    client = lab.start_client()
    lab.unplug(lab.db3)
    active = "select active from repmgr.nodes where node_id = 3"
    wait_for(lambda: lab.db2.sql(active, "repmgr") == "f", "repmgrd to give up db3")
    assert "node 3: standby" not in lab.gateway.hooks("status").stdout
    client.wait_for_write(time.time())
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: lab.db2.sql("select pg_is_in_recovery()") == "f", "the promotion of db2")
    promoted = time.time()

    assert client.wait_for_write(promoted).ended - promoted < 100, "the app port opened before its limit of 120 s"
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    assert led_to(lab, lab.db2)
    assert_nothing_lost(client, lab.db2)
    assert [run for run in runs(lab) if run["ok"] is False] == []
