"""``may-promote`` as the failover_validation_command of the real repmgrd: a veto only while the primary serves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import led_to, routes
from tests.lab import CONFIG, CONFIG_FILE, Lab, wait_for

VETO = "failover validation command returned a non-zero value"
RERUN = "election_rerun_interval=3\n"


def veto_line() -> str:
    """The line that repmgr-db1.conf ships as a comment."""
    shipped = (CONFIG / "repmgr-db1.conf").read_text()
    (found,) = (text for text in shipped.splitlines() if text.startswith("# failover_validation_command="))
    return found.removeprefix("# ") + "\n"


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two nodes in service, each repmgrd asking; looked at each second."""
    with fresh_lab() as lab:
        lab.build()
        lab.start_cron()
        for node in lab.databases:
            place = f"/etc/repmgr/{node.name}.conf"
            lab.append(lab.gateway, place, veto_line() + RERUN)
        lab.gateway.hooks("reconcile")
        lab.start_worker()
        lab.start_repmgrd()
        yield lab


def cut_off(lab: Lab) -> None:
    """repmgrd's user no longer reaches db1 from the gateway: what is cut off is repmgrd, not the primary."""
    owner = ("-m", "owner", "--uid-owner", "postgres")
    lab.gateway.run("iptables", "-I", "OUTPUT", "-d", lab.db1.address, *owner, "-j", "REJECT")


def logged(lab: Lab, text: str) -> int:
    return lab.gateway.log("repmgrd2").count(text)


def test_a_primary_that_only_repmgrd_does_not_reach(lab: Lab) -> None:
    """The service, another user, does; then the primary dies, and the next election goes through."""
    cut_off(lab)
    wait_for(lambda: logged(lab, VETO) >= 2, "two vetoes", 120)
    assert "node 2 must not be promoted: " in lab.gateway.log("repmgrd2")
    assert lab.db2.sql("select pg_is_in_recovery()") == "t"
    assert set(routes(lab).values()) == {lab.db1.address}
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db2), "the failover")


def test_a_dead_primary(lab: Lab) -> None:
    """There is nothing to wait for."""
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db2), "the failover")
    assert "node 2 may be promoted" in lab.gateway.log("repmgrd2")
    assert logged(lab, VETO) == 0


@pytest.mark.parametrize("fault", ["no program", "no configuration"])
def test_a_failure_of_its_own_forbids_nothing(lab: Lab, fault: str) -> None:
    """Even if it cannot be started at all."""
    lab.daemons.pop("worker").kill()
    if fault == "no program":
        lab.gateway.path("/usr/local/bin/repmgr-hooks").unlink()
    else:
        lab.put(lab.gateway, CONFIG_FILE, "clusters: [\n")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: lab.db2.sql("select pg_is_in_recovery()") == "f", "db2 to be promoted")
    assert logged(lab, VETO) == 0


def test_what_the_candidate_lacks(lab: Lab) -> None:
    """db2 was away while Barman alone acknowledged; nobody but Barman has these commits when db1 dies."""
    lab.stop_repmgrd()
    wait_for(lambda: lab.gateway.hooks("may-promote", "2").returncode == 4, "the primary to serve")
    lab.db2.pg_ctl("stop", "-m", "fast")
    state = "select sync_state from pg_stat_replication where application_name = 'barman_receive_wal'"
    wait_for(lambda: lab.db1.sql(state) == "sync", "commits to wait for Barman")
    lab.db1.sql("create table only_barman_has as select generate_series(1, 100000)", "app")
    lab.db1.sql("select 1")
    wait_for(lambda: seen_lag(lab), "the service to have seen it")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    lab.db2.pg_ctl("start")
    for words in ((), ("--max-lost-wal", "1GB")):
        result = lab.gateway.hooks("may-promote", *words, "2", user="postgres")
        assert result.returncode == 4, result.stdout
        assert "has acknowledged commits up to 0/" in result.stdout
        assert "that node 2 lacks (it has received up to 0/" in result.stdout
    result = lab.gateway.hooks("may-promote", "--max-lost-wal", "1MB", "2", user="postgres")
    assert "node 2 lacks" in result.stdout
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def seen_lag(lab: Lab) -> bool:
    """The service has looked since: Barman's position that it shows is the primary's; no file before its first."""
    shown = lab.gateway.run("cat", "/run/repmgr-hooks/cluster-main.json", check=False)
    current = lab.db1.sql("select pg_current_wal_lsn() - '0/0'")
    return f'"barman_lsn": {current}' in shown
