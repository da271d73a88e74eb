"""The primary dies; repmgrd promotes; the clients and Barman follow."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.endtoend.conftest import with_each_backend
from tests.endtoend.looks import (
    barman_streams_from,
    failover_handled,
    first_file,
    missing_across_the_switch,
    nothing_missing,
    routes,
    runs,
    slot,
    wait_until_good,
    worker_log,
)
from tests.lab import DATA, Lab, Write, wait_for, wait_for_answer
from tests.lab.many import Crowd, pgbench_again, start_pgbench
from tests.lab.three import is_registered

FOREIGN = """*nat
:DOCKER - [0:0]
:repmgr_dnat_of_another_tool - [0:0]
-A PREROUTING -p tcp -m tcp --dport 8080 -j DNAT --to-destination 10.0.0.30:80
-A POSTROUTING -s 192.0.2.0/24 ! -o eth0 -m comment --comment "docker: keep; this" -j MASQUERADE
-A DOCKER -i eth0 -j RETURN
-A repmgr_dnat_of_another_tool -d 10.0.0.20/32 -p tcp -m tcp --dport 54322 -j RETURN
COMMIT
"""

FOREIGN_TOO = """
table inet theirs {
    chain in { type filter hook input priority 0; policy accept; tcp dport 9 drop; }
    chain pre { type nat hook prerouting priority -100; policy accept; tcp dport 8080 redirect to :80; }
}
"""


def foreign(lab: Lab) -> list[str]:
    """The nat table without what is ours, the filter table, and what nftables has of others."""
    ours = ("-A repmgr_dnat ", "-A repmgr_snat ", ":repmgr_dnat ", ":repmgr_snat ")
    theirs = lab.gateway.run("nft", "list", "table", "inet", "theirs").splitlines()
    nat = [line for line in lab.gateway.rules("nat") if not line.startswith(ours)]
    return [*nat, *lab.gateway.rules("filter"), *theirs]


def assert_told(lab: Lab, fault: float, stopped: float, open_again: Write) -> None:
    """The story of the journal agrees with the clocks of the one who broke the primary, and of the client.

    A step is entered when it has been done: the client may be a little earlier.
    """
    story = json.loads(lab.gateway.hooks("history", "--failover", "last", "--json").stdout)
    assert (story["change"]["was"], story["change"]["node"], story["ok"]) == (1, 2, True)
    assert fault - 60 < story["zero"] + story["last_good"] < stopped + 1, "a tick is 5 s on a quiet machine"
    assert fault - 0.5 < story["zero"] < time.time()
    assert 0 < story["promoted"] < story["cut"] < story["archived"] < story["ports"]["app"]
    assert story["zero"] + story["ports"]["app"] == pytest.approx(open_again.ended, abs=30)
    page = "/var/lib/repmgr-hooks/failover.html"
    assert lab.gateway.hooks("history", "--failover", "last", "--html", page).returncode == 0
    assert f"{story['ports']['app']:.2f}<small> s" in lab.gateway.path(page).read_text()


def assert_counted(lab: Lab) -> None:
    place = lab.gateway.path("/var/lib/repmgr-hooks/repmgr_hooks.prom")
    result = lab.gateway.hooks("metrics", "--file", "/var/lib/repmgr-hooks/repmgr_hooks.prom")
    assert result.returncode == 0, result.stderr
    families = list(text_string_to_metric_families(place.read_text()))
    found = {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
    assert found["repmgr_hooks_port_target", "main", "app", "2"] == 1
    assert found["repmgr_hooks_port_target", "main", "app", "1"] == 0
    assert found["repmgr_hooks_node_up", "main", "1"] == 0
    assert found["repmgr_hooks_primary_changes_total", "main"] == 1
    assert found["repmgr_hooks_runs_total", "main", "drift"] + found["repmgr_hooks_runs_total", "main", "event"] > 0
    assert 0 <= time.time() - found["repmgr_hooks_last_poll_timestamp_seconds", "main"] < 60


@pytest.mark.parametrize(("how", "backend"), [("fast", "iptables"), ("immediate", "nftables")])
def test_primary_stopped(lab: Lab, how: str) -> None:
    lab.gateway.run("iptables-restore", "--noflush", stdin=FOREIGN)
    lab.gateway.run("nft", "-f", "-", stdin=FOREIGN_TOO)
    lab.gateway.run("iptables", "-A", "FORWARD", "-p", "icmp", "-j", "DROP")
    lab.gateway.hooks("reconcile")
    lab.db1.sql("select pg_create_physical_replication_slot('somebody_elses')")
    lab.db2.sql("select pg_create_physical_replication_slot('somebody_elses')")
    before, first = foreign(lab), first_file(lab)
    client = lab.start_client()
    fault = time.time()
    lab.db1.pg_ctl("stop", "-m", how)
    stopped = time.time()

    open_again = client.wait_for_write(stopped)
    wait_for(lambda: failover_handled(lab), "the end of the events")

    assert routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    wait_for(lambda: barman_streams_from(lab.db2) and slot(lab.db2) == "t|t|reserved", "Barman to stream from db2")
    assert slot(lab.db2, "somebody_elses")
    assert_told(lab, fault, stopped, open_again)
    assert_counted(lab)
    wait_for_answer(lambda: missing_across_the_switch(lab, lab.db2, first), is_empty, "Barman to have all")
    assert foreign(lab) == before
    committed = {write.row for write in client.writes() if write.row is not None}
    assert committed <= {int(row) for row in lab.db2.sql("select id from work", "app").split()}


def test_later_events_of_a_failover_change_nothing(lab: Lab) -> None:
    client = lab.start_client()
    fault = time.time()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    open_again = client.wait_for_write(time.time())
    wait_for(lambda: failover_handled(lab), "the end of the events")

    told_again = time.time()
    lab.gateway.hooks("event", "2", "repmgrd_failover_promote", user="postgres")
    (run, *_) = wait_for_answer(lambda: runs_of(lab, "repmgrd_failover_promote", told_again), bool, "its run")
    assert run["message"].startswith("nothing to do: in the desired state")
    assert [each for each in runs(lab) if each["started"] > told_again and each["steps"]] == []
    steps = [step["what"] for each in runs(lab) if each["started"] > fault for step in each["steps"]]
    assert sum(what.startswith("route port") for what in steps) == 2, steps
    assert [write for write in client.writes() if write.begun > open_again.ended and write.row is None] == []


def is_empty(found: set[str]) -> bool:
    return not found


def runs_of(lab: Lab, event: str, after: float) -> list[dict[str, Any]]:
    """The runs that have ended, and began after a moment, for an event."""
    ended = [run for run in runs(lab) if run["started"] > after and run["ended"]]
    return [run for run in ended if event in {each["name"] for each in run["events"]}]


def test_the_failover_takes_the_steps_that_were_simulated(lab: Lab) -> None:
    simulated = wait_for_answer(
        lambda: lab.gateway.hooks("simulate-failover", "2"), lambda said: said.returncode == 0, "node 2 to be fit"
    )
    assert routes(lab) == {54321: "10.0.0.11", 54322: "10.0.0.11"}
    fault = time.time()
    lab.db1.pg_ctl("stop", "-m", "fast")
    wait_for(lambda: failover_handled(lab), "the end of the events")

    # How many connections are still known is another matter: the client's own may be gone before we come. So may
    # Barman's receiver. A step that took too long is tried again.
    optional = ("reset connections ", "send an alert", "keep ", "stop Barman's receive-wal")
    taken = [step["what"] for run in runs(lab) for step in run["steps"] if run["started"] > fault]
    promised = re.findall(r"^  would (.*)", simulated.stdout, re.MULTILINE)
    assert [what for what in dict.fromkeys(taken) if not what.startswith(optional)] == [
        what for what in promised if not what.startswith(optional)
    ]


def test_primary_unplugged_under_load(lab: Lab) -> None:
    """No reset reaches anyone: neither those who write, nor those who wait for an answer, nor the gateway's own."""
    client, crowd, local = lab.start_client(patience=8), Crowd(lab, lab.app, 50), Crowd(lab, lab.gateway, 2)
    start_pgbench(lab)
    lab.unplug(lab.db1)
    unplugged = time.time()

    client.wait_for_write(unplugged)
    crowd.wait_for_writes(unplugged)
    local.wait_for_writes(unplugged)
    wait_for(lambda: pgbench_again(lab.db2, unplugged), "pgbench to write again")
    assert routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    hung = [write for write in client.writes() if write.row is None and write.ended - write.begun >= 8]
    assert len(hung) == 1, "only the open connection waited; every later one was refused at once"


