"""Handlers of other packages on a real cluster: a gate for pgBackRest, a route in a network, pgpool."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import led_to
from tests.lab import Host, Lab, handlers, wait_for, wait_for_answer
from tests.lab.handlers import ADDRESS, ARCHIVE, archived, backends, written_on
from tests.lab.three import rejoin

POOL, OVERLAY = "host=10.0.0.20 port=9999", f"host={ADDRESS} port=5432"
UP = ("up", "waiting")
"""What pgpool says of a backend that it uses: with connections, and as yet without."""
GATE = "switch WAL and see timeline {} in pgBackRest's repository"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A cluster in service; the tests are one story, each goes on where the one before it has ended."""
    with fresh_lab() as lab:
        lab.build()
        handlers.start_archive(lab)
        handlers.share_address(lab)
        handlers.start_pgpool(lab)
        handlers.install(lab)
        result = lab.gateway.hooks("reconcile")
        assert result.returncode == 0, result.stdout + result.stderr
        lab.start_cron()
        lab.start_worker()
        lab.start_repmgrd()
        yield lab


def all_lead_to(lab: Lab, host: Host) -> bool:
    return led_to(lab, host) and written_on(lab, OVERLAY) == written_on(lab, POOL) == host.name


def worker(lab: Lab) -> str:
    return lab.gateway.log("worker")


def test_they_are_found_and_make_what_they_are_for_true(lab: Lab) -> None:
    listed = lab.gateway.hooks("handlers").stdout
    for name in ("state", "pgbackrest", "pgpool"):
        assert f"repmgr-hooks-{name} 1.0" in " ".join(listed.split())
    wait_for(lambda: all_lead_to(lab, lab.db1), "the application, the address and pgpool to lead to db1")
    assert archived(1)
    wait_for(lambda: lab.gateway.hooks("reconcile", "--dry-run").returncode == 0, "nothing to be left to do")


def test_a_failover(lab: Lab) -> None:
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: all_lead_to(lab, lab.db2), "the application, the address and pgpool to lead to db2")
    log = worker(lab)
    assert log.index(GATE.format(2)) < log.index("route port app to node 2"), "the gate is before the port"
    assert archived(2)
    let_go = [["down standby", f"{up} primary"] for up in UP]
    wait_for_answer(lambda: backends(lab), lambda found: found in let_go, "pgpool to let db1 go")


def test_the_old_primary_comes_back_as_a_standby(lab: Lab) -> None:
    rejoin(lab.db1, lab.db2)
    back = [[f"{up} standby"] for up in UP]
    wait_for_answer(lambda: backends(lab), lambda found: found[:1] in back, "pgpool to have db1 again")
    wait_for(lambda: all_lead_to(lab, lab.db2), "all to lead to db2")


def test_the_gate_stays_closed_while_the_archive_cannot_be_written(lab: Lab) -> None:
    """As when NFS is gone."""
    away = ARCHIVE.with_name("away")
    wait_for(lambda: "archive_failed" not in lab.gateway.hooks("status", "--json").stdout, "a quiet cluster")
    # repmgrd of db1 needs a moment until it knows that its node is a standby, and promotes it in its turn.
    ready = "failover: repmgr would promote node 1"
    wait_for(lambda: ready in lab.gateway.hooks("status").stdout, "db1 to be ready", every=0.5)
    ARCHIVE.rename(away)
    lab.db2.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: written_on(lab, f"host={lab.db1.address} port=5432") == "db1", "db1 to be the primary")
    wait_for(lambda: "pgbackrest {stanza: main, timeout: 10}: " in worker(lab), "the gate to say why it is closed")
    assert not led_to(lab, lab.db1)
    away.rename(ARCHIVE)
    wait_for(lambda: all_lead_to(lab, lab.db1), "the gate to open")
    assert archived(3)
