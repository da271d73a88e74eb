"""A port for readers, over the standbys that are near enough: one cluster of three nodes, in the order of the tests."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import routes, status
from tests.lab import CONFIG_FILE, Lab, wait_for
from tests.lab import http as endpoint
from tests.lab.readers import Staying, reach, shares

DB1, DB2, DB3 = "10.0.0.11", "10.0.0.12", "10.0.0.13"
TIMES = 300
READERS = (
    ("ports: {barman: 54321, app: 54322}", "ports: {barman: 54321, app: 54322, readers: 54323}"),
    ("          # - firewall: {open: readers", "          - firewall: {open: readers"),
)
"""What makes of the shipped configuration one with a port for readers."""


def change_config(lab: Lab, *changes: tuple[str, str]) -> None:
    place = lab.gateway.path(CONFIG_FILE)
    text = place.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    place.write_text(text)


def restart_worker(lab: Lab) -> None:
    if worker := lab.daemons.pop("worker", None):
        worker.terminate()
        worker.wait(60)
    lab.start_worker()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three nodes in service; what stands in config.yaml about readers counts, with a smaller lag and quick looks."""
    with fresh_lab(3) as lab:
        lab.build()
        change_config(
            lab,
            *READERS,
            ("max_lag: 64MB", "max_lag: 1MB"),
            ("monitor_interval: 5", "monitor_interval: 1"),
        )
        result = lab.gateway.hooks("reconcile")
        assert result.returncode == 0, result.stdout + result.stderr
        lab.start_cron()
        lab.start_worker()
        lab.start_repmgrd()
        wait_for(lambda: reach(lab, DB2, DB3), "readers on both standbys")
        yield lab


def assert_equal_shares(lab: Lab) -> None:
    found = shares(lab, TIMES)
    assert found.keys() == {DB2, DB3}
    assert all(0.4 * TIMES <= number <= 0.6 * TIMES for number in found.values()), found


def test_equal_shares_by_iptables(lab: Lab) -> None:
    assert_equal_shares(lab)
    assert routes(lab)[54322] == DB1


def test_status_shows_where_it_leads_and_what_load_balancers_are_answered(lab: Lab) -> None:
    assert "HTTP: serve-http is not running" in lab.gateway.hooks("status").stdout
    endpoint.start(lab)
    try:
        wait_for(lambda: endpoint.primaries(lab) == [1], "node 1 to be answered for")
        said = lab.gateway.hooks("status").stdout
        assert "  port 54323 (readers): leads to node 2 and node 3, and a client reads there\n" in said
        assert "HTTP: /primary answers 200 for node 1; /replica answers 200 for node 2 and node 3" in said
        wait_for(lambda: targets(lab) == {2, 3}, "Prometheus to see where it leads")
    finally:
        lab.daemons.pop("http").terminate()
    shown = status(lab)["readers"]["readers"]
    assert shown["leads_to"] == [2, 3]
    assert [(node["node"], node["fitness"]) for node in shown["nodes"]] == [(1, "primary"), (2, "fit"), (3, "fit")]
    found = lab.gateway.hooks("metrics").stdout
    assert 'repmgr_hooks_client_can_read{cluster="main",port="readers",origin=""} 1' in found


def targets(lab: Lab) -> set[int]:
    """To which nodes the port for readers leads, as Prometheus sees it."""
    ((_, said),) = endpoint.asked(lab, "/metrics")
    return set(map(int, re.findall(r'port_target\{cluster="main",port="readers",node="(\d)"\} 1', said)))


def test_a_standby_that_pauses_or_lags_gets_no_new_readers_and_keeps_those_it_has(lab: Lab) -> None:
    staying = Staying(lab)
    try:
        lab.db3.sql("select pg_wal_replay_pause()")
        wait_for(lambda: reach(lab, DB2), "db3 to be left out")
        assert re.search("node 3: .* to replay, its replay is paused, gets no new", lab.gateway.hooks("status").stdout)
        lab.db3.sql("select pg_wal_replay_resume()")
        wait_for(lambda: reach(lab, DB2, DB3), "db3 to be let in again")

        lab.db3.sql("alter system set recovery_min_apply_delay = '1h'")
        lab.db3.pg_ctl("reload")
        lab.db1.sql("create table later ()", "app")
        lab.db1.sql("select pg_logical_emit_message(false, 'test', repeat('x', 3000000))", "app")
        wait_for(lambda: reach(lab, DB2), "db3 to be left out")
        assert "gets no new connections" in lab.gateway.hooks("status").stdout
        lab.db3.sql("alter system reset recovery_min_apply_delay")
        lab.db3.pg_ctl("reload")
        wait_for(lambda: reach(lab, DB2, DB3), "db3 to be let in again")
        assert staying.cut() == []
    finally:
        staying.stop()


def test_a_standby_that_dies_and_comes_back(lab: Lab) -> None:
    staying = Staying(lab)
    try:
        lab.unplug(lab.db3)
        lab.db1.sql("select pg_terminate_backend(pid) from pg_stat_replication where application_name = 'db3'")
        wait_for(lambda: reach(lab, DB2), "db3 to be left out")
        wait_for(lambda: staying.cut() == [DB3] * 3, "the readers of db3 to be told that it is gone")
        lab.plug_in(lab.db3)
        wait_for(lambda: reach(lab, DB2, DB3), "db3 to be let in again")
        assert staying.cut() == [DB3] * 3, "those of db2 read on"
    finally:
        staying.stop()


def test_without_any_standby_they_come_to_the_primary_or_are_refused(lab: Lab) -> None:
    for host in (lab.db2, lab.db3):
        host.sql("select pg_wal_replay_pause()")
    wait_for(lambda: reach(lab, DB1), "readers on the primary")
    assert "port readers: a client reads on node 1: it is the primary, for no standby is fit" in (
        lab.gateway.hooks("status").stdout
    )
    change_config(lab, ("if_none: primary", "if_none: close"))
    restart_worker(lab)
    wait_for(lambda: reach(lab, "refused"), "readers to be refused")
    assert "port readers: no client can read: it is closed, for no standby is fit" in lab.gateway.hooks("status").stdout
    assert routes(lab)[54322] == DB1
    for host in (lab.db2, lab.db3):
        host.sql("select pg_wal_replay_resume()")
    wait_for(lambda: reach(lab, DB2, DB3), "readers on both standbys")
    change_config(lab, ("if_none: close", "if_none: primary"))


def test_equal_shares_by_nftables(lab: Lab) -> None:
    """Somebody changes to it while readers are connected: nobody is cut."""
    staying = Staying(lab)
    try:
        change_config(lab, ("backend: iptables", "backend: nftables"))
        restart_worker(lab)
        wait_for(lambda: "repmgr_hooks:main" not in "".join(lab.gateway.rules("nat")), "iptables to have none of ours")
        assert_equal_shares(lab)
        assert staying.cut() == []
    finally:
        staying.stop()


def test_a_failover(lab: Lab) -> None:
    """The standby that is promoted gives its readers to the other one as soon as that follows; who is there stays."""
    staying = Staying(lab)
    try:
        lab.db1.pg_ctl("stop", "-m", "immediate")
        where = "select host(inet_server_addr())"
        wait_for(lambda: lab.psql_app(where).stdout.strip() == DB2, "the app port to lead to db2", 120)
        wait_for(lambda: staying.cut() == [DB2] * 3, "the readers of db2 to be led away", 120)
        wait_for(lambda: reach(lab, DB3), "readers on db3 alone")
        assert staying.cut() == [DB2] * 3, "those of db3 read on"
    finally:
        staying.stop()
