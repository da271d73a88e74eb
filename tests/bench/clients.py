"""What clients see of a primary that is unplugged: how long until all write again, and until thousands are cut.

Run as root from the repository: ``.venv/bin/python -m tests.bench.clients [--connections N] [--ipv6]``. First 50
applications (half of them write every 100 ms, half wait for an answer) and pgbench on a real cluster; then many
connections to listeners in PostgreSQL's place.
"""

from __future__ import annotations

import argparse
import sys
import time
import tracemalloc
from pathlib import Path

from repmgr_hooks.netfilter.conntrack import parse_conntrack
from tests.lab import PYTHON, Lab, wait_for
from tests.lab.contain import contain
from tests.lab.many import Callers, Crowd, build_gateway, pgbench_again, start_pgbench, swap

APPLICATIONS = 50
WATCHER = (Path(__file__).parent / "watcher.py").read_text()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.clients")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--ipv6", action="store_true")
    parser.add_argument("--only-connections", action="store_true", help="without the real cluster")
    arguments = parser.parse_args()
    contain([sys.executable, "-m", "tests.bench.clients", *sys.argv[1:]])
    if not arguments.only_connections:
        applications(Lab(six=arguments.ipv6))
    tracked(10 * arguments.connections)
    connections(Lab(six=arguments.ipv6), arguments.connections)


def applications(lab: Lab) -> None:
    """Unplug the primary under real applications."""
    with lab:
        lab.open()
        crowd = Crowd(lab, lab.app, APPLICATIONS)
        start_pgbench(lab)
        lab.db2.start(PYTHON, "-c", WATCHER, user="postgres", log="watcher")
        time.sleep(5)
        fault = time.time()
        lab.unplug(lab.db1)
        wait_for(lambda: lab.db2.log("watcher").strip(), "the promotion")
        promoted = float(lab.db2.log("watcher"))
        again = crowd.wait_for_writes(fault + 1)
        wait_for(lambda: pgbench_again(lab.db2, fault + 1), "pgbench to write again")
        waiting, writing = (sorted(end for number, end in again.items() if number % 2 == odd) for odd in (1, 0))
        print(f"db1 unplugged under {APPLICATIONS} applications and pgbench")
        print(f"  fault to promotion                       {promoted - fault:6.2f} s")
        for who, ends in (("that wrote", writing), ("that waited for an answer", waiting)):
            print(f"  promotion to the first of {len(ends)} {who:25} {ends[0] - promoted:6.2f} s")
            print(f"  promotion to the last of {len(ends)} {who:26} {ends[-1] - promoted:6.2f} s")
        print(
            f"  promotion to pgbench                     {(pgbench_again(lab.db2, fault + 1) or 0) - promoted:6.2f} s"
        )


def tracked(count: int) -> None:
    """Read what conntrack prints of so many connections."""
    line = (
        "tcp      6 431999 ESTABLISHED src=10.0.0.30 dst=10.0.0.20 sport={0} dport=54322 "
        "src=10.0.0.11 dst=10.0.0.20 sport=5432 dport={0} [ASSURED] mark=0 use=1\n"
    )
    listing = "".join(line.format(10_000 + number) for number in range(count))
    begun = time.process_time()
    found = list(parse_conntrack(listing))
    took = time.process_time() - begun
    tracemalloc.start()
    found = list(parse_conntrack(listing))
    print(f"{len(found)} tracked connections of one host, read")
    print(f"  CPU time                        {took:6.2f} s")
    print(f"  memory                          {(tracemalloc.get_traced_memory()[1] + len(listing)) / 2**20:6.0f} MiB")
    tracemalloc.stop()


def connections(lab: Lab, count: int) -> None:
    """Unplug a node under many connections in which nothing is said."""
    with lab:
        build_gateway(lab)
        swap(lab, "app", 1)
        callers = Callers(lab, lab.app, count, "hold")
        callers.wait_until("db1")
        lab.unplug(lab.db1)
        (swapped,) = swap(lab, "app", 2)
        callers.wait_until("db2")
        resets = sorted(call.told for call in callers.calls() if call.outcome == "reset")
        back = max(call.told for call in callers.calls() if call.outcome == "db2")
        print(f"{count} connections of one host to a node that is unplugged, after the swap")
        print(f"  entries deleted, the run goes on{swapped.ended - swapped.swapped:6.2f} s")
        print(f"  the first client is reset       {resets[0] - swapped.swapped:6.2f} s")
        print(f"  the last one                    {resets[-1] - swapped.swapped:6.2f} s")
        print(f"  all are connected again         {back - swapped.swapped:6.2f} s")


if __name__ == "__main__":
    main()
