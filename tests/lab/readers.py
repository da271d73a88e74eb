"""Clients that only read, on the application's host: how connections are shared, and who stays connected.

This file is both what the tests use and, with ``python -c``, the program that runs there.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter

import psycopg

WHERE = "select host(inet_server_addr())"


def share(dsn: str, times: int) -> Counter[str]:
    """Connect so often, one after the other; count who answers, and errors as ``refused``."""
    found: Counter[str] = Counter()
    for _ in range(times):
        try:
            with psycopg.connect(dsn) as connection:
                found[connection.execute(WHERE).fetchone()[0]] += 1  # type: ignore[index]
        except psycopg.OperationalError:
            found["refused"] += 1
    return found


def stay(dsn: str, each: int) -> None:
    """Connect until so many readers are on each of two nodes; then let all read until they are cut, and say so."""
    readers: list[tuple[str, psycopg.Connection]] = []
    end = time.monotonic() + 150
    while len(readers) < 2 * each and time.monotonic() < end:
        connection = psycopg.connect(dsn, autocommit=True)
        (where,) = connection.execute(WHERE).fetchone()  # type: ignore[misc]
        if [at for at, _ in readers].count(where) < each:
            readers.append((where, connection))
        else:
            connection.close()
    print(json.dumps(["there", *sorted(where for where, _ in readers)]), flush=True)
    while readers:
        for reader in list(readers):
            try:
                reader[1].execute(WHERE)
            except psycopg.OperationalError as error:
                readers.remove(reader)
                print(json.dumps(["cut", reader[0], str(error).splitlines()[0]]), flush=True)
        time.sleep(0.1)


if __name__ == "__main__":
    if sys.argv[1] == "share":
        print(json.dumps(share(sys.argv[2], int(sys.argv[3]))))
    else:
        stay(sys.argv[2], int(sys.argv[3]))
else:
    from pathlib import Path

    from tests.lab import BASE, PYTHON, Lab, wait_for

    PORT = 54323

    def _words(lab: Lab, what: str, number: int) -> tuple[str, ...]:
        dsn = f"host={lab.gateway.address} port={PORT} user=app dbname=app connect_timeout=10"
        return PYTHON, "-c", Path(__file__).read_text(), what, dsn, str(number)

    def shares(lab: Lab, times: int) -> dict[str, int]:
        """Who answers, and how often."""
        found: dict[str, int] = json.loads(lab.app.run(*_words(lab, "share", times), user="postgres", limit=300))
        return found

    def reach(lab: Lab, *who: str) -> bool:
        """True if new readers come to these addresses, and to no others."""
        return set(shares(lab, 2 * len(who) + 2)) == set(who)

    class Staying:
        """Readers that stay on each of two nodes."""

        def __init__(self, lab: Lab, each: int = 3) -> None:
            (BASE / "app-readers.log").write_bytes(b"")
            self._lab = lab
            self.process: subprocess.Popen[bytes] = lab.app.start(
                *_words(lab, "stay", each), user="postgres", log="readers"
            )
            wait_for(self.lines, "the readers to be there")

        def lines(self) -> list[list[str]]:
            """What they have said, whole lines alone."""
            return [json.loads(line) for line in self._lab.app.log("readers").split("\n")[:-1]]

        def cut(self) -> list[str]:
            """On which node each of those was that have been cut."""
            return [where for kind, where, *_ in self.lines() if kind == "cut"]

        def stop(self) -> None:
            self.process.terminate()
            self.process.wait(60)