def test_role_change_by_hand_and_rejoin(lab: Lab) -> None:
    """As in a switchover: db1 stopped cleanly, db2 promoted, db1 back as its standby."""
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "fast")
    client.wait_for_write(time.time())
    is_registered(lab.db2)
    rejoin = (
        "repmgr",
        "-f",
        "/etc/repmgr/db1.conf",
        "node",
        "rejoin",
        "-d",
        "host=10.0.0.12 user=repmgr dbname=repmgr",
    )
    lab.db1.run(*rejoin, "--config-files=postgresql.conf", user="postgres")

    wait_for(lambda: slot(lab.db1) == "", "the slot on the rejoined node to be dropped")
    assert lab.db1.sql("select pg_is_in_recovery()") == "t"
    wait_until_good(lab, lab.db2, [lab.db1])


def test_slot_left_behind_without_any_event(lab: Lab) -> None:
    """Nobody tells us that db1 is a standby now: the worker sees it."""
    lab.db1.pg_ctl("stop", "-m", "fast")
    wait_for(lambda: routes(lab).get(54322) == "10.0.0.12", "the failover")
    is_registered(lab.db2)
    lab.stop_repmgrd()
    lab.db1.run("touch", f"{DATA}/standby.signal", user="postgres")
    conninfo = "host=10.0.0.12 user=repmgr application_name=db1"
    lab.append(lab.db1, f"{DATA}/postgresql.auto.conf", f"primary_conninfo = '{conninfo}'\n")
    lab.db1.pg_ctl("start")

    wait_for(lambda: slot(lab.db1) == "", "the slot to be dropped")
    wait_for(lambda: slot(lab.db2) == "t|t|reserved", "the slot on db2 to be in use")


