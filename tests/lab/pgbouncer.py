"""Debian's PgBouncer in the lab, in transaction pooling: in front of the app port, on the gateway or another host."""

from __future__ import annotations

import re
import secrets
import signal
import subprocess
import time
from dataclasses import dataclass

from tests.lab import BASE, PYTHON, Host, Lab, wait_for

ADMIN = "repmgr_hooks"
PASSFILE = "/etc/repmgr-hooks/pgpass"
INI = """
[databases]
app = host={gateway} port=54322 dbname=app
[pgbouncer]
listen_addr = {address}
listen_port = {port}
unix_socket_dir = /run/postgresql
auth_type = scram-sha-256
auth_file = {place}.users
admin_users = {admin}
pool_mode = transaction
default_pool_size = 5
server_login_retry = 1
pidfile = {place}.pid
{more}
"""
ACTION = "- firewall: {open: app, fail_open_after: 120}"
HOLDER = """
import sys, time
from pathlib import Path
from repmgr_hooks import config
from repmgr_hooks.engine import hold
from repmgr_hooks.system import pgbouncer
from repmgr_hooks.system.host import LocalHost
managed, host = config.load(Path("/etc/repmgr-hooks/config.yaml")).clusters["main"], LocalHost({})
can = hold.holdable(managed, host)
for problem in can.problems: print(problem)
how = {"limit": float(sys.argv[1]), "means": ("pgbouncer",), "why": "a test"}
held = hold.begin(managed, 1, 1, pgbouncers=can.pgbouncers, **how)
for error in pgbouncer.pause(held.pgbouncers, host, float(sys.argv[2])).values(): print(error)
print("held", flush=True)
time.sleep(float(sys.argv[3]))
hold.release(managed, held, host)
print("released", flush=True)
"""


BENCH = """\\set i random(1, 5)
begin;
insert into work default values;
update counter set n = n + 1 where id = :i;
commit;
"""
"""One transaction of pgbench's: a row, and a change of one that others change too."""


@dataclass
class Pooler:
    """A PgBouncer on one of the hosts."""

    lab: Lab
    host: Host
    port: int = 6432
    more: str = ""
    how: str = ""
    """More of how its console is connected to."""
    process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"pgbouncer{self.port}"

    @property
    def console(self) -> str:
        """What stands under ``on``."""
        return f"host={self.host.address} port={self.port} user={ADMIN} {self.how}".strip()

    @property
    def way(self) -> str:
        """How a client comes through it."""
        return f"host={self.host.address} port={self.port}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        place = f"/etc/pgbouncer/{self.name}"
        names = {"gateway": self.lab.known_address, "address": self.host.address, "port": self.port}
        text = INI.format(place=f"/tmp/{self.name}", admin=ADMIN, more=self.more, **names)
        users = "".join(f'"{name}" "{self.lab.passwords[name]}"\n' for name in ("app", ADMIN))
        self.lab.put(self.host, f"{place}.ini", text)
        self.lab.put(self.host, f"/tmp/{self.name}.users", users, 0o600, "postgres")
        self.process = self.host.start("pgbouncer", f"{place}.ini", user="postgres", log=self.name)
        listens = f"{self.host.address}:{self.port}"
        wait_for(lambda: listens in self.host.run("ss", "-Hltn"), f"{self.name} to listen")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; after SIGKILL, wait for its end."""
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(60)

    def ask(self, command: str) -> list[str]:
        """What psql on the gateway is told by the console."""
        dsn = f"{self.console} dbname=pgbouncer passfile={PASSFILE} connect_timeout=30"
        return self.lab.gateway.run("psql", "-XAtq", dsn, "-c", command).splitlines()

    def paused(self) -> bool:
        """Whether the database app is paused."""
        (line,) = (line for line in self.ask("SHOW DATABASES") if line.startswith("app|"))
        return line.split("|")[self._column("SHOW DATABASES", "paused")] == "1"

    def is_watched_by(self, host: Host) -> bool:
        """Whether a console connection of this host's has asked again, seconds after its first question."""
        names = ("database", "addr", "connect_time", "request_time")
        columns = [self._column("SHOW CLIENTS", name) for name in names]
        rows = ([line.split("|")[column] for column in columns] for line in self.ask("SHOW CLIENTS"))
        return any((row[0], row[1]) == ("pgbouncer", host.address) and row[2] < row[3] for row in rows)

    def servers(self) -> list[str]:
        """The pids of the backends that it has connections to."""
        column = self._column("SHOW SERVERS", "remote_pid")
        return [line.split("|")[column] for line in self.ask("SHOW SERVERS")]

    def version(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.ask("SHOW VERSION")[0].split()[-1].split(".")[:2])

    def _column(self, command: str, name: str) -> int:
        dsn = f"{self.console} dbname=pgbouncer passfile={PASSFILE} connect_timeout=30"
        return self.lab.gateway.run("psql", "-XAq", dsn, "-c", command).splitlines()[0].split("|").index(name)


