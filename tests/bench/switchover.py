"""What a planned change of the primary costs: with ``repmgr standby switchover`` alone, and with ours.

Run as root from the repository, with the package installed in .venv::

    .venv/bin/python -m tests.bench.switchover [--rounds N] [--times N] [--only ours|repmgr] [--json FILE]

Each switchover gets a fresh lab in a box of its own (``planned.py``), the sides in turn. Then comes the proof: there
and back, five times, under load (``there_and_back.py``). The exit code is 1 if a transaction failed or was lost in
that, or if the restore differed; it does not say whether ours was fast.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.bench.failover import machine_facts, run_one, say, take_snapshot
from tests.bench.table import short, spread
from tests.lab.contain import contain

ROUNDS, TIMES = 5, 5
RATIO_TARGET, HELD_TARGET = 1.5, 3.0
WAYS = (
    ("repmgr, article's port", "repmgr", "port"),
    ("repmgr, libpq's list of hosts", "repmgr", "libpq"),
    ("ours, port", "ours", "port"),
    ("ours, PgBouncer", "ours", "PgBouncer"),
)
Result = dict[str, Any]


def main() -> None:
    arguments = parse(sys.argv[1:])
    if os.geteuid() != 0:
        sys.exit("needs root: it makes network namespaces")
    contain([sys.executable, "-m", "tests.bench.switchover", *sys.argv[1:]])
    take_snapshot()
    results: list[Result] = []
    sides = [arguments.only] if arguments.only else ["repmgr", "ours"]
    jobs = sides * arguments.rounds
    for number, side in enumerate(jobs, 1):
        say(f"{number}/{len(jobs)} {side} ...")
        result = run_one("planned", side)
        results += [result] if result else []
        say(f"    {result or 'could not be measured'}")
    proof = None
    if arguments.times:
        say(f"{2 * arguments.times} switchovers under load ...")
        proof = run_one("there_and_back", str(arguments.times))
    machine = machine_facts()
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "each": results, "proof": proof}, indent=1) + "\n")
    print("\n".join([*table(results), *held_where(results), *shown(proof), *circumstances(results, machine)]))
    if len(results) < len(jobs) or (arguments.times and not (proof and good(proof))):
        sys.exit(1)


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.switchover", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=f"of each side (default {ROUNDS})")
    parser.add_argument("--times", type=int, default=TIMES, metavar="N", help=f"there and back (default {TIMES})")
    parser.add_argument("--only", choices=("repmgr", "ours"), help="measure one side only")
    parser.add_argument("--json", type=lambda name: Path(name).absolute(), metavar="FILE", help="keep every number")
    return parser.parse_args(argv)


def table(results: Sequence[Result]) -> list[str]:
    """Return what clients met, by their way, and what each side took."""
    lines = ["Medians (lowest-highest)", f"{'':<33}{'no write, s':>20}{'failed writes':>20}"]
    for text, side, way in WAYS:
        if seen := [result["ways"][way] for result in results if result["side"] == side]:
            failed = spread([float(each["failed"]) for each in seen])
            lines.append(f"{text:<33}{spread([each['longest'] for each in seen]):>20}{failed:>20}")
    for side in ("repmgr", "ours"):
        own = [result["repmgr"] for result in results if result["side"] == side and result["repmgr"] is not None]
        lines += [f"{side + ': stop to promotion, s':<33}{spread(own):>20}"] if own else []
    return [*lines, ""]


def held_where(results: Sequence[Result]) -> list[str]:
    """Return for how long ours held clients, where that went, and the targets."""
    ours = [result for result in results if result["side"] == "ours" and result["held"] and result["repmgr"]]
    if not ours:
        return []
    # By itself it looks once a second whether the primary has stopped; ours lets it look only then.
    alone = [result["repmgr"] for result in results if result["side"] == "repmgr" and result["repmgr"]]
    held = median(result["held"] for result in ours)
    ratio = held / median(alone or [result["repmgr"] for result in ours])
    lines = [f"ours: clients held, s{spread([r['held'] for r in ours]):>33}"]
    for what in ours[0]["parts"]:
        numbers = [result["parts"][what] for result in ours if what in result["parts"]]
        lines.append(f"  {what:<36}{spread(numbers):>15}")
    for text, number, limit in (
        ("held at most 1.5 x what repmgr takes by itself from stop to promotion", ratio, RATIO_TARGET),
        ("held at most 3 s", held, HELD_TARGET),
    ):
        lines.append(f"  {'PASS' if number <= limit else 'FAIL'}  {text}: {short(number)}")
    return [*lines, ""]


def good(proof: Result) -> bool:
    """True if nothing failed, nothing was lost, and the restore is the cluster."""
    return not proof["failed"] and not proof["lost"] and bool(proof["restored"])


def shown(proof: Result | None) -> list[str]:
    """Return what there and back under load has shown."""
    if proof is None:
        return []
    same = "equals the cluster" if proof["restored"] else "DIFFERS from the cluster"
    return [
        f"{proof['switchovers']} switchovers under 20 clients of pgbench through PgBouncer",
        f"  {proof['failed']} of {proof['transactions']} transactions failed, {proof['lost']} were lost",
        f"  clients held, s: {spread(proof['held'])}; longest without a write, s: {short(proof['longest'])}",
        f"  {'PASS' if good(proof) else 'FAIL'}  the restore {same}",
        "",
    ]


def circumstances(results: Sequence[Result], machine: dict[str, str]) -> list[str]:
    """Return what the numbers were measured on."""
    loads = [result["load"] for result in results] or [0.0]
    versions = ", ".join(f"{name} {value}" for name, value in machine.items() if name != "cores")
    return [f"{machine['cores']} cores, load {min(loads):.1f}-{max(loads):.1f} before each; {versions}"]


if __name__ == "__main__":
    main()
