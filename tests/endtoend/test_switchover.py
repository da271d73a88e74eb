"""A planned change of the primary, on three nodes and without PgBouncer: nobody who connects meanwhile is refused."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import assert_nothing_lost, follows, routes, wait_until_good
from tests.lab import CONFIG_FILE, Lab, wait_for

SHELL = "shell: [ssh, -o, BatchMode=yes, postgres@{}]"


@pytest.fixture(params=["iptables", "nftables"])
def ready(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Three nodes in service, whose nodes the service's user may reach."""
    lab = fresh_lab(3, backend=request.param)
    try:
        lab.build()
        with_shells(lab)
        assert lab.gateway.hooks("reconcile").returncode == 0
        lab.start_cron()
        lab.start_worker()
        lab.start_repmgrd()
        yield lab
    finally:
        lab.destroy()


def with_shells(lab: Lab) -> None:
    """Let the service reach PostgreSQL's user on each node."""
    config = lab.gateway.path(CONFIG_FILE)
    text = re.sub(r"\{host: (10\.0\.0\.\d+)\}", lambda m: f"{{host: {m[1]}, {SHELL.format(m[1])}}}", config.read_text())
    config.write_text(text.replace("{changes: 5, window: 600}", "{changes: 50, window: 600}"))


def switchover(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command, and show what it said if the test fails."""
    result = lab.gateway.hooks("switchover", *words)
    print(result.stdout, result.stderr)
    return result


def paused(lab: Lab) -> list[str]:
    """Whether each repmgrd is paused."""
    return [host.sql("select repmgr.repmgrd_is_paused()", "repmgr") for host in lab.databases]


def nothing_left(lab: Lab) -> None:
    """Nobody is held, no repmgrd is paused, and no record is left."""
    assert paused(lab) == ["f"] * len(lab.databases)
    assert not [line for line in lab.gateway.nat() if "NFQUEUE" in line or line.endswith("drop")]
    assert not list(lab.gateway.path("/var/lib/repmgr-hooks").glob("*.switchover"))


def test_there_and_back(ready: Lab) -> None:
    lab = ready
    client = lab.start_client(patience=30)
    rehearsed = switchover(lab, "--dry-run")
    assert rehearsed.returncode == 0
    assert "node 2 would take the place of node 1" in rehearsed.stdout
    assert routes(lab)[54322] == lab.db1.address
    nothing_left(lab)

    for old, new in ((lab.db1, lab.db2), (lab.db2, lab.db1)):
        begun = time.time()
        done = switchover(lab, "--to", new.name[-1])
        assert done.returncode == 0, done.stdout
        assert f"node {new.name[-1]} is the primary, and the ports lead there" in done.stdout
        client.wait_for_write(time.time())
        failed = [write for write in client.writes() if write.row is None and write.begun > begun]
        print("outage", client.outage(begun), failed)
        assert len(failed) <= 1, "only the write that was in flight has failed"
        wait_for(lambda h=old, n=new: follows(h, n), f"{old.name} to follow {new.name}")
        wait_until_good(lab, new, [host for host in lab.databases if host is not new])
        nothing_left(lab)
    assert_nothing_lost(client, lab.db1)
