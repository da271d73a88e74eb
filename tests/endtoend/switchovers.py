"""What the tests of a planned change of the primary share: a lab that is ready for one, and how it is looked at."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from repmgr_hooks.journal.queries import ASIDE
from tests.endtoend.looks import follows, wait_until_good
from tests.lab import CONFIG_FILE, DATA, Failed, Host, Lab, wait_for
from tests.lab.pgbouncer import Pooler, use

SHELL = "shell: [ssh, -o, BatchMode=yes, postgres@{}]"
PHASES = {
    "checkpoint": "have the primary write a checkpoint",
    "backup": "see all WAL so far",
    "pause": "pause repmgrd",
    "begin": "have repmgr check all again",
    "hold": "hold the clients",
    "switch": "repmgr standby switchover",
    "follow": "wait for the service",
}
GATE_LIMIT = 30
STATE = "/var/lib/repmgr-hooks"


def opened(lab: Lab) -> None:
    """Bring a lab into service whose nodes the service's user may reach."""
    lab.build_service()
    config = lab.gateway.path(CONFIG_FILE)
    text = re.sub(r"\{host: (10\.0\.0\.\d+)\}", lambda m: f"{{host: {m[1]}, {SHELL.format(m[1])}}}", config.read_text())
    config.write_text(text.replace("{changes: 5, window: 600}", "{changes: 50, window: 600}"))


def serving(lab: Lab) -> None:
    """Open the ports, start all daemons, and wait until a switchover may begin."""
    lab.serve()
    # Else the events of repmgrd's start may still wait for a run, and a switchover is refused.
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", every=0.5)


def switchover(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command; what it said is shown if the test fails."""
    result = lab.gateway.hooks("switchover", *words)
    print(result.stdout, result.stderr)
    return result


def nothing_left(lab: Lab) -> bool:
    """True if nobody is held, no repmgrd is paused, and no record is left."""
    try:
        paused = [host.sql("select repmgr.repmgrd_is_paused()", "repmgr") for host in lab.databases]
    except Failed:
        return False
    held = [line for line in lab.gateway.nat() if "NFQUEUE" in line or line.endswith("drop")]
    state = lab.gateway.path(STATE)
    return paused == ["f"] * lab.nodes and not held and not [*state.glob("*.switchover"), *state.glob("*.hold")]


def is_good(lab: Lab, old: Host, new: Host) -> None:
    """The old primary is a standby again, all leads to the new one, and nothing is left."""
    wait_for(lambda: follows(old, new), f"{old.name} to follow {new.name}")
    wait_for(lambda: nothing_to_do(lab), "the service to come to rest")
    wait_until_good(lab, new, [host for host in lab.databases if host is not new])
    assert nothing_left(lab)


def nothing_to_do(lab: Lab) -> bool:
    """True if no event waits, and no run goes on or is tried again; that costs little, and each ``status`` a second."""
    with closing(sqlite3.connect(f"file:{lab.gateway.path(STATE)}/journal.db?mode=ro", uri=True)) as journal:
        (waiting,) = journal.execute("select count(*) from event where run is null").fetchone()
        last = journal.execute(
            f"select ended, ok, again from run where cause not in ({ASIDE}) order by id desc"
        ).fetchone()
    return waiting == 0 and bool(last[0]) and bool(last[1] or not last[2])


def pooled_service(lab: Lab) -> Pooler:
    """Bring a lab into service behind a PgBouncer; a gate that nobody can satisfy opens soon, the archiver works."""
    opened(lab)
    place = lab.gateway.path(CONFIG_FILE)
    pooler = Pooler(lab, lab.gateway)
    use(lab, pooler)
    place.write_text(place.read_text().replace("fail_open_after: 120", f"fail_open_after: {GATE_LIMIT}"))
    for host in lab.databases:
        lab.append(host, f"{DATA}/postgresql.conf", "archive_mode = on\narchive_command = 'true'\n")
        host.pg_ctl("restart")
    serving(lab)
    return pooler


def primary_of(lab: Lab) -> Host:
    return next(host for host in lab.databases if "f" in host.sql("select pg_is_in_recovery()"))


def pair(lab: Lab) -> tuple[Host, Host]:
    """The primary, and the standby that is to take its place."""
    old = primary_of(lab)
    return old, lab.db1 if old is lab.db2 else lab.db2


def started(lab: Lab, until: str) -> subprocess.Popen[bytes]:
    """Start a switchover, and wait until it has logged something."""
    log = f"switchover{time.monotonic_ns()}"
    command = lab.gateway.start("/usr/local/bin/repmgr-hooks", "switchover", log=log)
    wait_for(lambda: until in lab.gateway.log(log) or command.poll() is not None, f"'{until}'", every=0.02)
    if "1 event(s) wait for a run\n      HINT: try again" in lab.gateway.log(log):
        return started(lab, until)  # one of the role change before may come late
    assert until in lab.gateway.log(log), lab.gateway.log(log)
    return command


def server_of(host: Host) -> str:
    """The number of a host's postmaster; empty if it is down or stopping (pidfile.h)."""
    try:
        lines = host.path(f"{DATA}/postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return ""
    return lines[0] if len(lines) > 7 and not lines[7].startswith("stopping") else ""


def stopping(lab: Lab, old: Host) -> subprocess.Popen[bytes]:
    """Start a switchover, and wait until repmgr stops the primary: it is soon started again, as a standby."""
    server = server_of(old)
    command = started(lab, PHASES["switch"])
    wait_for(lambda: server_of(old) != server, "the primary to stop", every=0.02)
    return command


def killed(command: subprocess.Popen[bytes]) -> None:
    """Nothing of the command goes on but what it has begun on the nodes."""
    command.kill()
    command.wait(60)


def is_served(lab: Lab, since: float) -> None:
    """Clients write, the others follow, and nothing is left."""
    client = lab.start_client(patience=30)
    client.wait_for_write(since)
    client.stop()
    print(f"{time.time() - since:.1f} s until a client writes")
    wait_for(lambda: nothing_left(lab), "all to be taken back", 100)
    new = primary_of(lab)
    for host in lab.databases:
        assert host is new or wait_for(lambda h=host: follows(h, new), f"{host.name} to follow") is None
    rests(lab)


def rests(lab: Lab) -> None:
    """Wait until a switchover may begin: all is as it should be, and the service has nothing to do."""
    wait_for(lambda: nothing_to_do(lab), "the service to come to rest", 120)
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", 120, every=2)


@contextmanager
def repmgr_conf(host: Host, more: str) -> Iterator[None]:
    """repmgr has more settings on this node."""
    place = host.path(f"/etc/repmgr/{host.name}.conf")
    text = place.read_text()
    place.write_text(text + more)
    try:
        yield
    finally:
        place.write_text(text)


@contextmanager
def hanging(host: Host) -> Iterator[None]:
    """A backend of the primary hangs: a fast shutdown waits for it without end."""
    host.start("psql", "-XAtq", "-c", "select pg_sleep(600)", "postgres", user="postgres", log="hangs")
    look = "select max(pid) from pg_stat_activity where query = 'select pg_sleep(600)'"
    wait_for(lambda: host.sql(look) != "", "the backend")
    backend = int(host.sql(look))
    os.kill(backend, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(backend, signal.SIGCONT)
