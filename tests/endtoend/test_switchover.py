"""A planned change of the primary, on three nodes: there and back, without PgBouncer and with it."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab, with_each_backend
from tests.endtoend.looks import assert_nothing_lost, follows, routes, wait_until_good
from tests.lab import CONFIG_FILE, Failed, Host, Lab, wait_for
from tests.lab.pgbouncer import Pooler, use

SHELL = "shell: [ssh, -o, BatchMode=yes, postgres@{}]"
BENCH = "\\set i random(1, 5)\ninsert into work default values;\nupdate counter set n = n + 1 where id = :i;\n"
CLIENTS = 20


def opened(lab: Lab) -> None:
    """Bring a lab into service whose nodes the service's user may reach."""
    lab.build()
    config = lab.gateway.path(CONFIG_FILE)
    text = re.sub(r"\{host: (10\.0\.0\.\d+)\}", lambda m: f"{{host: {m[1]}, {SHELL.format(m[1])}}}", config.read_text())
    config.write_text(text.replace("{changes: 5, window: 600}", "{changes: 50, window: 600}"))


def serving(lab: Lab) -> None:
    """Open the ports and start all daemons."""
    result = lab.gateway.hooks("reconcile")
    assert result.returncode == 0, result.stdout + result.stderr
    lab.start_cron()
    lab.start_worker()
    lab.start_repmgrd()


@pytest.fixture
def ready(backend: str) -> Iterator[Lab]:
    lab = fresh_lab(3, backend=backend)
    try:
        opened(lab)
        serving(lab)
        yield lab
    finally:
        lab.destroy()


@pytest.fixture
def pooled() -> Iterator[tuple[Lab, Pooler]]:
    lab = fresh_lab(3)
    try:
        opened(lab)
        pooler = Pooler(lab, lab.gateway)
        use(lab, pooler)
        serving(lab)
        yield lab, pooler
    finally:
        lab.destroy()


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
    state = lab.gateway.path("/var/lib/repmgr-hooks")
    return paused == ["f"] * lab.nodes and not held and not [*state.glob("*.switchover"), *state.glob("*.hold")]


def is_good(lab: Lab, old: Host, new: Host) -> None:
    """The old primary is a standby again, all leads to the new one, and nothing is left."""
    wait_for(lambda: follows(old, new), f"{old.name} to follow {new.name}")
    wait_until_good(lab, new, [host for host in lab.databases if host is not new])
    assert nothing_left(lab)


@with_each_backend
def test_there_and_back(ready: Lab) -> None:
    """Only what was in flight fails; who connects meanwhile waits."""
    lab = ready
    client = lab.start_client(patience=30)
    rehearsed = switchover(lab, "--dry-run")
    assert rehearsed.returncode == 0
    assert "node 2 would take the place of node 1" in rehearsed.stdout
    assert routes(lab)[54322] == lab.db1.address
    assert nothing_left(lab)

    for old, new in ((lab.db1, lab.db2), (lab.db2, lab.db1)):
        begun = time.time()
        done = switchover(lab, "--to", new.name[-1])
        assert done.returncode == 0, done.stdout
        said = rf"node {new.name[-1]} is the primary, and the ports lead there; clients were held for (\d+\.\d) s"
        assert re.search(said, done.stdout)
        client.wait_for_write(time.time())
        failed = [write for write in client.writes() if write.row is None and write.begun > begun]
        assert len(failed) <= 1, failed
        is_good(lab, old, new)
    assert_nothing_lost(client, lab.db1)


def test_no_transaction_fails_through_pgbouncer(pooled: tuple[Lab, Pooler]) -> None:
    lab, pooler = pooled
    lab.db1.sql("create table counter (id int primary key, n bigint default 0)", "app")
    lab.db1.sql("insert into counter select generate_series(1, 5)", "app")
    lab.db1.sql("alter table counter owner to app", "app")
    lab.put(lab.app, "/tmp/bench.sql", BENCH)
    client = lab.start_client(way=pooler.way)
    words = ("pgbench", "-n", "-f", "/tmp/bench.sql", "-c", str(CLIENTS), "-R", "100", "-T", "3000")
    environment = f"PGOPTIONS= PGCONNECT_TIMEOUT=60 PGHOST={lab.gateway.address} PGPORT={pooler.port} PGUSER=app"
    bench = lab.app.start("env", *environment.split(), *words, "app", user="postgres", log="bench")

    for old, new in ((lab.db1, lab.db2), (lab.db2, lab.db1)):
        done = switchover(lab, "--to", new.name[-1])
        assert done.returncode == 0, done.stdout
        client.wait_for_write(time.time())
        assert bench.poll() is None, lab.app.log("bench")
        is_good(lab, old, new)
    bench.send_signal(2)
    bench.wait(60)
    assert [write for write in client.writes() if write.row is None] == []
    said = lab.app.log("bench")
    assert not re.search("aborted|FATAL|ERROR", said), said
    assert_nothing_lost(client, lab.db1)
