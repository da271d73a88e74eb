"""An application that writes every 100 ms through one connection, and reconnects when it breaks.

Prints one line a write: the seconds since the epoch before and after it, and the id that the server said it committed;
``-`` in the id's place, and the reason, when the write failed. Runs on its own, on the host of the application.
"""

import sys
import time

import psycopg

INTERVAL = 0.1


def main(dsn: str) -> None:
    connection = None
    while True:
        begun = time.time()
        try:
            # No prepared statements: PgBouncer keeps them apart in transaction pooling from 1.21 on only.
            connection = connection or psycopg.connect(dsn, autocommit=True, prepare_threshold=None)
            row = connection.execute("insert into work default values returning id").fetchone()
            outcome = str(row[0])
        except psycopg.Error as error:
            connection = None
            outcome = "- " + " ".join(str(error).split())[:100]
        print(f"{begun:.3f} {time.time():.3f} {outcome}", flush=True)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main(sys.argv[1])
