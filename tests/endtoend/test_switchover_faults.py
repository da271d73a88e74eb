"""What can go wrong in a switchover: each time clients are served in the end, and nothing is left of it."""

from __future__ import annotations

import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen

import pytest

from repmgr_hooks.switchover.phases import HOLD_LIMIT
from tests.endtoend.switchovers import (
    PHASES,
    hanging,
    is_good,
    is_served,
    nothing_left,
    pair,
    primary_of,
    repmgr_conf,
    rests,
    started,
    stopping,
    switchover,
)
from tests.lab import DATA, Host, Lab, must, wait_for
from tests.lab.pgbouncer import Pooler
from tests.lab.three import rejoin


@pytest.fixture
def lab(pooled_three: tuple[Lab, Pooler]) -> Lab:
    return pooled_three[0]


@pytest.mark.parametrize("for_good", [False, True])
def test_the_connection_to_the_node_is_lost(lab: Lab, for_good: bool) -> None:
    """repmgr runs to its end there, and what counts is what has become of the cluster."""
    old, new = pair(lab)
    command = stopping(lab, old)
    with nobody_gets_in(new):
        connection = f"^[a-z/]*ssh -o BatchMode=yes postgres@{new.address} "
        lab.gateway.run("pkill", "-KILL", "-f", connection, check=False)
        if for_good:
            assert command.wait(300) == 0
    assert command.wait(300) == 0
    is_good(lab, old, new)


@contextmanager
def nobody_gets_in(host: Host) -> Iterator[None]:
    """ssh lets nobody in on this node; what is connected goes on."""
    keys = host.path("/var/lib/postgresql/.ssh/authorized_keys")
    away = keys.rename(keys.with_suffix(".away"))
    try:
        yield
    finally:
        away.rename(keys)


def test_repmgr_refuses(lab: Lab) -> None:
    """Nothing is begun, and what repmgr says is shown: here that the node cannot reach the primary by ssh."""
    old, _ = pair(lab)
    with nobody_gets_in(old):
        refused = switchover(lab)
    assert refused.returncode == 1
    assert "FAIL  switchover.repmgr   main: repmgr refuses: unable to connect via SSH" in refused.stdout
    assert primary_of(lab) is old
    assert nothing_left(lab)


def test_the_target_lets_no_client_in(lab: Lab) -> None:
    """Each node has a pg_hba.conf of its own; nothing is begun."""
    old, new = pair(lab)
    path = new.path(f"{DATA}/pg_hba.conf")
    text = path.read_text()
    path.write_text("".join(line for line in text.splitlines(True) if " app " not in line))
    new.pg_ctl("reload")
    try:
        refused = switchover(lab)
    finally:
        path.write_text(text)
        new.pg_ctl("reload")
    assert refused.returncode == 1
    assert re.search(
        rf"FAIL  client\.login +main node {new.name[-1]}: .* no pg_hba.conf entry for host", refused.stdout
    )
    assert primary_of(lab) is old
    assert nothing_left(lab)


def test_barman_is_dead(lab: Lab) -> None:
    """Clients would wait for a backup that does not come: nothing is begun."""
    old, _ = pair(lab)
    with without_barman(lab):
        refused = switchover(lab)
    assert refused.returncode == 1
    assert "FAIL  switchover.barman" in refused.stdout
    assert primary_of(lab) is old
    assert nothing_left(lab)
    rests(lab)  # the service may have looked at Barman meanwhile


@contextmanager
def without_barman(lab: Lab) -> Iterator[None]:
    """Barman does not know its server; under another name its cron would have that one receive through the slot."""
    barman = lab.gateway.path("/etc/barman.d/main_backup.conf")
    text = barman.read_text()
    barman.write_text("")
    try:
        yield
    finally:
        barman.write_text(text)


def test_barman_dies_while_clients_are_held(lab: Lab) -> None:
    """The gate opens when its limit is over, as in a failover."""
    old, new = pair(lab)
    command = started(lab, PHASES["hold"])
    with without_barman(lab):
        lab.gateway.run("pkill", "-KILL", "-x", "pg_receivewal", check=False)
        command.wait(300)
        client = lab.start_client(patience=60)
        client.stop()
    assert primary_of(lab) is new
    is_good(lab, old, new)


