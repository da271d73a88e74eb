"""What a plain restart of the primary costs with the synchronous configuration that is shipped.

Run as root from the repository: ``.venv/bin/python -m tests.bench.restart [--restarts N]``. A client writes through the
app port; its commits wait for db2 or for Barman, whichever is connected again first.
"""

from __future__ import annotations

import argparse
import sys
import time

from tests.bench.table import spread
from tests.endtoend.looks import barman_streams_from
from tests.lab import Lab, wait_for
from tests.lab.contain import contain

DB2 = "select count(*) from pg_stat_replication where application_name = 'db2' and state = 'streaming'"
SINCE = "select extract(epoch from backend_start) from pg_stat_replication where application_name = 'db2'"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.restart")
    parser.add_argument("--restarts", type=int, default=5)
    arguments = parser.parse_args()
    contain([sys.executable, "-m", "tests.bench.restart", *sys.argv[1:]])
    with Lab() as lab:
        lab.open()
        client = lab.start_client()
        rows: dict[str, list[float | None]] = {"PostgreSQL": [], "Barman": [], "db2": [], "write": []}
        for _ in range(arguments.restarts):
            time.sleep(8)
            begun = time.time()
            lab.db1.pg_ctl("restart", "-m", "fast")
            rows["PostgreSQL"].append(time.time() - begun)
            wait_for(lambda: barman_streams_from(lab.db1), "Barman to stream", every=0.02)
            rows["Barman"].append(time.time() - begun)
            client.wait_for_write(begun + 0.5)
            rows["write"].append(client.outage(begun))
            wait_for(lambda: lab.db1.sql(DB2) == "1", "db2 to follow")
            rows["db2"].append(float(lab.db1.sql(SINCE)) - begun)
        print(
            f"pg_ctl restart of the primary, synchronous commits: medians of {arguments.restarts} (lowest-highest), s"
        )
        print(f"  until PostgreSQL answers again     {spread(rows['PostgreSQL'])}")
        print(f"  until Barman streams again         {spread(rows['Barman'])}")
        print(f"  until db2 is connected again       {spread(rows['db2'])}")
        print(f"  without a write                    {spread(rows['write'])}")


if __name__ == "__main__":
    main()
