"""One fault of a disk, a log, a plug-in, or a flood of events: the ports follow the failover all the same."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.endtoend.looks import routes
from tests.endtoend.test_gateway import quicken
from tests.lab import CONFIG_FILE, Lab, must, wait_for, wait_for_answer

STATE = "/var/lib/repmgr-hooks"
FOLLOWED = {54321: "10.0.0.12", 54322: "10.0.0.12"}
LIMIT = 60.0
"""Seconds for repmgrd (3), our look (5), the gate as shipped (6), and a machine with other work."""
PLUG_IN = """
import sys, time
from dataclasses import dataclass
from repmgr_hooks.handlers import contract
from repmgr_hooks.handlers.contract import (
    always_valid as validate, each_gateways_own as shared, fence_nothing as fence, looks_on_tick as on_tick,
    never_fails_open as fail_open_after, never_helps as helper, no_fingerprint as fingerprint,
    no_housekeeping as housekeep, no_warnings as warnings
)

@dataclass(frozen=True)
class Config:
    how: str

def observe(config, state, host):
    if state.primary != 1:
        print("the plug-in is asked", file=sys.stderr)
        sys.exit(1) if config.how == "exits" else time.sleep(3600)

def plan(config, state, seen):
    return []
"""


def fail_over(lab: Lab, limit: float = LIMIT) -> None:
    """Stop db1, and wait until both ports lead to db2."""
    fault = time.monotonic()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: routes(lab) == FOLLOWED, "the ports to lead to db2", limit)
    print(f"both ports led to db2 after {time.monotonic() - fault:.1f} s")


def end_worker(lab: Lab, how: signal.Signals = signal.SIGTERM) -> int:
    daemon = lab.daemons.pop("worker")
    daemon.send_signal(how)
    return daemon.wait(90)


@contextmanager
def full_pipe() -> Iterator[int]:
    """What nobody reads."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x")
    os.set_blocking(writer, True)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


# -- output that nobody reads ------------------------------------------------------------------------------------------


def test_a_service_whose_log_nobody_reads(lab: Lab) -> None:
    end_worker(lab)
    with full_pipe() as nobody:
        lab.start_worker(output=nobody)
        fail_over(lab)
        assert end_worker(lab) == 0


@pytest.mark.parametrize("command", ["event", "reconcile"])
def test_a_command_whose_output_nobody_reads(lab: Lab, command: str) -> None:
    """It lets the cluster go, and ends."""
    with full_pipe() as nobody:
        words = lab.gateway.argv(["/usr/local/bin/repmgr-hooks", command, *(["-"] if command == "event" else [])])
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=nobody, stderr=nobody)
        assert process.stdin
        with suppress(BrokenPipeError):  # `reconcile` reads nothing, and may have ended
            process.stdin.write(b"main\n1\nprimary_register\n")
            process.stdin.close()
        fail_over(lab)
        process.wait(90)


def test_who_holds_the_lock_is_shown(lab: Lab) -> None:
    """A process that somebody has stopped holds it until he lets it go on."""
    end_worker(lab)
    lab.put(lab.gateway, "/usr/local/bin/barman", "#!/bin/sh\nsleep 20\nexit 1\n", 0o755)
    lab.gateway.wipe_nat()
    held = lab.gateway.start("/usr/local/bin/repmgr-hooks", "reconcile", "--cluster", "main", log="held")
    wait_for(lambda: "route" in lab.gateway.log("held") or "lead port" in lab.gateway.log("held"), "its first step")
    held.send_signal(signal.SIGSTOP)
    shown = lab.gateway.hooks("status").stdout
    assert "lock: held by process" in shown
    assert "(repmgr-hooks reconcile --cluster main) since" in shown
    held.kill()


# -- the state directory -----------------------------------------------------------------------------------------------


@contextmanager
def own_disk(lab: Lab, options: str) -> Iterator[Path]:
    """The state directory is on a disk of its own, and the service is not there yet."""
    end_worker(lab)
    state = lab.gateway.path(STATE)
    must("mount", "-t", "tmpfs", "-o", f"{options},mode=0755", "tmpfs", str(state))
    try:
        lab.gateway.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/repmgr-hooks.conf")
        yield state
    finally:
        must("umount", "-l", str(state))


