"""Planned changes of the primary under load, in a box of its own: ``python -m tests.bench.there_and_back TIMES``.

Three nodes; 20 clients of pgbench and one that remembers its rows go through PgBouncer in transaction pooling. The
primary changes there and back, so many times; then the backup from before is restored with all WAL since, and compared
with the cluster row by row.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass

from tests.bench.measure import show_logs
from tests.bench.planned import HELD
from tests.endtoend.switchovers import is_good, opened, serving, switchover
from tests.endtoend.test_point_in_time import recover
from tests.lab import Failed, Host, Lab
from tests.lab.barman import archive, back_up
from tests.lab.contain import contain
from tests.lab.pgbouncer import Bench, Pooler, done_in, start_bench, use


@dataclass(frozen=True)
class ThereAndBack:
    """What became of it; ``lost``: transactions that were acknowledged and are not there, or the other way round."""

    switchovers: int
    transactions: int
    failed: int
    lost: int
    restored: bool
    """Whether the restore has the cluster's rows, no more and no fewer."""
    held: list[float]
    longest: float
    """Seconds for which a client was without a write at most."""


def run(times: int) -> ThereAndBack:
    lab = Lab(3)
    opened(lab)
    pooler = Pooler(lab, lab.gateway)
    use(lab, pooler)
    serving(lab)
    back_up(lab, lab.db1)
    client = lab.start_client(way=pooler.way)
    bench = start_bench(lab, pooler)
    held = [change(lab, *pair, bench) for _ in range(times) for pair in ((lab.db1, lab.db2), (lab.db2, lab.db1))]
    done = bench.stop()
    client.stop()
    writes = client.writes()
    rows = {int(row) for row in lab.db1.sql("select id from work", "app").split()}
    told = {write.row for write in writes if write.row is not None}
    archive(lab, lab.db1)
    restored = recover(lab, "all", "--no-get-wal", "--target-tli", "latest").keys()
    return ThereAndBack(
        switchovers=len(held),
        transactions=done + len(told),
        failed=len(bench.failures) + sum(write.row is None for write in writes),
        lost=len(told - rows) + abs(done - done_in(lab.db1)),
        restored=restored == rows,
        held=held,
        longest=client.longest_outage(0),
    )


def change(lab: Lab, old: Host, new: Host, bench: Bench) -> float:
    """Change the primary, wait until the old one is a standby again, and return for how long clients were held."""
    ended = switchover(lab, "--to", new.name[-1])
    held = HELD.search(ended.stdout)
    if ended.returncode or held is None or bench.process.poll() is not None:
        raise Failed(f"{ended.stdout}\n{lab.app.log('bench')}")
    is_good(lab, old, new)
    time.sleep(1)
    return float(held[1])


def main() -> None:
    contain([sys.executable, "-m", "tests.bench.there_and_back", *sys.argv[1:]])
    (times,) = sys.argv[1:]
    try:
        with redirect_stdout(sys.stderr):  # what the command says is for the one who has to find out
            result = run(int(times))
        print(json.dumps(asdict(result)))
    except BaseException:
        show_logs()
        raise


if __name__ == "__main__":
    main()
