"""Print the seconds since the epoch when the local PostgreSQL is first out of recovery; runs on its own, on db2."""

import time

import psycopg

INTERVAL = 0.02


def main() -> None:
    with psycopg.connect("dbname=postgres", autocommit=True) as connection:
        while connection.execute("select pg_is_in_recovery()").fetchone() == (True,):
            time.sleep(INTERVAL)
    print(f"{time.time():.3f}", flush=True)


if __name__ == "__main__":
    main()