@pytest.mark.parametrize("used_before", [False, True], ids=["never used", "used before"])
def test_a_service_that_starts_on_a_disk_that_can_only_be_read(lab: Lab, used_before: bool) -> None:
    with own_disk(lab, "size=8m") as state:
        if used_before:
            lab.start_worker()
            end_worker(lab)
        must("mount", "-o", "remount,ro", str(state))
        lab.start_worker()
        fail_over(lab)
        wait_for(lambda: "the spool" in lab.gateway.log("worker"), "the word of it")
        wait_for(lambda: "Read-only file system" in lab.gateway.log("worker"), "the reason")
        status = lab.gateway.hooks("status")
        assert status.returncode == 1
        assert "primary is node 2" in status.stdout
        assert "read-only file system" in status.stderr or "the journal" in status.stderr
        for command in ("reconcile", "boot"):
            wait_for_answer(lambda c=command: lab.gateway.hooks(c).stdout, nothing_to_do, "nothing to be left")  # type: ignore[misc]
        told = lab.gateway.hooks("event", "--cluster", "main", "2", "standby_promote", user="postgres")
        assert told.returncode == 0
        assert "Read-only file system" in told.stderr


def nothing_to_do(said: str) -> bool:
    return "nothing to do" in said


def removed(place: Path) -> bool:
    """True if a directory is gone; what somebody writes into it meanwhile goes with the next try."""
    shutil.rmtree(place, ignore_errors=True)
    return not place.exists()


def test_a_state_directory_that_is_removed_under_the_service(lab: Lab) -> None:
    wait_for(lambda: removed(lab.gateway.path(STATE)), "the directory to be gone")
    fail_over(lab)
    wait_for(lambda: "the spool" in lab.gateway.log("worker"), "the word of it")
    assert lab.daemons["worker"].poll() is None


def test_a_disk_without_room_for_a_file(lab: Lab) -> None:
    with own_disk(lab, "size=8m,nr_inodes=12") as state:
        lab.start_worker()
        fill(state)
        fail_over(lab)

        def said() -> str:
            fill(state)
            return lab.gateway.hooks("status").stderr

        wait_for_answer(said, lambda text: "no room for another file" in text, "status to say so")


def fill(place: Path) -> None:
    """Take what there is; a file that the service had for a moment, and took away, makes room for another."""
    with suppress(OSError):
        while True:
            (place / f"fill{time.monotonic_ns()}").touch()


# -- the journal -------------------------------------------------------------------------------------------------------

OPENED = f"import sqlite3, time; db = sqlite3.connect('{STATE}/journal.db', timeout=60, isolation_level=None)"


def test_a_journal_that_is_locked_all_the_time(lab: Lab) -> None:
    """As by a copy that somebody makes; the service waits for it 2 s in all."""
    hold = f"{OPENED}; db.execute('begin exclusive'); print('held', flush=True); time.sleep(86400)"
    holder = lab.gateway.start("/opt/repmgr-hooks/bin/python", "-c", hold, log="holder")
    wait_for(lambda: "held" in lab.gateway.log("holder"), "the lock")
    fail_over(lab)
    assert holder.poll() is None
    wait_for(lambda: "database is locked" in lab.gateway.log("worker"), "the word of it")
    holder.kill()


def test_a_pause_is_heeded_by_a_service_that_starts_while_the_journal_is_locked(lab: Lab) -> None:
    assert lab.gateway.hooks("pause", "--reason", "upgrade").returncode == 0
    end_worker(lab)
    hold = f"{OPENED}; db.execute('pragma locking_mode=exclusive'); db.execute('begin exclusive')"
    hold += "; db.execute('insert into pause values (1,1,1,1)'); print('held', flush=True); time.sleep(86400)"
    holder = lab.gateway.start("/opt/repmgr-hooks/bin/python", "-c", hold, log="holder")
    wait_for(lambda: "held" in lab.gateway.log("holder"), "the lock")
    lab.start_worker()
    lab.gateway.wipe_nat()
    time.sleep(15)
    assert routes(lab) == {}
    holder.kill()
    holder.wait(90)
    assert lab.gateway.hooks("resume").returncode == 0
    wait_for(lambda: len(routes(lab)) == 2, "the ports")


