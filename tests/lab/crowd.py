"""Many applications, each with one connection that breaks one day: some write all the time, some wait for an answer.

Run as ``crowd.py DSN COUNT``, on its own. The even ones write every 100 ms; the odd ones write once and then wait for
an answer that does not come, so that they send nothing of their own accord. Prints one line a write: the seconds since
the epoch before and after it, the application's number, and the id that was committed; ``-`` and the reason instead
when it failed.
"""

import asyncio
import sys
import time

import psycopg

INTERVAL = 0.1
FOR_EVER = "select pg_sleep(86400)"


async def application(number: int, dsn: str) -> None:
    connection = None
    while True:
        begun = time.time()
        try:
            connection = connection or await psycopg.AsyncConnection.connect(dsn, autocommit=True)
            cursor = await connection.execute("insert into work default values returning id")
            ((row,),) = await cursor.fetchall()
            print(f"{begun:.3f} {time.time():.3f} {number} {row}", flush=True)
            if number % 2:
                await connection.execute(FOR_EVER)
        except psycopg.Error as error:
            connection = None
            print(f"{begun:.3f} {time.time():.3f} {number} - {' '.join(str(error).split())[:100]}", flush=True)
        await asyncio.sleep(INTERVAL)


async def main(dsn: str, count: str) -> None:
    await asyncio.gather(*(application(number, dsn) for number in range(int(count))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
