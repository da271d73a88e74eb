"""A planned change of the primary, on three nodes: there and back, without PgBouncer and with it."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab, with_each_backend
from tests.endtoend.looks import assert_nothing_lost, routes
from tests.endtoend.switchovers import is_good, nothing_left, opened, serving, switchover
from tests.endtoend.test_point_in_time import recover
from tests.lab import Lab, must
from tests.lab.barman import archive, back_up
from tests.lab.pgbouncer import Pooler, done_in, start_bench


@pytest.fixture
def ready(backend: str) -> Iterator[Lab]:
    with fresh_lab(3, backend=backend) as lab:
        opened(lab)
        serving(lab)
        yield lab


def runs_no_program_in_tmp(lab: Lab) -> None:
    """As many hardened hosts have it: repmgr then stopped the primary without a word from us, and nobody was held."""
    where_sshd_is = ("nsenter", "--mount", "--target", str(lab.daemons["sshd of db2"].pid))
    must(*where_sshd_is, "mount", "-t", "tmpfs", "-o", "noexec,mode=1777", "tmpfs", "/tmp")
    refused = switchover(lab, "--to", "2")
    assert refused.returncode == 1
    found = re.search(r"FAIL +switchover.repmgr .*or mounted noexec.*\n +HINT: on that node: (.*)\n", refused.stdout)
    assert found, refused.stdout
    assert nothing_left(lab)
    must(*where_sshd_is, *found[1].split())


@with_each_backend
def test_there_and_back(ready: Lab) -> None:
    """Only what was in flight fails; who connects meanwhile waits."""
    lab = ready
    runs_no_program_in_tmp(lab)
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
    back_up(lab, lab.db1)
    client = lab.start_client(way=pooler.way)
    bench = start_bench(lab, pooler)

    for old, new in ((lab.db1, lab.db2), (lab.db2, lab.db1)):
        done = switchover(lab, "--to", new.name[-1])
        assert done.returncode == 0, done.stdout
        client.wait_for_write(time.time())
        assert bench.process.poll() is None, lab.app.log("bench")
        is_good(lab, old, new)
    done_by_bench = bench.stop()
    client.stop()
    assert bench.failures == []
    assert [write for write in client.writes() if write.row is None] == []
    assert_nothing_lost(client, lab.db1)
    assert done_in(lab.db1) == done_by_bench
    archive(lab, lab.db1)
    rows = recover(lab, "all", "--no-get-wal", "--target-tli", "latest")
    assert rows.keys() == {int(row) for row in lab.db1.sql("select id from work", "app").split()}
