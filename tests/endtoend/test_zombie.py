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
from tests.lab import Host, Lab, wait_for
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
