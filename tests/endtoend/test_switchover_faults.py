"""What can go wrong in a switchover: each time clients are served in the end, and nothing is left of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from repmgr_hooks.switchover.phases import HOLD_LIMIT
from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import follows
from tests.endtoend.switchovers import is_good, nothing_left, opened, serving, switchover
from tests.endtoend.test_worker import kill_worker
from tests.lab import CONFIG_FILE, DATA, Host, Lab, must, wait_for
from tests.lab.pgbouncer import Pooler, use
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


GATE_LIMIT = 30


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Lab, Pooler]]:
    """Three nodes in service behind a PgBouncer; a gate that nobody can satisfy opens soon, and the archiver works."""
    made = fresh_lab(3)
    try:
        opened(made)
        place = made.gateway.path(CONFIG_FILE)
        pooler = Pooler(made, made.gateway)
        use(made, pooler)
        place.write_text(place.read_text().replace("fail_open_after: 120", f"fail_open_after: {GATE_LIMIT}"))
        for host in made.databases:
            made.append(host, f"{DATA}/postgresql.conf", "archive_mode = on\narchive_command = 'true'\n")
            host.pg_ctl("restart")
        serving(made)
        yield made, pooler
    finally:
        made.destroy()


@pytest.fixture
def lab(both: tuple[Lab, Pooler]) -> Lab:
    """Each test leaves node 1 or 2 as the primary, and all others its standbys."""
    return both[0]


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


@pytest.mark.parametrize("for_good", [False, True])
def test_the_connection_to_the_node_is_lost(lab: Lab, for_good: bool) -> None:
    """repmgr runs to its end there, and what counts is what has become of the cluster."""
    old, new = pair(lab)
    keys = new.path("/var/lib/postgresql/.ssh/authorized_keys")
    command = started(lab, PHASES["switch"])
    wait_for(lambda: old.result("pg_isready", "-q").returncode != 0, "the primary to stop", every=0.02)
    keys.rename(keys.with_suffix(".away"))
    for pid in lab.gateway.run("pgrep", "-f", f"^[a-z/]*ssh -o BatchMode=yes postgres@{new.address} sh").split():
        lab.gateway.run("kill", "-KILL", pid)
    if not for_good:
        keys.with_suffix(".away").rename(keys)
    try:
        assert command.wait(300) == 0
    finally:
        if for_good:
            keys.with_suffix(".away").rename(keys)
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
    barman.write_text("")
    try:
        refused = switchover(lab)
    finally:
        barman.write_text(text)
    assert refused.returncode == 1
    assert "FAIL  switchover.barman" in refused.stdout
    assert primary_of(lab) is old
    assert nothing_left(lab)


def test_barman_dies_while_clients_are_held(lab: Lab) -> None:
    """The gate opens when its limit is over, as in a failover."""
    old, new = pair(lab)
    barman = lab.gateway.path("/etc/barman.d/main_backup.conf")
    text = barman.read_text()
    command = started(lab, PHASES["hold"])
    try:
        barman.write_text("")  # not under another name: Barman's cron would have that one receive through the slot
        lab.gateway.run("pkill", "-KILL", "-x", "pg_receivewal", check=False)
        command.wait(300)
        client = lab.start_client(patience=60)
        client.stop()
    finally:
        barman.write_text(text)
    assert primary_of(lab) is new
    is_good(lab, old, new)


def test_pgbouncer_dies_while_clients_are_held(lab: Lab, both: tuple[Lab, Pooler]) -> None:
    """What it has held it has forgotten; clients of the port go on all the same."""
    _, new = pair(lab)
    command = started(lab, PHASES["switch"])
    both[1].signal(signal.SIGKILL)
    try:
        command.wait(300)
        client = lab.start_client(patience=60)
        client.stop()
    finally:
        both[1].start()
    is_served(lab, time.time())
    assert primary_of(lab) is new
    assert not both[1].paused()


def test_the_archive_is_stuck(lab: Lab) -> None:
    """repmgr refuses: a primary would not stop before all is archived."""
    old, _ = pair(lab)
    with repmgr_conf(old, "archive_ready_warning=1\narchive_ready_critical=2\n"):
        archive_with(old, "false")
        for _ in range(4):
            old.sql("select txid_current()")
            old.sql("select pg_switch_wal()")
        refused = switchover(lab)
        archive_with(old, "true")
    assert refused.returncode == 1
    assert re.search("FAIL  switchover.repmgr .*pending archive", refused.stdout)
    ready = "select count(*) from pg_ls_archive_statusdir() where name ~ 'ready$'"
    wait_for(lambda: old.sql(ready) == "0", "the archiver", 120)
    assert primary_of(lab) is old
    is_served(lab, time.time())


def archive_with(host: Host, command: str) -> None:
    host.sql(f"alter system set archive_command = '{command}'")
    host.pg_ctl("reload")


@contextmanager
def repmgr_conf(host: Host, more: str) -> Iterator[None]:
    """repmgr has more settings on this node."""
    place = host.path(f"/etc/repmgr/{host.name}.conf")
    text = place.read_text()
    place.write_text(text + more)
    try:
        yield
    finally:
        place.write_text(text)


def test_the_old_primary_does_not_stop(lab: Lab) -> None:
    """A backend hangs, and repmgr gives up; a fast shutdown cannot be taken back, so it is ended, and serves again."""
    old, new = pair(lab)
    old.start("psql", "-XAtq", "-c", "select pg_sleep(600)", "postgres", user="postgres", log="hangs")
    look = "select max(pid) from pg_stat_activity where query = 'select pg_sleep(600)'"
    wait_for(lambda: old.sql(look) != "", "the backend")
    backend = int(old.sql(look))
    client = lab.start_client(patience=60)
    with repmgr_conf(new, "shutdown_check_timeout=5\n"):
        os.kill(backend, signal.SIGSTOP)
        try:
            command, begun = started(lab, PHASES["switch"]), time.time()
            assert command.wait(300) == 1
            client.wait_for_write(time.time())
        finally:
            with suppress(ProcessLookupError):
                os.kill(backend, signal.SIGCONT)
    client.stop()
    print(f"{client.longest_outage(begun):.1f} s without a write")
    is_served(lab, time.time())
    assert primary_of(lab) is old


def test_the_disk_of_the_target_is_full(lab: Lab) -> None:
    """It cannot be promoted, and dies; the old primary, which repmgr has stopped, serves again."""
    old, new = pair(lab)
    client = lab.start_client(patience=60)
    with small_disk(new) as fill:
        wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", every=0.5)
        command = started(lab, PHASES["switch"])
        begun = time.time()
        fill()
        assert command.wait(400) == 1
        client.wait_for_write(time.time())
        client.stop()
        assert old.sql("select pg_is_in_recovery()") == "f"
    print(f"{client.longest_outage(begun):.1f} s without a write")
    is_served(lab, time.time())
    assert primary_of(lab) is old


@contextmanager
def small_disk(host: Host) -> Iterator[Callable[[], None]]:
    """A standby's pg_wal is on a disk of its own, which can be filled; it is emptied and taken away in the end."""
    there = host.path(f"{DATA}/pg_wal")
    kept = there.with_name("pg_wal.kept")

    def fill() -> None:
        with suppress(OSError), (there / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(2**16)):
                pass

    host.pg_ctl("stop")
    there.rename(kept)
    there.mkdir()
    size = sum(file.stat().st_size for file in kept.rglob("*")) + 128 * 2**20
    must("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(there))
    try:
        must("cp", "-a", f"{kept}/.", str(there))
        host.pg_ctl("start")
        yield fill
    finally:
        (there / "filler").unlink(missing_ok=True)
        if host.result("pg_ctl", "-D", DATA, "status", user="postgres").returncode == 0:
            host.pg_ctl("stop")
        shutil.rmtree(kept)
        must("cp", "-a", str(there), str(kept))
        must("umount", str(there))
        there.rmdir()
        kept.rename(there)
        host.pg_ctl("start")


def test_the_command_was_stopped_for_longer_than_it_may_hold_clients(lab: Lab) -> None:
    """It goes on where it was, and holds nobody: the service has taken back what it held, and what it holds late."""
    old, _ = pair(lab)
    command = started(lab, PHASES["hold"])
    command.send_signal(signal.SIGSTOP)
    try:
        time.sleep(HOLD_LIMIT + 5)
    finally:
        command.send_signal(signal.SIGCONT)
    assert command.wait(300) == 1
    is_served(lab, time.time())
    assert primary_of(lab) is old


@pytest.mark.parametrize("phase", ["hold", "switch"])
def test_the_primary_dies_while_clients_are_held(lab: Lab, phase: str) -> None:
    """It becomes a failover: repmgr or repmgrd promotes the standby, and the clients that waited go on there."""
    old, new = pair(lab)
    client = lab.start_client(patience=60)
    command = started(lab, PHASES[phase])
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
