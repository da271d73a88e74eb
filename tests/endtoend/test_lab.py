"""The lab itself: a run that is killed leaves nothing that breaks the next one. Runs inside a box, kills another."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endtoend.conftest import fresh_lab, needs_box
from tests.lab import BASE, PYTHON, REPOSITORY, Lab, layers, template, wait_for
from tests.lab.barman import back_up
from tests.lab.booted import Machine, is_up
from tests.lab.contain import outside

BUILD = """
import time
from tests.lab import Lab
lab = Lab()
lab.build()
lab.start_cron()
print("built", flush=True)
time.sleep(600)
"""


# A box by itself, and as tests/all.py starts one for a file of tests; each with a program of a length that is its own.
BOXES = {
    "box": "from tests.lab.contain import contain; contain(['sleep', '{length}'])",
    "all": "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "from tests.all import BOX, run; run((*BOX, 'sleep', '{length}'))",
}


def processes() -> set[str]:
    """The command lines of everything that runs here and below."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                found.add((entry / "cmdline").read_text().replace("\0", " "))
            except OSError:
                continue
    return found


def shared_memory() -> list[str]:
    """What PostgreSQL leaves when it is killed: System V segments, by key, and POSIX ones."""
    segments = [line.split()[0] for line in Path("/proc/sysvipc/shm").read_text().splitlines()]
    return segments + sorted(entry.name for entry in Path("/dev/shm").iterdir())


def test_killed_lab_leaves_nothing() -> None:
    needs_box()
    mounts, memory, before = Path("/proc/mounts").read_text(), shared_memory(), processes()
    box = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/lab/contain.py"), sys.executable, "-c", BUILD],
        stdout=subprocess.PIPE,
        env={**outside(), "PYTHONPATH": str(REPOSITORY)},
        text=True,
    )
    assert box.stdout is not None
    assert box.stdout.readline() == "built\n"
    assert any("postgres" in line for line in processes() - before)
    assert box.poll() is None

    box.send_signal(signal.SIGKILL)
    box.wait(90)

    wait_for(lambda: not processes() - before, "the processes to be gone")
    assert Path("/proc/mounts").read_text() == mounts
    assert shared_memory() == memory
    assert subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True, timeout=10).stdout == ""
    assert not [link for link in Path("/sys/class/net").iterdir() if link.name in ("lan", "db1", "db2")]


@pytest.mark.parametrize(
    "how", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL], ids=lambda how: how.name
)
@pytest.mark.parametrize("starter", BOXES)
def test_a_box_ends_with_whoever_started_it(starter: str, how: signal.Signals) -> None:
    needs_box()
    length = f"10000.{list(BOXES).index(starter)}{how:02}"
    # Who runs the tests may ignore SIGHUP (nohup), and what he starts inherits that.
    usual = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    words = [sys.executable, "-c", usual + BOXES[starter].format(length=length)]
    process = subprocess.Popen(words, cwd=REPOSITORY, env=outside())
    wait_for(lambda: f"sleep {length} " in processes(), "the program in the box")
    process.send_signal(how)
    assert process.wait(90) == -how
    wait_for(lambda: not any(length in line for line in processes()), "the box to be gone")


def test_two_hosts_share_no_temporary_files() -> None:
    """``repmgr node rejoin`` keeps files in /tmp; of two labs side by side one lost the other's."""
    with fresh_lab() as lab:
        lab.make_network()
        lab.make_directories()
        for place in ("/tmp", "/var/tmp"):
            lab.db1.run("mktemp", "-p", place, "only-db1-XXXX", user="postgres")
            assert lab.db2.run("ls", place) == ""
            assert not list(Path(place).glob("only-db1-*"))


@pytest.mark.parametrize("newest", [False, True], ids=["Debian's Barman", "the newest Barman"])
def test_barman_says_its_version_as_without_the_lab(newest: bool) -> None:
    program = REPOSITORY / ".venv-barman/bin/barman" if newest else Path("/usr/bin/barman")
    with fresh_lab(newest_barman=newest) as lab:
        lab.make_network()
        lab.make_directories()
        theirs = subprocess.run([program, "--version"], capture_output=True, text=True, check=True, timeout=60)
        assert lab.gateway.barman("--version") == theirs.stdout
        assert theirs.stdout.startswith("{}.{}.".format(*lab.barman))


