"""Barman cannot stream, which a run waits for; and meanwhile the firewall is loaded again, or the primary fails."""

from __future__ import annotations

import pytest

from tests.endtoend.looks import led_to, routes, worker_log
from tests.endtoend.test_zombie import STALE_PRIMARY, status_tells_of_a_stale_primary
from tests.lab import Host, Lab, wait_for, wait_for_answer


def break_the_stream(lab: Lab, primary: Host) -> None:
    """Barman may not log in any more, and its stream ends."""
    primary.sql("alter role streaming_barman nologin")
    primary.sql("select pg_terminate_backend(pid) from pg_stat_replication where application_name ~ 'barman'")
    wait_for(lambda: "start Barman's receive-wal" in "".join(worker_log(lab)), "a run to try to start it")


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_flush_does_not_keep_the_applications_out(lab: Lab) -> None:
    """They were let in to this very primary already; for a new one, they would have to wait for Barman."""
    break_the_stream(lab, lab.db1)
    lab.gateway.run("nft", "flush", "ruleset")
    wait_for(lambda: led_to(lab, lab.db1), "the ports to be open again", 240, every=0.2)
    assert "although an earlier action failed" not in "".join(worker_log(lab)), "that is the gate of a failover"
    assert lab.psql_app("select 1").stdout == "1\n"


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
def test_a_stale_primary_is_fenced_while_a_run_waits_for_barman(lab: Lab) -> None:
    """The new primary is lost while its run goes on, the old one is back, and old rules of ours lead to it."""
    saved = lab.gateway.run("nft", "list", "ruleset")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db2), "the failover", 120)
    wait_for(lambda: lab.gateway.hooks("reconcile").returncode == 0, "the end of the failover", 120)
    break_the_stream(lab, lab.db2)
    lab.stop_repmgrd()
    lab.db2.pg_ctl("stop", "-m", "immediate")
    lab.db1.pg_ctl("start")
    lab.gateway.run("nft", "-f", "-", stdin=f"flush ruleset\n{saved}")
    wait_for(lambda: STALE_PRIMARY not in routes(lab).values(), "the ports to be closed", 45, every=0.5)
    wait_for_answer(lambda: status_tells_of_a_stale_primary(lab), bool, "a status that names the stale primary")
