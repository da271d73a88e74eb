"""The drill: a switchover there and back while a client writes, and its report, on three nodes with PgBouncer."""

from __future__ import annotations

import re
import signal
import subprocess
from xml.etree import ElementTree

import pytest

from tests.endtoend.looks import assert_nothing_lost, routes
from tests.endtoend.switchovers import is_good, nothing_left, rests, switchover
from tests.endtoend.test_check_wal import HOME, take_away, write
from tests.lab import Lab, wait_for
from tests.lab.barman import archive, back_up
from tests.lab.pgbouncer import Pooler

BETWEEN = "wait until node 1 can take its place again"


@pytest.fixture
def backed_up(pooled: tuple[Lab, Pooler]) -> tuple[Lab, Pooler]:
    """The same with a backup, and some WAL after it."""
    lab, _ = pooled
    back_up(lab, lab.db1)
    for _ in range(3):
        write(lab, 1)
        archive(lab, lab.db1)
    rests(lab)
    return pooled


def drill(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command; what it said is shown if the test fails."""
    result = lab.gateway.hooks("drill", "--to", "2", *words, limit=900)
    print(result.stdout, result.stderr)
    return result


def begun(lab: Lab, log: str) -> subprocess.Popen[bytes]:
    """Begin a drill, and wait until it has made node 2 the primary."""
    words = ("/usr/local/bin/repmgr-hooks", "drill", "--to", "2")
    running = lab.gateway.start("python3", "-c", INTERRUPTIBLE, *words, log=log)
    wait_for(lambda: BETWEEN in lab.gateway.log(log) or running.poll() is not None, "the way back to be due", 300)
    assert running.poll() is None, lab.gateway.log(log)
    return running


# What runs in the background of a shell, or of a test, may have been given an ignored SIGINT.
INTERRUPTIBLE = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


def test_a_drill_is_graded(backed_up: tuple[Lab, Pooler]) -> None:
    lab, pooler = backed_up
    client = lab.start_client(way=pooler.way)

    rehearsed = drill(lab, "--rehearse")
    assert rehearsed.returncode == 0
    assert "then the same back: node 1 would take the place of node 2" in rehearsed.stdout
    assert routes(lab)[54322] == lab.db1.address
    assert nothing_left(lab)

    passed = drill(lab, "--html", "/tmp/drill.html")
    assert passed.returncode == 0
    assert passed.stdout.splitlines()[-1] == "main: drill PASSED: node 1 is the primary"
    assert re.search(r"0 of \d{2,} acknowledged transactions are lost \(limit 0\)", passed.stdout)
    assert re.search(r"PgBouncer \S+:6432, database app: 0 of \d{2,} transactions failed \(limit 0\)", passed.stdout)
    assert len(re.findall(r"clients were held for \d+\.\d s \(limit 30 s\)", passed.stdout)) == 2
    assert "Barman's WAL is whole" in passed.stdout
    assert "no checkpoint beforehand" not in passed.stdout
    page = ElementTree.fromstring(lab.gateway.path("/tmp/drill.html").read_text().partition("\n")[2])
    assert "drill PASSED" in "".join(page.itertext())
    is_good(lab, lab.db2, lab.db1)

    running = begun(lab, "drill2")
    assert pooler.process is not None
    pooler.signal(signal.SIGKILL)
    pooler.start()
    assert running.wait(900) == 1, lab.gateway.log("drill2")
    said = lab.gateway.log("drill2")
    print(said)
    assert said.splitlines()[-1] == "main: drill FAILED: node 1 is the primary"
    failed = [line for line in said.splitlines() if line.startswith("FAIL ")]
    assert len(failed) == 1
    assert re.match(r"FAIL  drill\.failed  .*database app: [1-9]\d* of \d+ transactions failed \(limit 0\)", failed[0])
    is_good(lab, lab.db2, lab.db1)

    running = begun(lab, "drill3")
    running.send_signal(signal.SIGINT)
    assert running.wait(300) == 1
    said = lab.gateway.log("drill3")
    back = "node 2 is the primary now; to reverse this: repmgr-hooks switchover --cluster main --to 1"
    assert said.splitlines()[-1] == f"main: drill INTERRUPTED: {back}"
    wait_for(lambda: nothing_left(lab), "all to be taken back")
    rests(lab)
    assert switchover(lab, "--to", "1").returncode == 0
    is_good(lab, lab.db2, lab.db1)
    assert_nothing_lost(client, lab.db1)

    names = lab.gateway.run("find", f"{HOME}/wals", "-name", "00000001*[0-9A-F]").split()
    take_away(lab, max(path.rpartition("/")[2] for path in names))
    hindered = drill(lab, "--rehearse")
    assert hindered.returncode == 1
    assert re.search(r"FAIL  switchover\.wal .*MISSING 00000001", hindered.stdout)
