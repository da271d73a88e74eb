"""Many clients at once, and listeners in PostgreSQL's place where it would not take so many."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.lab import BASE, CONFIG_FILE, PYTHON, Host, Lab, wait_for

APP = "54322"


def program(name: str) -> tuple[str, ...]:
    """The beginning of a command that runs one of the programs beside this file."""
    return (PYTHON, "-c", (Path(__file__).parent / name).read_text())


def whole_lines(host: Host, log: str) -> list[list[str]]:
    """The words of each line that has been written to its end."""
    return [line.split() for line in host.log(log).rpartition("\n")[0].splitlines()]


@dataclass
class Running:
    """A program on a host, and its log."""

    host: Host
    log: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def start(host: Host, log: str, *words: str, user: str = "root") -> Running:
    """Start a program with an empty log."""
    (BASE / f"{host.name}-{log}.log").write_bytes(b"")
    return Running(host, log, host.start(*words, user=user, log=log))


# -- without PostgreSQL ------------------------------------------------------------------------------------------------


def build_gateway(lab: Lab) -> None:
    """Build a gateway and its surroundings; on each node a listener that says its name, see ``listener.py``."""
    lab.make_network()
    lab.make_directories()
    for host in lab.databases:
        start(host, "listener", *program("listener.py"), host.address, "5432", host.name)
    for host in lab.databases:
        wait_for(lambda h=host: "listening" in h.log("listener"), f"the listener of {host.name}")


@dataclass(frozen=True)
class Swap:
    """A swap of a port: when it began, when its transaction was done and all else; see ``swapper.py``."""

    begun: float
    swapped: float
    ended: float
    node: str
    said: str
    end: str
    missing: int


def swap(lab: Lab, port: str, *nodes: int) -> list[Swap]:
    """Lead the port to one node after the other."""
    words = (*program("swapper.py"), CONFIG_FILE, port, *map(str, nodes))
    lines = [line.split() for line in lab.gateway.run(*words, user="service", limit=600).splitlines()]
    return [Swap(*map(float, line[:3]), f"db{line[3]}", line[4], line[5], int(line[6])) for line in lines]


@dataclass(frozen=True)
class Call:
    """A call of one of many callers: when it began and was answered or ended, and how."""

    begun: float
    told: float
    number: int
    outcome: str


class Callers:
    """Clients of the app port; see ``callers.py``."""

    def __init__(self, lab: Lab, host: Host, count: int, manner: str) -> None:
        self.count = count
        self.running = start(host, manner, *program("callers.py"), lab.gateway.address, APP, str(count), manner)

    def calls(self) -> list[Call]:
        lines = whole_lines(self.running.host, self.running.log)
        return [Call(float(begun), float(told), int(number), outcome) for begun, told, number, outcome in lines]

    def wait_until(self, outcome: str) -> None:
        """Wait until that is what the last call of every caller came to."""
        wait_for(lambda: self._last() == [outcome] * self.count, f"{self.count} callers: {outcome}", every=0.2)

    def _last(self) -> list[str]:
        return list({call.number: call.outcome for call in self.calls()}.values())

    def stop(self) -> None:
        self.running.stop()


# -- with PostgreSQL ---------------------------------------------------------------------------------------------------


class Crowd:
    """Applications that write, and such that wait for an answer; see ``crowd.py``."""

    def __init__(self, lab: Lab, host: Host, count: int) -> None:
        self.count = count
        dsn = f"host={lab.known_address} port={APP} user=app dbname=app connect_timeout=2"
        self.running = start(host, "crowd", *program("crowd.py"), dsn, str(count), user="postgres")
        self.wait_for_writes(0)

    def writes_again(self, after: float) -> dict[int, float]:
        """When each application had its first row committed that it began to write after a moment."""
        found: dict[int, float] = {}
        for begun, ended, number, row, *_ in whole_lines(self.running.host, "crowd"):
            if float(begun) > after and row != "-":
                found.setdefault(int(number), float(ended))
        return found

    def wait_for_writes(self, after: float) -> dict[int, float]:
        """Wait until every application has written after a moment."""
        wait_for(lambda: len(self.writes_again(after)) == self.count, f"all {self.count} to write", every=0.5)
        return self.writes_again(after)


def start_pgbench(lab: Lab) -> Running:
    """Start pgbench through the app port, over and over: it gives up when its connections break."""
    where = ("-h", lab.gateway.address, "-p", APP, "-U", "app")
    lab.app.run("pgbench", *where, "-i", "-q", "app", user="postgres")
    again = f"while :; do pgbench {' '.join(where)} -n -c 8 -R 200 -T 86400 app; sleep 0.1; done"
    running = start(lab.app, "pgbench", "sh", "-c", again, user="postgres")
    wait_for(lambda: lab.db1.sql("select count(*) from pgbench_history", "app") != "0", "pgbench")
    return running


def pgbench_again(host: Host, after: float) -> float | None:
    """When pgbench had its first transaction after a moment."""
    look = f"select extract(epoch from min(mtime)) from pgbench_history where mtime > to_timestamp({after})"
    return float(host.sql(look, "app") or 0) or None
