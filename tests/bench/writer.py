"""An application that writes numbered rows through one connection, some of them big; runs on the application's host.

Prints ``committed ID`` for each row that the server has acknowledged, else ``error`` and why. A number is used once,
whatever came of it. What stands in a row follows from its number, so that whoever reads it knows whether it is whole.
"""

import random
import sys
import time

import psycopg

INTERVAL = 0.03
BIG_ROWS = 0.02
MOST_COPIES = 65536  # of 32 bytes: 2 MB
WRITE = "insert into soak values (%s, repeat(md5(%s::bigint::text), %s))"


def main(dsn: str, seed: str) -> None:
    chance = random.Random(seed)
    connection, row = None, 0
    while True:
        row += 1
        copies = chance.randint(1, MOST_COPIES) if chance.random() < BIG_ROWS else 1
        try:
            connection = connection or psycopg.connect(dsn, autocommit=True)
            connection.execute(WRITE, (row, row, copies))
            print(f"committed {row}", flush=True)
        except psycopg.Error as error:
            connection = None
            print("error", " ".join(str(error).split())[:100], flush=True)
        time.sleep(INTERVAL)


if __name__ == "__main__":
    main(*sys.argv[1:])