def use(lab: Lab, *poolers: Pooler, tell: bool = False) -> None:
    """Start PgBouncers, and name them in the configuration; the service reads it when it is started or reloaded."""
    lab.passwords.setdefault(ADMIN, secrets.token_hex(8))
    lab.put(lab.gateway, PASSFILE, lab.pgpass(), 0o600, "barman")
    for pooler in poolers:
        pooler.start()
    consoles = ", ".join(f"'{pooler.console}'" for pooler in poolers)
    place = lab.gateway.path("/etc/repmgr-hooks/config.yaml")
    action = f"- pgbouncer: {{databases: [app], on: [{consoles}]}}"
    place.write_text(place.read_text().replace(ACTION, f"{ACTION}\n          {action}"))


@dataclass(frozen=True)
class Holding:
    """A process that holds the clients; what it says goes into a log of the gateway's."""

    lab: Lab
    process: subprocess.Popen[bytes]
    log: str

    def said(self) -> str:
        return self.lab.gateway.log(self.log)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


def hold(lab: Lab, limit: float, patience: float = 20, seconds: float = 3600) -> Holding:
    """Hold the clients of every PgBouncer, from a process of the service's user: for so long, and then release them."""
    log = f"holder{time.monotonic_ns()}"
    words = (PYTHON, "-c", HOLDER, str(limit), str(patience), str(seconds))
    held = Holding(lab, lab.gateway.start(*words, user="service", log=log), log)
    wait_for(lambda: "held" in held.said() or held.process.poll() is not None, "the clients to be held")
    assert "held" in held.said(), held.said()
    return held


@dataclass(frozen=True)
class Bench:
    """pgbench through a PgBouncer, each transaction a row of ``work``; it gives up a client whose transaction fails."""

    lab: Lab
    process: subprocess.Popen[bytes]

    @property
    def failures(self) -> list[str]:
        """What it has said of failures so far."""
        return re.findall(r".*(?:aborted|FATAL|ERROR).*", self.lab.app.log("bench"))

    def stop(self) -> int:
        """End it as its own alarm does, after the transactions that are under way; return how many it has done."""
        self.lab.app.run("pkill", "-ALRM", "-x", "pgbench")
        self.process.wait(60)
        return int(re.findall(r"transactions actually processed: (\d+)", self.lab.app.log("bench"))[-1])


def start_bench(lab: Lab, pooler: Pooler, clients: int = 20, rate: int = 100) -> Bench:
    """Start pgbench on the application's host; each of its clients waits for a connection if it has to."""
    lab.db1.sql("create table counter (id int primary key, n bigint default 0)", "app")
    lab.db1.sql("insert into counter select generate_series(1, 5)", "app")
    lab.db1.sql("alter table counter owner to app", "app")
    lab.put(lab.app, "/tmp/bench.sql", BENCH)
    words = ("pgbench", "-n", "-f", "/tmp/bench.sql", "-c", str(clients), "-R", str(rate), "-T", "86400")
    environment = f"PGOPTIONS= PGCONNECT_TIMEOUT=60 PGHOST={pooler.host.address} PGPORT={pooler.port} PGUSER=app"
    (BASE / "app-bench.log").write_bytes(b"")
    bench = Bench(lab, lab.app.start("env", *environment.split(), *words, "app", user="postgres", log="bench"))
    wait_for(lambda: lab.db1.sql("select sum(n) > 0 from counter", "app") == "t", "pgbench")
    return bench


def done_in(primary: Host) -> int:
    """How many transactions of pgbench a primary has: each counts itself, which no other client does."""
    return int(primary.sql("select sum(n) from counter", "app"))
