"""Run every test and print one summary. ``tests/run`` prepares the machine and starts this.

However this is ended, what it has started ends with it; see ``lab/contain.py``.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tests.lab import REPOSITORY
from tests.lab.contain import DIES_WITH_US

PYTEST = (sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
BOX = (sys.executable, "tests/lab/contain.py")
LIMIT = 1800
"""Seconds for a part: it ends what hangs, and a busy machine is no fault."""
NO_CHANCE = 4
"""So many failed tests end a file: each may have waited for minutes, and that is no chance."""
# On two cores: each lab has a machine of its own, and two thirds of its time is spent waiting.
SIDE_BY_SIDE = 6
LONG = (
    *("switchover_faults", "branches", "clients", "check_wal", "alive", "continuity", "pgbouncer", "check", "failover"),
    *("soak", "no_false_alarm", "switchover", "rights", "debian_packages", "segment_sizes", "ready", "every_event"),
    *(
        "switchover_left",
        "repmgrd_on_nodes",
        "barmans_places",
        "worker",
        "served",
        "connections",
        "recovery",
        "two_gateways",
        "drill",
    ),
    *("former_primary", "newest_barman", "hung_disk", "gateway_addresses", "other_languages", "clone_by_api", "limits"),
    *("hints", "truth", "locks", "rules_of_others", "ipv6", "other_layouts", "what_clients_meet", "veto", "zombie"),
)
"""Files that take two minutes and more, the longest first: begun last, one of them would run alone at the end."""
ONCE_MORE = 2
"""So many failed parts are run once more."""
WITHOUT_PROPERTIES = ("-p", "no:hypothesispytest")
"""For those that have none: to import Hypothesis takes pytest a quarter of its start."""
WITHOUT_PRODUCT = ("--confcutdir=tests/endtoend",)
"""Without tests/conftest.py: what it imports for tests of the parts takes as much as all else in a start."""


@dataclass(frozen=True)
class Part:
    """One command, and how it ended."""

    name: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    output: str
    again: Callable[[], Part] | None = None
    """Runs it once more, if chance may have failed it."""
    unsteady: bool = False
    """True if it failed before."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests/run")
    parts = parser.add_mutually_exclusive_group()
    parts.add_argument("--fast", action="store_true", help="without what needs root, or takes long")
    parts.add_argument("--end-to-end", action="store_true", help="the real cluster only")
    parser.add_argument("names", nargs="*", metavar="NAME", help="with --end-to-end: some of endtoend/test_NAME.py")
    arguments = parser.parse_args()
    files = {short(file): file for file in sorted((REPOSITORY / "tests/endtoend").glob("test_*.py"), key=turn)}
    if arguments.names and not arguments.end_to_end:
        parser.error("names are of end-to-end tests: add --end-to-end")
    if unknown := set(arguments.names) - set(files):
        parser.error(f"there is no tests/endtoend/test_{min(unknown)}.py")
    begun = time.monotonic()
    jobs = [] if arguments.end_to_end else by_themselves(arguments.fast)
    if not arguments.fast:
        jobs += [partial(boxed, file) for name, file in files.items() if name in (arguments.names or files)]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        ended = [show(part.result()) for part in as_completed([pool.submit(job) for job in jobs])]
    again = failed_once(ended)
    ended = [part for part in ended if part not in again] + [show(once_more(part)) for part in again]
    return summary(ended, time.monotonic() - begun)


def failed_once(parts: list[Part]) -> list[Part]:
    """Return the parts that are run once more: a fault of the code fails them again.

    Real daemons on a busy machine meet in ways that no test has thought of. What passes the second time is named in the
    summary, for its first output says what to mend; if many fail, that is no chance.

    >>> good, lab, style = (Part(name, 1, 0, 0, 1.0, "") for name in ("unit", "readme", "style"))
    >>> lab, style = replace(lab, failed=1, again=lambda: good), replace(style, failed=1)
    >>> many = replace(lab, failed=NO_CHANCE)
    >>> cases = ([good], [good, lab], [lab] * ONCE_MORE, [lab] * 3, [lab, style], [lab, many])
    >>> [len(failed_once(parts)) for parts in cases]
    [0, 1, 2, 0, 0, 0]
    """
    failed = [part for part in parts if part.failed]
    chance = len(failed) <= ONCE_MORE and all(part.again and part.failed < NO_CHANCE for part in failed)
    return failed if chance else []


def once_more(part: Part) -> Part:
    """Run a part that has failed again, and alone.

    >>> once_more(Part("readme", 1, 1, 0, 1.0, "", again=lambda: Part("readme", 2, 0, 0, 1.0, "")))
    Part(name='readme', passed=2, failed=0, skipped=0, seconds=1.0, output='', again=None, unsteady=True)
    """
    return replace(part.again(), unsteady=True) if part.again else part


