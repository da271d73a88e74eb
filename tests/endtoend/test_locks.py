"""Barman's locks, which others hold for as long as they please: the stream and the app port do not wait for them."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, failover_handled, nothing_missing, routes, worker_log
from tests.endtoend.test_continuity import close_file
from tests.lab import Lab, wait_for

GATE_LIMIT = 110
"""Less than ``fail_open_after``. How long it really takes, ``tests/bench/locks.py`` measures."""
SILENT = "10.0.0.99"


def hold(lab: Lab, lock: str) -> subprocess.Popen[bytes]:
    """Hold a lock of Barman's, as a cron that hangs, or one with a slow hook or much to remove."""
    file = f"/var/lib/barman/.main_backup-{lock}.lock"
    holder = lab.gateway.start("flock", file, "sleep", "1000", user="barman", log=lock)
    wait_for(lambda: lab.gateway.result("flock", "-n", file, "true", user="barman").returncode, f"{lock} to be held")
    return holder


def cron(lab: Lab) -> None:
    hold(lab, "cron")


def archive_wal(lab: Lab) -> None:
    hold(lab, "archive-wal")


def a_silent_server_before_ours(lab: Lab) -> None:
    """Another server of the same Barman, a copy of one on a Barman whose host drops what we send."""
    lab.gateway.run("iptables", "-A", "OUTPUT", "-d", SILENT, "-j", "DROP")
    ssh = f"primary_ssh_command = ssh barman@{SILENT}"
    lab.put(lab.gateway, "/etc/barman.d/aaa.conf", f"[aaa]\ndescription = A copy\n{ssh}\n")


@pytest.fixture(params=[False, True], ids=["debians", "newest"])
def of_each_barman(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A cluster in service, with Debian's Barman and with the newest."""
    with fresh_lab(newest_barman=request.param) as lab:
        lab.open()
        yield lab


@pytest.mark.parametrize("held_up", [cron, archive_wal, a_silent_server_before_ours])
def test_the_app_port_opens_although_barman_is_held_up(of_each_barman: Lab, held_up: Callable[[Lab], None]) -> None:
    lab = of_each_barman
    held_up(lab)
    # Else the switchpoint may be at the end of a file, which asks for a repair.
    lab.db1.sql("insert into work default values", "app")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: lab.db2.sql("select pg_is_in_recovery()") == "f", "the promotion")
    wait_for(lambda: routes(lab).get(54322) == lab.db2.address, "the app port to lead to db2", GATE_LIMIT)
    assert barman_streams_from(lab.db2)
    # The gate let them in, not its limit; and the lock is held all the time.
    assert "although an earlier action failed" not in "\n".join(worker_log(lab))
    wait_for(lambda: failover_handled(lab), "the end of the events", 120)
    assert barman_streams_from(lab.db2)


def walsender(lab: Lab) -> str:
    return lab.db1.sql("select active_pid from pg_replication_slots where slot_name = 'barman'")


def test_the_receiver_outlives_the_service_and_stays_alone(lab: Lab) -> None:
    """As systemd ends the service: only its own process (KillMode=process). Barman's lock lets no second one in."""
    before = walsender(lab)
    holder = hold(lab, "cron")
    lab.gateway.barman("receive-wal", "--stop", "main_backup")
    wait_for(lambda: barman_streams_from(lab.db1) and walsender(lab) != before, "the service to start the receiver")
    before = walsender(lab)

    worker = lab.daemons["worker"]
    worker.kill()
    worker.wait(90)
    close_file(lab.db1)
    os.killpg(holder.pid, signal.SIGKILL)
    holder.wait(90)
    lab.gateway.barman("cron")
    close_file(lab.db1)
    wait_for(lambda: lab.gateway.barman("check", "main_backup", check=False).count("receive-wal running: OK"), "check")
    assert (walsender(lab), barman_streams_from(lab.db1)) == (before, True)

    lab.start_worker()
    wait_for(lambda: nothing_missing(lab), "the service to look")
    assert walsender(lab) == before
    lab.gateway.barman("receive-wal", "--stop", "main_backup")
    wait_for(lambda: barman_streams_from(lab.db1) and walsender(lab) != before, "the service to start it anew")