# -- plug-ins ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exits", "hangs"])
def test_a_plug_in_that_ends_the_program_or_never_returns(lab: Lab, how: str) -> None:
    end_worker(lab)
    site, info = "/opt/site", "/opt/site/hooks_odd-1.0.dist-info"
    lab.put(lab.gateway, f"{site}/hooks_odd.py", PLUG_IN)
    lab.put(lab.gateway, f"{info}/METADATA", "Metadata-Version: 2.1\nName: hooks-odd\nVersion: 1.0\n")
    lab.put(lab.gateway, f"{info}/entry_points.txt", "[repmgr_hooks.handlers]\nodd = hooks_odd\n")
    config = lab.gateway.path(CONFIG_FILE)
    text = config.read_text()
    first = text.index("- slot: {on: primary}")
    config.write_text(f"{text[:first]}- odd: {{how: {how}}}\n          {text[first:]}")
    quicken(lab, fail_open_after=6)
    lab.start_worker(f"PYTHONPATH={site}")
    fail_over(lab, LIMIT + 10)
    wait_for(lambda: "handler odd" in lab.gateway.log("worker"), "the word of it")
    assert "the plug-in is asked" in lab.gateway.log("worker")
    assert lab.daemons["worker"].poll() is None


# -- floods ------------------------------------------------------------------------------------------------------------

FLOOD = """
import os
number = 0
while True:
    number += 1
    hidden = "/var/lib/repmgr-hooks/spool/.x"
    with open(hidden, "w") as file:
        file.write("main\\n1\\nstandby_promote\\n")
    os.chmod(hidden, 0o640)
    os.rename(hidden, f"/var/lib/repmgr-hooks/spool/{number:020d}-1")
"""


@pytest.mark.parametrize("starts", [False, True], ids=["it runs", "it starts"])
def test_a_failover_beside_a_flood_of_events(lab: Lab, starts: bool) -> None:
    if starts:
        end_worker(lab)
    flood = lab.gateway.start("/opt/repmgr-hooks/bin/python", "-c", FLOOD, user="postgres", log="flood")
    time.sleep(5)
    if starts:
        lab.start_worker()
    try:
        fail_over(lab, LIMIT + 10)
        assert flood.poll() is None
    finally:
        flood.kill()
    size = sum(file.stat().st_size for file in lab.gateway.path(STATE).glob("journal.db*"))
    print(f"the journal has {size:,} bytes")
    assert size < 30e6
    wait_for(lambda: len(list(lab.gateway.path(f"{STATE}/spool").iterdir())) <= 2, "the spool to be empty", 120)


# -- what a process has --------------------------------------------------------------------------------------------


def test_a_configuration_that_is_read_again_and_again(lab: Lab) -> None:
    process = lab.daemons["worker"]

    def held() -> int:
        return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))

    def read_again(times: int) -> None:
        for _ in range(times):
            before = lab.gateway.log("worker").count("has been read again")
            process.send_signal(signal.SIGHUP)
            wait_for(lambda b=before: lab.gateway.log("worker").count("has been read again") > b, "the configuration")

    read_again(2)
    time.sleep(2)
    before = held()
    read_again(20)
    wait_for(lambda: held() <= before + 3, f"at most {before} descriptors")
    fail_over(lab)


def at_rest(lab: Lab) -> int:
    """The descriptors that the service has between its looks, while no client of its own is on its way."""
    place, counted = Path(f"/proc/{lab.daemons['worker'].pid}/fd"), []
    looked, looks = lab.gateway.path(f"{STATE}/cluster-main.looked"), set()

    def has_looked_again() -> bool:
        counted.append(len(list(place.iterdir())))
        looks.add(looked.stat().st_mtime_ns)
        return len(looks) > 2

    wait_for(looked.exists, "the first look")
    wait_for(has_looked_again, "two looks", every=0.05)
    return min(counted)


def test_a_service_without_descriptors_ends_to_be_started_anew(lab: Lab) -> None:
    used = at_rest(lab)
    end_worker(lab)
    lab.start_worker("prlimit", f"--nofile={used + 4}")
    assert lab.daemons.pop("worker").wait(180) == 1
    assert "this process cannot go on" in lab.gateway.log("worker")
    lab.start_worker()
    fail_over(lab)