def by_themselves(fast: bool) -> list[Callable[[], Part]]:
    """What needs no cluster."""
    examples = (
        "tests/all.py",
        "tests/machines.py",
        "tests/options.py",
        "tests/readme.py",
        "tests/lab/six.py",
        "tests/lab/versions.py",
    )
    pytest = (*in_memory(), *PYTEST)
    unit = (*pytest, "--doctest-modules")
    # Side by side, for half of their time they wait.
    parts = {
        "unit, service": ["tests/unit/service"],
        "unit, system": ["tests/unit/system", "tests/unit/cli"],
        "unit, checks": ["tests/unit/checks", "tests/unit/former_primary"],
        "unit, engine": [f"tests/unit/{name}" for name in ("engine", "switchover", "config", "journal", "alerts")],
    }
    elsewhere = [f"--ignore={place}" for places in parts.values() for place in places]
    parts["unit"] = ["repmgr_hooks", "tests/unit", "tests/handlers", *examples, *elsewhere]
    which = ("-m", "not slow") if fast else ()
    return [
        partial(check, "style", sys.executable, "-m", "ruff", "check", "--output-format", "concise", "."),
        partial(check, "format", sys.executable, "-m", "ruff", "format", "--check", "."),
        *(partial(run_pytest, name, *unit, *places, *which) for name, places in parts.items()),
        partial(run_pytest, "model", *pytest, "tests/model", *which),
        partial(check, "types", sys.executable, "-m", "mypy"),
    ]


def in_memory() -> tuple[str, ...]:
    """The beginning of a command whose temporary files are in memory: who keeps a journal mostly waits for the disk."""
    place = os.environ.get("REPMGR_HOOKS_TEMPLATES")
    if not place:
        return ()
    Path(place, "tmp").mkdir(exist_ok=True)
    Path(place, "tmp").chmod(0o1777)
    return ("env", f"TMPDIR={place}/tmp")


def turn(file: Path) -> tuple[int, int]:
    """What takes long first: the files that are known for it, then by size."""
    name = short(file)
    return (LONG.index(name) if name in LONG else len(LONG), -file.stat().st_size)


def short(file: Path) -> str:
    return file.stem.removeprefix("test_")


def boxed(file: Path) -> Part:
    only = (*WITHOUT_PROPERTIES, *WITHOUT_PRODUCT, f"--maxfail={NO_CHANCE}")
    return run_pytest(short(file), *BOX, *PYTEST, *only, str(file))


def check(name: str, *argv: str) -> Part:
    code, output, seconds = run(argv)
    return Part(name, int(code == 0), int(code != 0), 0, seconds, output)


def run_pytest(name: str, *argv: str) -> Part:
    with tempfile.TemporaryDirectory() as place:
        report = Path(place, "report.xml")
        code, output, seconds = run((*argv, f"--junit-xml={report}"))
        counts = ElementTree.parse(report).getroot()[0].attrib if report.exists() else {}
    failed = int(counts.get("failures", 0)) + int(counts.get("errors", 0))
    skipped = int(counts.get("skipped", 0))
    passed = int(counts.get("tests", 0)) - failed - skipped
    return Part(name, passed, failed or int(code != 0), skipped, seconds, output, partial(run_pytest, name, *argv))


def run(argv: tuple[str, ...]) -> tuple[int, str, float]:
    begun = time.monotonic()
    try:
        result = subprocess.run(
            (*DIES_WITH_US, *argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=LIMIT,
            check=False,
            cwd=REPOSITORY,
        )
    except subprocess.TimeoutExpired as error:
        # Bytes, whatever was asked for (subprocess.py, _check_timeout).
        output = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else ""
        return 1, f"{output}\nnot finished after {LIMIT} s", time.monotonic() - begun
    return result.returncode, result.stdout, time.monotonic() - begun


def show(part: Part) -> Part:
    if part.failed:
        print(part.output)
    outcome = "FAILED" if part.failed else "ok"
    print(f"{part.name:16} {outcome:7} {part.passed:4} passed {part.seconds:6.1f} s", flush=True)
    for line in part.output.splitlines():
        if line.startswith((f"{part.name}: ", "SKIPPED ")) and not part.failed:
            print(f"  {line}", flush=True)
    return part


def summary(parts: list[Part], seconds: float) -> int:
    failed = sum(part.failed for part in parts)
    counts = [
        f"{number} {word}"
        for number, word in (
            (failed, "failed"),
            (sum(part.passed for part in parts), "passed"),
            (sum(part.skipped for part in parts), "skipped"),
        )
        if number
    ]
    print(f"==== {', '.join(counts)} in {seconds:.1f}s ====")
    if wrong := [part.name for part in parts if part.failed]:
        print(f"FAILED: {', '.join(wrong)}")
    if unsteady := [part.name for part in parts if part.unsteady and not part.failed]:
        print(f"UNSTEADY: {', '.join(unsteady)} failed, and passed when run again alone; the first output says at what")
    return 1 if failed else 0


if __name__ == "__main__":
    # As an exception, SIGINT would wait for the parts that run.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
