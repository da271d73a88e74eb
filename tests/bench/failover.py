"""How long a failover takes with repmgr_hooks, and with the article's own scripts, on the same real cluster.

Run as root from the repository, with the package installed in .venv::

    .venv/bin/python -m tests.bench.failover [--rounds N] [--only ours|article] [--json FILE]

Each failover gets a fresh lab in a box of its own (``measure.py``). Nothing is left behind. The exit code says whether
it ran, not whether it was fast.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tests.bench.table import report
from tests.lab import REPOSITORY, must
from tests.lab.contain import MARK, contain
from tests.lab.versions import BINARIES

SNAPSHOT = Path("/srv/repository")
LIMIT = 900  # seconds for one failover, with its lab
ROUNDS = 5
CRON_MINUTE = 60

Job = tuple[str, str]


def main() -> None:
    arguments = parse(sys.argv[1:])
    if os.geteuid() != 0:
        sys.exit("needs root: it makes network namespaces")
    contain([sys.executable, "-m", "tests.bench.failover", *sys.argv[1:]])
    take_snapshot()
    machine, results, broken = machine_facts(), [], 0
    jobs = schedule(arguments.rounds, arguments.only)
    for number, (side, fault) in enumerate(jobs, 1):
        say(f"{number}/{len(jobs)} {side}, db1 {fault} ...")
        result = run_one("measure", side, fault, f"{random.uniform(0, CRON_MINUTE):.1f}")
        broken += result is None
        results += [result] if result else []
        say(f"    {summary(result)}")
        if arguments.json:
            arguments.json.write_text(json.dumps({"machine": machine, "failovers": results}, indent=1) + "\n")
    print(report(results, machine))
    if broken:
        sys.exit(f"{broken} of {len(jobs)} failovers could not be measured; see above")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.failover", description=(__doc__ or "").split("\n")[0])
    text = f"failovers of ours with db1 stopped (default {ROUNDS}); the article, which is slow, gets 2 for each 5"
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=text)
    parser.add_argument("--only", choices=("article", "ours"), help="measure one side only")
    parser.add_argument("--json", type=lambda name: Path(name).absolute(), metavar="FILE", help="keep every number")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def take_snapshot() -> None:
    """Copy the repository into the box, so that all rounds measure the same code while somebody goes on working."""
    must("mount", "-t", "tmpfs", "tmpfs", str(SNAPSHOT.parent))
    shutil.copytree(REPOSITORY, SNAPSHOT, symlinks=True, ignore=shutil.ignore_patterns(".git", ".*_cache"))


def schedule(rounds: int, only: str | None) -> list[Job]:
    """Return what to measure, the sides in turn so that both meet the same disturbances.

    >>> schedule(3, None)[:3]
    [('ours', 'stopped'), ('article', 'stopped'), ('ours', 'stopped')]
    """
    ours = [("ours", "stopped")] * rounds
    article = [("article", "stopped")] * max(1, round(rounds * 2 / 5))
    jobs = [job for pair in zip_longest(ours, article) for job in pair if job]
    jobs += [("ours", "unplugged"), ("article", "unplugged")]
    return [job for job in jobs if only in (None, job[0])]


def run_one(module: str, *arguments: str) -> dict[str, Any] | None:
    """Measure one failover in its own box; None, and on stderr why, if that did not work."""
    words = (str(SNAPSHOT / ".venv/bin/python"), "-m", f"tests.bench.{module}", *arguments)
    outside = {name: value for name, value in os.environ.items() if name != MARK}
    try:
        ended = subprocess.run(
            words, cwd=SNAPSHOT, env=outside, capture_output=True, text=True, timeout=LIMIT, check=True
        )
    except subprocess.SubprocessError as error:
        say(f"{error}\n{getattr(error, 'stderr', '') or ''}")
        return None
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


def summary(result: dict[str, Any] | None) -> str:
    if result is None:
        return "could not be measured"
    outage = "hung" if result["outage"] is None else f"{result['outage']:.1f} s without a write"
    return f"{outage}; promotion to app port {result['promotion_to_port']} s; load {result['load']}"


def machine_facts() -> dict[str, str]:
    """Return what the numbers depend on."""
    return {
        "cores": str(os.cpu_count()),
        "PostgreSQL": version(f"{BINARIES}/postgres"),
        "repmgr": version("repmgr"),
        "Barman": version("barman"),
        "repmgr_hooks": fingerprint(),
    }


def version(program: str, option: str = "--version") -> str:
    """Return the version that a program prints."""
    found = re.search(r"\d+(\.\d+)+", must(program, option))
    return found[0] if found else "?"


def fingerprint() -> str:
    """Return the version of the installed package and, since that rarely changes, a few digits of its hash."""
    (package,) = SNAPSHOT.glob(".venv/lib/python3*/site-packages/repmgr_hooks")
    (metadata,) = package.parent.glob("repmgr_hooks-*.dist-info")
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(package.rglob("*.py"))))
    return f"{metadata.name.split('-')[1].removesuffix('.dist')} ({digest.hexdigest()[:8]})"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
