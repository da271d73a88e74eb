"""The truth comes from the cluster, not from its events: three nodes, and events that are late, lost or wrong."""

from __future__ import annotations

import time

from tests.endtoend.looks import (
    barman_streams_from,
    follows,
    routes,
    routes_during,
    runs,
    slot,
    wait_until_good,
    worker_log,
)
from tests.lab import Client, Host, Lab, wait_for
from tests.lab.three import rejoin

ZOMBIE = "10.0.0.11"
"""db1, when it comes back from the dead."""


def led_to(lab: Lab, host: Host) -> bool:
    """True if both ports lead to a node."""
    return routes(lab) == {54321: host.address, 54322: host.address}


def first_line_of_status(lab: Lab) -> tuple[int, str]:
    """The exit code of ``status`` and its first line."""
    result = lab.gateway.hooks("status")
    return result.returncode, result.stdout.partition("\n")[0]


def status_tells_of_a_zombie(lab: Lab) -> bool:
    code, line = first_line_of_status(lab)
    return code == 1 and "zombie" in line.lower()


def log_tells_of_a_zombie(lab: Lab) -> bool:
    return any("zombie" in line.lower() for line in worker_log(lab))


def assert_nothing_lost(client: Client, primary: Host) -> None:
    """Every row that the client was told is committed is there."""
    committed = {write.row for write in client.writes() if write.row is not None}
    assert committed
    assert committed - {int(row) for row in primary.sql("select id from work", "app").split()} == set()


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
    assert {run["cause"] for run in runs(lab)} == {"reconcile", "drift"}
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
    assert "node 2 was promoted beside" in lab.gateway.hooks("status").stdout
    assert "node 2 was promoted beside" in "\n".join(worker_log(lab))


def test_switchover(three: Lab) -> None:
    """repmgr raises its events on db2, where no hook is; the gateway hears only what its own repmgrd notice."""
    lab = three
    client = lab.start_client()

    words = ("standby", "switchover", "--siblings-follow")
    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", *words, user="postgres", limit=120)

    wait_until_good(lab, lab.db2, [lab.db1, lab.db3])
    client.wait_for_write(time.time())
    assert_nothing_lost(client, lab.db2)
    for host in (lab.db1, lab.db3):
        wait_for(lambda h=host: follows(h, lab.db2), f"{host.name} to follow db2")


def test_zombie(three: Lab) -> None:
    """db1 was unplugged, never knew that it was given up, and is plugged in again, its repmgrd still watching it."""
    lab = three
    client = lab.start_client()
    lab.unplug(lab.db1)
    wait_for(lambda: led_to(lab, lab.db2) and follows(lab.db3, lab.db2), "the failover")
    wait_until_good(lab, lab.db2, [lab.db3])

    lab.plug_in(lab.db1)
    assert routes_during(lab, 10) == [{54321: "10.0.0.12", 54322: "10.0.0.12"}]
    assert lab.db1.sql("select pg_is_in_recovery()") == "f", "db1 is still a zombie"
    wait_for(lambda: status_tells_of_a_zombie(lab), "a status that tells of the zombie", 30, 0.5)
    wait_for(lambda: log_tells_of_a_zombie(lab), "a log that tells of the zombie", 30)

    lab.db1.pg_ctl("stop", "-m", "fast")
    rejoin(lab.db1, lab.db2)
    wait_until_good(lab, lab.db2, [lab.db1, lab.db3])
    assert "zombie" not in first_line_of_status(lab)[1].lower()
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
    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", *promote, user="postgres")
    wait_for(lambda: follows(lab.db3, lab.db2), "db3 to follow db2")
    lab.db1.pg_ctl("start")

    wait_for(lambda: ZOMBIE not in routes(lab).values(), "the ports that lead to the zombie to be closed", 30)
    # Barman is a synchronous standby: streaming from a zombie, it would acknowledge a commit that nobody else has.
    lab.gateway.barman("cron", check=False)
    assert [seen for seen in routes_during(lab, 8) if ZOMBIE in seen.values()] == []
    assert not barman_streams_from(lab.db1)
    assert status_tells_of_a_zombie(lab)
    assert log_tells_of_a_zombie(lab)

    cut_off(lab, lab.db2, "-D")
    healed = time.time()
    wait_for(lambda: led_to(lab, lab.db2), "the routes to db2")
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    client.wait_for_write(healed)
    assert_nothing_lost(client, lab.db2)


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

    assert client.wait_for_write(promoted).ended - promoted < 20, "the app port opened long before its limit of 120 s"
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    assert led_to(lab, lab.db2)
    assert_nothing_lost(client, lab.db2)
    assert [run for run in runs(lab) if run["ok"] is False] == []
