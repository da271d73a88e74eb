"""What a command costs before it asks anybody: its CPU time as a process, beside a bare Python in the same rounds.

Run from the repository: ``.venv/bin/python -m tests.bench.commands [--rounds N]``. Needs no root and no cluster, and
leaves nothing behind. CPU time, for that is what a start takes, and what others do on the machine does not count.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

CONFIG = Path(__file__).resolve().parents[2] / "config/config.yaml"
PROGRAM = str(Path(sys.executable).parent / "repmgr-hooks")
BARE = "python3 -c pass"
TARGET = 5.0
LIMIT = 60
ASK_NOBODY = ("--help", "no-such-command", "pause --for never", "history", "handlers", "pause")
"""These begin and end within ``TARGET``; the second and third are mistakes."""
IMPORTED = {"status, metrics": "show", "reconcile, replay": "act", "worker": "serve", "check": "examine"}
"""Of the others, what they import before they ask the cluster."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.commands")
    parser.add_argument("--rounds", type=int, default=25)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as place:
        print(report(measure(Path(place), rounds)))


def measure(place: Path, rounds: int) -> dict[str, list[float]]:
    """Return the CPU seconds of each command in each round."""
    config = place / "config.yaml"
    config.write_text(CONFIG.read_text().replace("/var/lib/repmgr-hooks", str(place)))
    commands = {BARE: [sys.executable, "-c", "pass"]}
    commands |= {words: [PROGRAM, "--config", str(config), *words.split()] for words in ASK_NOBODY}
    commands |= {
        f"imports of {name}": [sys.executable, "-P", "-c", f"import repmgr_hooks.cli.{module}"]
        for name, module in IMPORTED.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, argv in commands.items():
            seconds[name].append(cpu_of(argv))
    return {name: taken[1:] for name, taken in seconds.items()}  # the first round may compile modules


def cpu_of(argv: list[str]) -> float:
    """Return the CPU seconds, user and system, of a process and of those that it has started and waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def report(seconds: dict[str, list[float]]) -> str:
    """Return the table: medians, and the median of the ratios in the same round."""
    lines = [f"{len(seconds[BARE])} rounds, CPU time", f"{'':32}{'ms':>8}{'x bare':>8}"]
    for name, taken in seconds.items():
        ratio = median(ours / bare for ours, bare in zip(taken, seconds[BARE], strict=True))
        decision = ("  PASS" if ratio <= TARGET else "  FAIL") if name in ASK_NOBODY else ""
        lines.append(f"{name:32}{1000 * median(taken):8.1f}{ratio:8.1f}{decision}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
