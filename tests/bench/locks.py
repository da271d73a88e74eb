"""How long the app port waits while somebody holds a lock of Barman's, with the gate at ``archived``, as shipped.

Run as root from the repository, with the package installed in .venv: ``.venv/bin/python -m tests.bench.locks
[--rounds N] [--newest]``. Each failover has a fresh lab. Seconds from the promotion to the open port, and until all of
the failover is done.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

from tests.endtoend.looks import barman_streams_from, failover_handled, routes
from tests.endtoend.test_locks import a_silent_server_before_ours, archive_wal, cron
from tests.lab import Lab, wait_for
from tests.lab.contain import contain

LIMIT = 300.0
GOAL = 10.0


def nothing(lab: Lab) -> None:
    """To compare with."""


HELD_UP: tuple[Callable[[Lab], None], ...] = (nothing, cron, archive_wal, a_silent_server_before_ours)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.locks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--newest", action="store_true", help="the newest Barman")
    arguments = parser.parse_args()
    contain([sys.executable, "-m", "tests.bench.locks", *sys.argv[1:]])
    print("held up by                     app port open, s    lowest - highest")
    worst = 0.0
    for held_up in HELD_UP:
        took = [opened(held_up, arguments.newest) for _ in range(arguments.rounds)]
        worst = max(worst, statistics.median(took))
        name = held_up.__name__.replace("_", " ")
        print(f"{name:30} {statistics.median(took):16.1f}    {min(took):.1f} - {max(took):.1f}", flush=True)
    print(f"{'PASS' if worst <= GOAL else 'FAIL'}  within {GOAL:.0f} s of the promotion: {worst:.1f} s")
    return 0 if worst <= GOAL else 1


def opened(held_up: Callable[[Lab], None], newest: bool) -> float:
    """Let one failover happen, and return the seconds from the promotion to the open app port."""
    with Lab(newest_barman=newest) as lab:
        lab.open()
        held_up(lab)
        lab.db1.sql("insert into work default values", "app")
        lab.db1.pg_ctl("stop", "-m", "immediate")
        wait_for(lambda: lab.db2.sql("select pg_is_in_recovery()") == "f", "the promotion", LIMIT, every=0.02)
        promoted = time.monotonic()
        wait_for(lambda: routes(lab).get(54322) == lab.db2.address, "the app port", LIMIT, every=0.02)
        took = time.monotonic() - promoted
        wait_for(lambda: failover_handled(lab), "the end of the events", LIMIT)
        assert barman_streams_from(lab.db2)
        return took


if __name__ == "__main__":
    sys.exit(main())
