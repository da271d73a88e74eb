"""The lab itself: a run that is killed leaves nothing that breaks the next one. Runs inside a box, kills another."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import REPOSITORY, wait_for
from tests.lab.contain import MARK, contained

BUILD = """
from tests.lab import Lab
lab = Lab()
lab.build()
lab.start_cron()
print("built", flush=True)
time.sleep(600)
"""


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


def test_killed_lab_leaves_nothing() -> None:
    if not contained():
        pytest.skip("the lab needs its box: use tests/run")
    mounts, before = Path("/proc/mounts").read_text(), processes()
    environment = {key: value for key, value in os.environ.items() if key != MARK}
    box = subprocess.Popen(
        [sys.executable, str(REPOSITORY / "tests/lab/contain.py"), sys.executable, "-c", BUILD],
        stdout=subprocess.PIPE,
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        text=True,
    )
    assert box.stdout is not None
    assert box.stdout.readline() == "built\n"
    assert any("postgres" in line for line in processes() - before)

    box.send_signal(signal.SIGKILL)
    box.wait(10)

    wait_for(lambda: not processes() - before, "the processes to be gone", 10)
    assert Path("/proc/mounts").read_text() == mounts
    assert subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True, timeout=10).stdout == ""
    assert not [link for link in Path("/sys/class/net").iterdir() if link.name in ("lan", "db1", "db2")]
