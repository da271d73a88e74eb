"""What the hook costs repmgrd: `repmgr-hooks event` as a whole process, beside a bare Python of the same interpreter.

Run from the repository: ``.venv/bin/python -m tests.bench.hook [--rounds N]``. Needs no root and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from repmgr_hooks.hook import WAKE

EVENT = ("2", "standby_promote", "1", "", "2026-11-20 03:00:00+00")
TARGET = 1.15
LIMIT = 30


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.hook")
    parser.add_argument("--rounds", type=int, default=100)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as place:
        print(report(*measure(Path(place), rounds)))


def measure(place: Path, rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Return the seconds of each round: bare Python, the package's modules loaded only, the whole hook."""
    spool = place / "state/spool"
    spool.mkdir(parents=True)
    config = place / "config.yaml"
    config.write_text(f"state_dir: {place}/state\n")
    os.mkfifo(spool / WAKE)
    listener = os.open(spool / WAKE, os.O_RDWR | os.O_NONBLOCK)
    script = str(Path(sys.executable).parent / "repmgr-hooks")
    commands = (
        [sys.executable, "-c", "pass"],
        [sys.executable, "-P", "-c", "import repmgr_hooks.hook"],
        [script, "--config", str(config), "event", *EVENT],
    )
    taken: tuple[list[float], list[float], list[float]] = ([], [], [])
    for _ in range(rounds):
        for command, seconds in zip(commands, taken, strict=True):
            seconds.append(run(command))
    os.close(listener)
    assert len(list(spool.iterdir())) == rounds + 1, "every event must be in the spool"
    return taken


def run(command: list[str]) -> float:
    """Return the seconds that a command takes. It is waited for without a time-out of subprocess, which polls in steps
    of up to 16 ms and would measure those; the alarm is the limit."""
    signal.alarm(LIMIT)
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    code = process.wait()
    taken = time.perf_counter() - begun
    signal.alarm(0)
    assert code == 0, command
    return taken


def report(bare: list[float], loaded: list[float], hook: list[float]) -> str:
    """Return the table."""
    pairs = sorted(ours / theirs for ours, theirs in zip(hook, bare, strict=True))
    lines = [f"{len(bare)} paired runs, milliseconds (median)"]
    for text, seconds in (("python3 -c pass", bare), ("... and our modules", loaded), ("repmgr-hooks event", hook)):
        lines.append(f"  {text:24}{1000 * median(seconds):8.1f}")
    ratio = median(pairs)
    decision = "PASS" if ratio <= TARGET else "FAIL"
    return "\n".join([*lines, f"  {decision}  ratio at most {TARGET}: {ratio:.2f} (median of the pairs)"])


if __name__ == "__main__":
    main()
