"""What can go wrong in a switchover: each time clients are served in the end, and nothing is left of it."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import follows
from tests.endtoend.switchovers import is_good, nothing_left, opened, serving, switchover
from tests.endtoend.test_worker import kill_worker
from tests.lab import Host, Lab, wait_for
from tests.lab.three import rejoin

PHASES = {
    "checkpoint": "have the primary write a checkpoint",
    "backup": "see all WAL so far",
    "pause": "pause repmgrd",
    "begin": "have repmgr check all again",
    "hold": "hold the clients",
    "switch": "repmgr standby switchover",
    "follow": "wait for the service",
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Three nodes in service; each test leaves node 1 or 2 as the primary, and all others its standbys."""
    made = fresh_lab(3)
    try:
        opened(made)
        serving(made)
        yield made
    finally:
        made.destroy()


def primary_of(lab: Lab) -> Host:
    return next(host for host in lab.databases if "f" in host.sql("select pg_is_in_recovery()"))


def pair(lab: Lab) -> tuple[Host, Host]:
    """The primary, and the standby that is to take its place."""
    old = primary_of(lab)
    return old, lab.db1 if old is lab.db2 else lab.db2


def started(lab: Lab, until: str) -> subprocess.Popen[bytes]:
    """Start a switchover, and wait until it has logged something."""
    log = f"switchover{time.monotonic_ns()}"
    command = lab.gateway.start("/usr/local/bin/repmgr-hooks", "switchover", log=log)
    wait_for(lambda: until in lab.gateway.log(log) or command.poll() is not None, f"'{until}'", every=0.02)
    assert until in lab.gateway.log(log), lab.gateway.log(log)
    return command


def is_served(lab: Lab, since: float) -> None:
    """Clients write, the others follow, and nothing is left."""
    client = lab.start_client(patience=30)
    client.wait_for_write(since)
    client.stop()
    print(f"{time.time() - since:.1f} s until a client writes")
    wait_for(lambda: nothing_left(lab), "all to be taken back", 100)
    new = primary_of(lab)
    for host in lab.databases:
        assert host is new or wait_for(lambda h=host: follows(h, new), f"{host.name} to follow") is None
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", every=0.5)


@pytest.mark.parametrize("phase", PHASES)
def test_the_command_is_killed(lab: Lab, phase: str) -> None:
    command = started(lab, PHASES[phase])
    command.kill()
    command.wait(60)
    is_served(lab, time.time())


def test_the_command_is_killed_while_the_primary_stops(lab: Lab) -> None:
    """repmgr goes on by itself, and the service follows."""
    old, new = pair(lab)
    command = started(lab, PHASES["switch"])
    wait_for(lambda: old.result("pg_isready", "-q").returncode != 0, "the primary to stop", every=0.02)
    command.kill()
    command.wait(60)
    is_served(lab, time.time())
    assert primary_of(lab) is new


def test_the_service_is_killed_while_the_primary_stops(lab: Lab) -> None:
    """As systemd does, it is started again at once."""
    old, new = pair(lab)
    command = started(lab, PHASES["switch"])
    wait_for(lambda: old.result("pg_isready", "-q").returncode != 0, "the primary to stop", every=0.02)
    kill_worker(lab, signal.SIGKILL)
    lab.start_worker()
    assert command.wait(300) == 0
    is_served(lab, time.time())
    assert primary_of(lab) is new


def test_the_connection_to_the_node_is_lost(lab: Lab) -> None:
    """repmgr runs to its end there, and what counts is what has become of the cluster."""
    old, new = pair(lab)
    command = started(lab, PHASES["switch"])
    wait_for(lambda: old.result("pg_isready", "-q").returncode != 0, "the primary to stop", every=0.02)
    for pid in lab.gateway.run("pgrep", "-f", f"^[a-z/]*ssh -o BatchMode=yes postgres@{new.address} sh").split():
        lab.gateway.run("kill", "-KILL", pid)
    assert command.wait(300) == 0
    is_good(lab, old, new)


def test_repmgr_refuses(lab: Lab) -> None:
    """Nothing is begun, and what repmgr says is shown: here that the node cannot reach the primary by ssh."""
    old, _ = pair(lab)
    keys = old.path("/var/lib/postgresql/.ssh/authorized_keys")
    keys.rename(keys.with_suffix(".away"))
    try:
        refused = switchover(lab)
    finally:
        keys.with_suffix(".away").rename(keys)
    assert refused.returncode == 1
    assert "FAIL  switchover.repmgr   main: repmgr refuses: unable to connect via SSH" in refused.stdout
    assert primary_of(lab) is old
    assert nothing_left(lab)


def test_barman_is_dead(lab: Lab) -> None:
    """Clients would wait for a backup that does not come: nothing is begun."""
    old, _ = pair(lab)
    barman = lab.gateway.path("/etc/barman.d/main_backup.conf")
    text = barman.read_text()
    barman.write_text(text.replace("[main_backup]", "[another]"))
    try:
        refused = switchover(lab)
    finally:
        barman.write_text(text)
    assert refused.returncode == 1
    assert "FAIL  switchover.barman" in refused.stdout
    assert primary_of(lab) is old
    assert nothing_left(lab)


def test_the_primary_dies_while_clients_are_held(lab: Lab) -> None:
    """It becomes a failover: repmgr or repmgrd promotes the standby, and the clients that waited go on there."""
    old, new = pair(lab)
    client = lab.start_client(patience=60)
    command = started(lab, PHASES["hold"])
    old.pg_ctl("stop", "-m", "immediate")
    died = time.time()
    command.wait(400)
    client.wait_for_write(died)
    client.stop()
    wait_for(lambda: nothing_left_of(lab, [host for host in lab.databases if host is not old]), "all to be taken back")
    assert new.sql("select pg_is_in_recovery()") == "f"
    rejoin(old, new)
    is_served(lab, time.time())


def nothing_left_of(lab: Lab, hosts: list[Host]) -> bool:
    """True if no repmgrd of these nodes is paused."""
    return all(host.sql("select repmgr.repmgrd_is_paused()", "repmgr") == "f" for host in hosts)