def test_promotion_by_hand_without_any_event(lab: Lab) -> None:
    lab.stop_repmgrd()
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    stopped = time.time()
    lab.db2.sql("select pg_promote()")

    client.wait_for_write(stopped)
    assert routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    wait_for(lambda: nothing_missing(lab) and barman_streams_from(lab.db2), "all to be done")


def test_standby_promoted_by_mistake_beside_a_healthy_primary(lab: Lab) -> None:
    lab.stop_repmgrd()
    lab.db2.sql("select pg_promote()")
    wait_for(lambda: "node 2 was promoted beside the primary" in "\n".join(worker_log(lab)), "the worker to see it")
    time.sleep(7)  # longer than a tick
    assert routes(lab) == {54321: "10.0.0.11", 54322: "10.0.0.11"}
    wait_for(lambda: lab.gateway.hooks("reconcile").returncode == 0, "nothing to be left to do")
    assert routes(lab) == {54321: "10.0.0.11", 54322: "10.0.0.11"}


def test_old_primary_back_from_the_dead_gets_nobody(lab: Lab) -> None:
    lab.unplug(lab.db1)
    wait_for(lambda: routes(lab).get(54322) == "10.0.0.12", "the failover")
    wait_for(lambda: nothing_missing(lab), "the end of the failover")
    before = lab.gateway.nat()
    lab.unplug(lab.db2)
    lab.plug_in(lab.db1)
    # The gateway has found nobody at its address for long, and asks for it once more only a moment later.
    words = ("pg_isready", "-q", "-h", lab.db1.address)
    wait_for(lambda: lab.gateway.result(*words).returncode == 0, "db1 to be heard again")

    result = lab.gateway.hooks("boot")

    assert result.returncode == 1
    assert "SPLIT-BRAIN: node 1 is a stale primary" in result.stdout
    assert "node 1 is a primary on an older timeline than 2" in result.stdout
    assert lab.gateway.nat() == before


@with_each_backend
def test_chains_wiped_by_a_firewall_reload(lab: Lab) -> None:
    before = lab.gateway.nat()
    lab.gateway.wipe_nat()
    wait_for(lambda: lab.gateway.nat() == before, "the chains to be there again")
