"""A switchover whose command is gone, and perhaps the service or the gateway too: the service takes it up."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time

import pytest

from tests.endtoend.switchovers import (
    PHASES,
    STATE,
    hanging,
    is_served,
    killed,
    pair,
    primary_of,
    repmgr_conf,
    started,
    stopping,
)
from tests.endtoend.test_gateway import reboot
from tests.endtoend.test_worker import kill_worker
from tests.lab import RUNTIME, Host, Lab, wait_for
from tests.lab.pgbouncer import Pooler
from tests.lab.three import rejoin


@pytest.fixture
def lab(pooled_three: tuple[Lab, Pooler]) -> Lab:
    return pooled_three[0]


@pytest.mark.parametrize("phase", PHASES)
def test_the_command_is_killed(lab: Lab, phase: str) -> None:
    killed(started(lab, PHASES[phase]))
    is_served(lab, time.time())


def test_the_command_is_killed_while_the_primary_stops(lab: Lab) -> None:
    """repmgr goes on by itself, and the service follows."""
    old, new = pair(lab)
    killed(stopping(lab, old))
    is_served(lab, time.time())
    assert primary_of(lab) is new


def test_the_service_is_killed_while_the_primary_stops(lab: Lab) -> None:
    """As systemd does, it is started again at once."""
    old, new = pair(lab)
    command = stopping(lab, old)
    kill_worker(lab, signal.SIGKILL)
    lab.start_worker()
    assert command.wait(300) == 0
    is_served(lab, time.time())
    assert primary_of(lab) is new


def said(lab: Lab) -> int:
    """How much the service has said so far."""
    return len(lab.gateway.log("worker"))


def end(lab: Lab, name: str) -> None:
    daemon = lab.daemons.pop(name)
    daemon.kill()
    daemon.wait(60)


def power_off(lab: Lab, command: subprocess.Popen[bytes]) -> None:
    """The gateway goes off: its daemons, its rules, what is in memory. PgBouncer runs on, as one on another host.

    repmgrd first, for without a service each event starts a run of its own; the service before the command: within a
    second either would let the clients go on that the command held.
    """
    for node in lab.numbers:
        end(lab, f"repmgrd{node}")
    wait_for(lambda: not lab.gateway.result("pgrep", "-f", "repmgr-hooks event").stdout, "the last event to be stored")
    end(lab, "worker")
    killed(command)
    end(lab, "cron")
    lab.gateway.run("pkill", "-KILL", "-x", "pg_receivewal", check=False)
    reboot(lab)
    shutil.rmtree(RUNTIME)
    boot = lab.gateway.run("cat", "/proc/sys/kernel/random/boot_id").strip()
    records = [*lab.gateway.path(STATE).glob("*.switchover"), *lab.gateway.path(STATE).glob("*.hold")]
    assert len(records) == 2
    for record in records:
        text = record.read_text()
        assert boot in text
        record.write_text(text.replace(boot, "another"))


def boots(lab: Lab) -> None:
    """What starts on a gateway at boot; repmgrd starts when it reaches a primary, and systemd tries that for long."""
    lab.gateway.hooks("boot")
    lab.start_worker()
    lab.start_cron()


def repmgr_has_ended(host: Host) -> None:
    wait_for(lambda: [*host.path("/tmp").glob("repmgr-hooks-*/code")], "repmgr to end")


@pytest.mark.parametrize("too", ["nothing", "the service", "the gateway"])
def test_the_old_primary_serves_again(lab: Lab, pooler: Pooler, too: str) -> None:
    """It does not stop, and repmgr gives up; the command, which would have started it again, is gone."""
    old, new = pair(lab)
    begun, client = said(lab), lab.start_client(patience=60)
    with repmgr_conf(new, "shutdown_check_timeout=15\n"), hanging(old):
        command = stopping(lab, old)
        assert pooler.paused()
        if too == "the gateway":
            power_off(lab, command)
            repmgr_has_ended(new)
            boots(lab)
        else:
            killed(command)
        if too == "the service":
            kill_worker(lab, signal.SIGKILL)
            lab.start_worker()
        wait_for(lambda: f"node {old.name[-1]} is started again" in lab.gateway.log("worker")[begun:], "the start", 120)
    client.wait_for_write(time.time(), 120)
    client.stop()
    if too == "the gateway":
        lab.start_repmgrd()
    is_served(lab, time.time())
    assert primary_of(lab) is old
    assert not pooler.paused()


def test_the_node_is_promoted(lab: Lab, pooler: Pooler) -> None:
    """The primary dies, and repmgr gives up; repmgrd, which was paused just then, promotes nobody later either."""
    old, new = pair(lab)
    client = lab.start_client(patience=60)
    with hanging(old):
        command = stopping(lab, old)
        killed(command)
        old.pg_ctl("stop", "-m", "immediate")
    died = time.time()
    client.wait_for_write(died, 180)
    client.stop()
    assert new.sql("select pg_is_in_recovery()") == "f"
    rejoin(old, new)
    is_served(lab, time.time())
    assert not pooler.paused()
