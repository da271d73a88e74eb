"""What the service costs the gateway: memory before and after 10,000 events, and processor time when idle.

Run as root from the repository: ``.venv/bin/python -m tests.bench.worker [--events N]``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from tests.lab import Lab, wait_for
from tests.lab.contain import contain

IDLE = 20.0
BURST = 1000
STORE = """
import sys
from repmgr_hooks import hook
for number in range(int(sys.argv[1])):
    hook.store("/var/lib/repmgr-hooks/spool", ["main", str(number % 2 + 1), "repmgrd_reload"])
    if number % 50 == 0:
        hook.wake("/var/lib/repmgr-hooks/spool")
hook.wake("/var/lib/repmgr-hooks/spool")
"""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.worker")
    parser.add_argument("--events", type=int, default=10_000)
    events = parser.parse_args().events
    contain([sys.executable, "-m", "tests.bench.worker", *sys.argv[1:]])
    lab = Lab()
    lab.build()
    lab.start_worker()
    process = lab.daemons["worker"].pid
    hand_in(lab, events)
    before = memory(process)
    hand_in(lab, events)
    after = memory(process)
    busy = idle_share(process)
    print(f"resident memory after {events:,} events {before:.1f} MiB, after as many more {after:.1f} MiB")
    print(f"  {'PASS' if after <= before * 1.05 else 'FAIL'}  flat (at most 5 % more): {after / before:.2f}")
    print(f"processor time when idle, over {IDLE:.0f} s: {100 * busy:.2f} % of a core")
    print(f"  {'PASS' if busy < 0.005 else 'FAIL'}  under 0.5 %")


def hand_in(lab: Lab, number: int) -> None:
    """In bursts of a thousand: how much memory one burst takes for a moment is another matter."""
    for _ in range(number // BURST):
        hand_in_burst(lab, BURST)


def hand_in_burst(lab: Lab, number: int) -> None:
    lab.gateway.run("/opt/repmgr-hooks/bin/python", "-c", STORE, str(number), user="postgres", limit=300)
    spool = lab.gateway.path("/var/lib/repmgr-hooks/spool")
    wait_for(lambda: len(list(spool.iterdir())) == 1, "the spool to be empty", 300)
    time.sleep(0.5)


def memory(process: int) -> float:
    """Resident memory in MiB."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def idle_share(process: int) -> float:
    """The share of a core that a process uses while nothing happens."""
    begun = processor_time(process)
    time.sleep(IDLE)
    return (processor_time(process) - begun) / IDLE


def processor_time(process: int, of_children: bool = False) -> float:
    """The seconds that all its threads have used, or those of what it has started and waited for (proc(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    user = 13 if of_children else 11
    return (int(fields[user]) + int(fields[user + 1])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