def test_pgbouncer_dies_while_clients_are_held(lab: Lab, pooler: Pooler) -> None:
    """What it has held it has forgotten; clients of the port go on all the same."""
    _, new = pair(lab)
    command = started(lab, PHASES["switch"])
    pooler.signal(signal.SIGKILL)
    try:
        command.wait(300)
        client = lab.start_client(patience=60)
        client.stop()
    finally:
        pooler.start()
    is_served(lab, time.time())
    assert primary_of(lab) is new
    assert not pooler.paused()


def test_the_archive_is_stuck(lab: Lab) -> None:
    """repmgr refuses: a primary would not stop before all is archived."""
    old, _ = pair(lab)
    with repmgr_conf(old, "archive_ready_warning=1\narchive_ready_critical=2\n"), archiving_with(old, "false"):
        for _ in range(4):
            old.sql("select txid_current()")
            old.sql("select pg_switch_wal()")
        refused = switchover(lab)
    assert refused.returncode == 1
    assert re.search("FAIL  switchover.repmgr .*pending archive", refused.stdout)
    ready = "select count(*) from pg_ls_archive_statusdir() where name ~ 'ready$'"
    wait_for(lambda: old.sql(ready) == "0", "the archiver", 120)
    assert primary_of(lab) is old
    is_served(lab, time.time())


@contextmanager
def archiving_with(host: Host, command: str) -> Iterator[None]:
    """A node has another archive_command."""
    host.sql(f"alter system set archive_command = '{command}'")
    host.pg_ctl("reload")
    try:
        yield
    finally:
        host.sql("alter system reset archive_command")
        host.pg_ctl("reload")


def test_the_old_primary_does_not_stop(lab: Lab) -> None:
    """A backend hangs, and repmgr gives up; a fast shutdown cannot be taken back, so it is ended, and serves again."""
    old, new = pair(lab)
    client = lab.start_client(patience=60)
    with repmgr_conf(new, "shutdown_check_timeout=5\n"), hanging(old):
        command, begun = started(lab, PHASES["switch"]), time.time()
        assert command.wait(300) == 1
        client.wait_for_write(time.time())
    client.stop()
    print(f"{client.longest_outage(begun):.1f} s without a write")
    is_served(lab, time.time())
    assert primary_of(lab) is old


def test_the_disk_of_the_target_is_full(lab: Lab) -> None:
    """It cannot be promoted, and dies; the old primary, which repmgr has stopped, serves again."""
    old, new = pair(lab)
    client = lab.start_client(patience=60)
    with repmgr_conf(new, "wal_receive_check_timeout=5\n"), small_disk(new) as fill:
        rests(lab)
        command = started(lab, PHASES["begin"])
        with stands_still(command):
            fill()
        begun = time.time()
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


@contextmanager
def stands_still(command: Popen[bytes]) -> Iterator[None]:
    """The command goes on when something else is done."""
    command.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        command.send_signal(signal.SIGCONT)


def test_the_command_was_stopped_for_longer_than_it_may_hold_clients(lab: Lab, pooler: Pooler) -> None:
    """It goes on where it was, and holds nobody: the service has taken back what it held, and what it holds late."""
    old, _ = pair(lab)
    # PgBouncer is paused when this transaction has ended: so long the command holds, and does not get any further.
    words = ("psql", "-XAtq", f"{pooler.way} user=app dbname=app", "-c", "select pg_sleep(601)")
    busy = lab.app.start(*words, user="postgres", log="busy")
    asleep = "select count(*) from pg_stat_activity where query = 'select pg_sleep(601)'"
    wait_for(lambda: old.sql(asleep) == "1", "the transaction")
    command = started(lab, PHASES["hold"])
    with stands_still(command):
        busy.terminate()
        time.sleep(HOLD_LIMIT + 5)
    assert command.wait(300) == 1
    busy.wait(60)
    is_served(lab, time.time())
    assert primary_of(lab) is old


@pytest.mark.parametrize("phase", ["hold", "switch"])
def test_the_primary_dies_while_clients_are_held(lab: Lab, phase: str) -> None:
    """It becomes a failover: repmgr or repmgrd promotes the standby, and the clients that waited go on there."""
    old, new = pair(lab)
    client = lab.start_client(patience=60)
    with hanging(old):  # else repmgr may have stopped it before it dies
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