def test_what_labs_begin_with_stays_as_it_is() -> None:
    """A test may write over it, rename its directories (a pg_wal that comes to another disk) and remove it."""
    needs_box()
    below, host = Path("/run/begins-with"), BASE / "db1"
    (below / "pg_wal").mkdir(parents=True)
    (below / "pg_wal/1").write_text("as made")
    shutil.chown(below, "postgres", "postgres")
    below.chmod(0o750)
    for _ in range(2):
        layers.mount(below, host)
        assert (host.owner(), host.stat().st_mode & 0o777) == ("postgres", 0o750)
        assert (host / "pg_wal/1").read_text() == "as made"
        (host / "pg_wal").rename(host / "kept")
        (host / "kept/1").write_text("changed")
        (host / "pg_wal").mkdir()
        shutil.rmtree(host / "kept")
        assert [file.name for file in host.iterdir()] == ["pg_wal"]
        layers.empty()
        assert not list(BASE.iterdir())
    assert [file.read_text() for file in below.rglob("*") if file.is_file()] == ["as made"]


def test_a_machine_that_is_still_being_made_is_not_up() -> None:
    """nspawn changes the root directory before it mounts /proc; a test that began then was refused by systemctl."""
    needs_box()
    command = "mount -t tmpfs tmpfs /proc; echo; exec sleep 600"
    words = ("unshare", "--mount", "--propagation", "private", "sh", "-ec", command)
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"\n"
            assert not is_up(Machine(process.pid))
        finally:
            process.kill()


class ByHand(Lab):
    """One that begins with nothing that another has left."""


def left(lab: Lab) -> dict[str, object]:
    """What ``reconcile`` has left: files with their owners (not those that come with time), rules, slots, runs."""
    files = set()
    for place in template.STATE:
        for file in lab.gateway.path(place).rglob("*"):
            if not re.search(r"wals|/[0-9A-F]{24}|/\d{8}T\d{6}|\.(lock|looked)$|-(wal|shm)$|identity", str(file)):
                files.add((str(file), file.owner(), file.group(), oct(file.stat().st_mode)))
    runs = json.loads(lab.gateway.hooks("history", "--json").stdout)
    slots = "select slot_name, active, wal_status from pg_replication_slots"
    return {
        "files": files,
        "rules": lab.gateway.nat(),
        "slots": [host.sql(slots) for host in lab.databases],
        "runs": [(run["cause"], run["ok"], [step["what"] for step in run["steps"]]) for run in runs],
        "content": "nothing to do" in lab.gateway.hooks("reconcile", "--dry-run").stdout,
    }


@pytest.mark.parametrize(
    ("six", "backend"), [(False, "iptables"), (False, "nftables"), (True, "iptables")], ids=["iptables", "nft", "ipv6"]
)
def test_a_lab_that_begins_as_another_was_left_is_as_one_made_by_hand(six: bool, backend: str) -> None:
    needs_box()
    looks = []
    first = [] if template.service_is_kept(Lab(six=six, backend=backend)) else [Lab]
    for made in (*first, ByHand, Lab):
        with made(six=six, backend=backend) as lab:
            assert lab.kept_as_a_whole == (made is Lab)
            lab.open(repmgrd=False)
            if made is ByHand:
                back_up(lab, lab.db1)
            looks.append(left(lab))
            assert lab.psql_app("insert into work default values").returncode == 0
    assert looks[1:] == looks[:-1]


def test_what_a_command_was_doing_when_its_time_was_up_is_told() -> None:
    with fresh_lab() as lab:
        lab.make_network()
        lab.make_directories()
        with pytest.raises(subprocess.TimeoutExpired) as late:
            lab.gateway.run(PYTHON, "-c", "import time\ndef sleeps(): time.sleep(987)\nsleeps()", limit=5)
        (note,) = late.value.__notes__
        assert "time.sleep(987)" in note, "what ran"
        assert "line 2 in sleeps" in note, "where it was"
