"""How long clients cannot write in a failover with repmgr_hooks, and with what a user would pick instead.

Run as root from the repository, with the package installed in .venv::

    .venv/bin/python -m tests.bench.pick [--rounds N] [--json FILE]

The clients look at the same failovers, side by side (``beside.py``): one comes through our app port, one through
HAProxy, and the others are led by libpq alone. Each failover gets a fresh lab. The exit code says whether it ran.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

from tests.bench.beside import WAYS
from tests.bench.failover import LIMIT, machine_facts, run_one, say, take_snapshot, version
from tests.bench.table import Results, Row, chosen, circumstances, middle, ratio, spread, target
from tests.lab import REPOSITORY
from tests.lab.contain import contain, contained

ROUNDS = 5
INSTALL = ". tests/setup.sh; install_packages"
SIDES = {"reserved": "reserved", "streaming": "streaming", "ours": "archived", "article": "article"}
FAULTS = {"stopped": "db1 stopped (-m immediate)", "unplugged": "db1 unplugged"}
FIGURES = (
    Row("fault to promotion", "promotion"),
    Row("promotion to port open", "promotion_to_port"),
    Row("client: app port", "ours"),
    Row("client: HAProxy", "haproxy"),
    Row("client: libpq", "libpq"),
    Row("client: libpq, time-outs", "timeouts"),
    Row("client: libpq, synchronous", "synchronous"),
)
RATIOS = (
    Row("HAProxy / app port", "haproxy"),
    Row("libpq / app port", "libpq"),
    Row("libpq, time-outs / app port", "timeouts"),
)
NOTES = (
    "HAProxy checks the role each second: inter 1s fall 2 rise 1 on-marked-down shutdown-sessions.",
    "libpq: both nodes, target_session_attrs=read-write connect_timeout=2; time-outs: tcp_user_timeout=10000.",
    "synchronous: time-outs too, and commits wait for Barman; the others write with synchronous_commit=local.",
)
PORT_TARGETS = {"reserved": 0.5, "streaming": 3.5, "ours": 4.5}
BEHIND_LIBPQ_TARGET = 0.3
BEHIND_HAPROXY_TARGET = 0.5

Job = tuple[str, str, tuple[str, ...]]


def main() -> None:
    arguments = parse(sys.argv[1:])
    if os.geteuid() != 0:
        sys.exit("needs root: it makes network namespaces")
    if not contained():
        subprocess.run(["bash", "-c", INSTALL], cwd=REPOSITORY, check=True, stdin=subprocess.DEVNULL, timeout=LIMIT)
    contain([sys.executable, "-m", "tests.bench.pick", *sys.argv[1:]])
    take_snapshot()
    machine, results, jobs = machine_facts() | {"HAProxy": version("haproxy", "-v")}, [], schedule(arguments.rounds)
    jobs = [job for job in jobs if not arguments.only or SIDES[job[0]] in arguments.only]
    for number, (side, fault, ways) in enumerate(jobs, 1):
        say(f"{number}/{len(jobs)} {SIDES[side]}, db1 {fault} ...")
        if result := run_one("beside", side, fault, *ways):
            say(f"    {result['outages']}")
            results.append({**result, **result["outages"]})
        if arguments.json:
            arguments.json.write_text(json.dumps({"machine": machine, "failovers": results}, indent=1) + "\n")
    print(report(results), "", *circumstances(results, machine), sep="\n")
    if len(results) < len(jobs):
        sys.exit(f"{len(jobs) - len(results)} of {len(jobs)} failovers could not be measured; see above")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pick", description=(__doc__ or "").split("\n")[0])
    text = f"failovers of each kind (default {ROUNDS}); the article, which is slow, gets fewer"
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help=text)
    text = "only this gate (may be repeated): reserved, streaming, archived, article"
    parser.add_argument("--only", action="append", metavar="GATE", choices=SIDES.values(), help=text)
    parser.add_argument("--json", type=lambda name: Path(name).absolute(), metavar="FILE", help="keep every number")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def schedule(rounds: int) -> list[Job]:
    """Return what to measure, all sides in turn so that they meet the same disturbances.

    A libpq without time-outs hangs for minutes when db1 is unplugged: it is there once for each side.

    >>> schedule(2)[-1]
    ('ours', 'unplugged', ('ours', 'haproxy', 'timeouts', 'synchronous'))
    """
    seldom = {"stopped": max(1, round(rounds * 2 / 5)), "unplugged": 1}
    return [
        (side, fault, tuple(way for way in WAYS if way != "libpq" or fault == "stopped" or number == 0))
        for number in range(rounds)
        for fault in FAULTS
        for side in SIDES
        if side != "article" or number < seldom[fault]
    ]


def report(results: Results) -> str:
    """Return the table and the targets."""
    lines = ["Seconds from the fault until a client has written again: medians (lowest-highest)"]
    for fault, title in FAULTS.items():
        heads = [f"{name} ({len(chosen(results, side, fault))})" for side, name in SIDES.items()]
        lines += ["", columns(title, heads)]
        lines += [columns(f"  {row.text}", [cell(results, side, fault, row.key) for side in SIDES]) for row in FIGURES]
        lines += [columns(f"  {row.text}", [times(results, side, fault, row.key) for side in SIDES]) for row in RATIOS]
    return "\n".join([*lines, "", *NOTES, "", *where(results), "", *targets(results)])


def where(results: Results) -> list[str]:
    """Return where the time goes from the promotion to the open app port; between two steps, we look at what they did.

    >>> where([{"side": "ours", "fault": "stopped", "steps": [("open_port app", 0.11, 0.02)]}])[1:]
    ['  from  0.11  for  0.02  open_port app']
    """
    steps: dict[str, list[tuple[float, float]]] = {}
    for result in chosen(results, "ours", "stopped"):
        for what, begun, took in result["steps"]:
            steps.setdefault(what, []).append((begun, took))
    rows = sorted((median(b for b, _ in seen), median(t for _, t in seen), what) for what, seen in steps.items())
    title = "Steps after the promotion, gate at archived, db1 stopped: medians, s since the promotion"
    return [title, *(f"  from {begun:5.2f}  for {took:5.2f}  {what}" for begun, took, what in rows)]


def columns(text: str, cells: list[str]) -> str:
    return f"{text:<29}" + "".join(f"{cell:>17}" for cell in cells)


def values(results: Results, side: str, fault: str, key: str) -> list[float | None]:
    """Return one value for each failover that the client was there for; None: it was not seen before the cap."""
    return [result[key] for result in chosen(results, side, fault) if key in result]


def cell(results: Results, side: str, fault: str, key: str) -> str:
    return spread(values(results, side, fault, key))


def times(results: Results, side: str, fault: str, key: str) -> str:
    return ratio(values(results, side, fault, "ours"), values(results, side, fault, key))


def targets(results: Results) -> list[str]:
    """Return one line for each target of ours; beside the others stands the gate that waits for as little as they."""
    ports = {side: middle(values(results, side, "stopped", "promotion_to_port")) for side in PORT_TARGETS}
    text = f"reserved, stopped: at most {BEHIND_LIBPQ_TARGET} s behind libpq (median of the differences)"
    hung = values(results, "reserved", "unplugged", "libpq")
    return [
        "Targets of ours",
        *(
            target(f"{SIDES[side]}: app port open at most {limit} s after the promotion (median)", ports[side], limit)
            for side, limit in PORT_TARGETS.items()
        ),
        *(
            target(
                f"archived, {fault}: at most {BEHIND_HAPROXY_TARGET} s behind HAProxy (median of the differences)",
                behind(results, fault, "haproxy", "ours"),
                BEHIND_HAPROXY_TARGET,
            )
            for fault in FAULTS
        ),
        target(text, behind(results, "stopped", "libpq"), BEHIND_LIBPQ_TARGET),
        *(
            target(f"reserved, {fault}: ahead of HAProxy (s behind it, median)", behind(results, fault, "haproxy"), 0.0)
            for fault in FAULTS
        ),
        f"  {'PASS' if hung and None in hung else 'FAIL'}  unplugged: libpq still hangs when ours has long written",
    ]


def behind(results: Results, fault: str, key: str, side: str = "reserved") -> float | None:
    """Return how many seconds later than another client ours wrote in the same failover (median)."""
    pairs = [(result["ours"], result[key]) for result in chosen(results, side, fault) if key in result]
    return middle([None if None in pair else pair[0] - pair[1] for pair in pairs])


if __name__ == "__main__":
    main()
