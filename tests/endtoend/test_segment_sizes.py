"""WAL files of 1 and of 64 MB: what is warned of, and what is right after a failover."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from tests.bench.soak import processes_of, send
from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, routes, slot, status
from tests.endtoend.test_continuity import (
    close_file,
    configure_nodes,
    has_caught_up,
    promote,
    serve,
)
from tests.lab import Lab, wait_for
from tests.lab.barman import archive, back_up

SYNCED = ("state: absent", "state: synced")


@pytest.fixture(params=[1, 64], ids=["1 MB", "64 MB"])
def sized(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two nodes in service, whose standby keeps a slot for Barman; nothing makes a restartpoint but the test."""
    with fresh_lab(segment_mb=request.param) as lab:
        lab.build()
        configure_nodes(lab, "checkpoint_timeout = '1d'\nmax_wal_size = '10GB'\nwal_sender_timeout = 0\n")
        serve(lab, SYNCED)
        yield lab


def warned_of(lab: Lab) -> set[str]:
    return {warning["code"] for warning in status(lab)["warnings"]}


def begins(lab: Lab, node: int) -> int:
    """Where the slot of a node begins, in bytes; 0 if there is none that reserves WAL."""
    look = "select coalesce(max(restart_lsn - '0/0'), 0) from pg_replication_slots where slot_name = 'barman'"
    return int(lab.node(node).sql(look))


def let_the_standbys_slot_begin_later(lab: Lab, megabytes: int) -> int:
    """Barman receives nothing from the beginning of a file on; return how much later the standby's new slot begins."""
    close_file(lab.db1)
    lab.db1.sql("select txid_current()")
    beginning = (
        int(lab.db1.sql("select pg_current_wal_lsn() - '0/0'")) // (lab.segment_mb << 20) * (lab.segment_mb << 20)
    )
    wait_for(lambda: begins(lab, 1) >= beginning, "Barman to have all before this file")
    send(processes_of(lab.gateway, "pg_receivewal"), signal.SIGSTOP)
    lab.db1.sql(
        f"select count(pg_logical_emit_message(false, 'x', repeat('x', 1048576))) from generate_series(1, {megabytes})"
    )
    for host in (lab.db1, lab.db2):
        has_caught_up(lab)
        host.sql("checkpoint", limit=120)
    lab.db2.sql("select pg_drop_replication_slot('barman')")
    # The run that makes it waits first for files that Barman does not get.
    wait_for(lambda: slot(lab.db2).startswith("f|t|"), "the slot on db2 again", 300)
    return begins(lab, 2) - begins(lab, 1)


def test_what_the_standby_holds_and_a_failover(sized: Lab) -> None:
    """PostgreSQL keeps whole files: what counts is whether Barman lacks one of them."""
    lab = sized
    assert lab.db1.sql("show wal_segment_size") == f"{lab.segment_mb}MB"
    back_up(lab, lab.db1)
    wait_for(lambda: "slot_incomplete" not in warned_of(lab), "both slots to stand in the same file")
    later = let_the_standbys_slot_begin_later(lab, 4 if lab.segment_mb == 1 else 24)
    if lab.segment_mb == 1:
        assert 2 << 20 < later < 16 << 20, "a gap, in less than 16 MB"
        wait_for(lambda: "slot_incomplete" in warned_of(lab), "the warning")
    else:
        assert 16 << 20 < later < 64 << 20, "none, for all is in one file"
        assert "slot_incomplete" not in warned_of(lab)

    send(processes_of(lab.gateway, "pg_receivewal"), signal.SIGCONT)
    archive(lab, lab.db1)
    wait_for(lambda: "slot_incomplete" not in warned_of(lab), "the end of the warning", 120)
    has_caught_up(lab)
    promote(lab)
    wait_for(lambda: routes(lab).get(54322) == "10.0.0.12", "the app port to lead to db2", 120)
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2", 120)
    for _ in range(2):
        archive(lab, lab.db2)

    def whole() -> bool:
        """The file that the last switch began is whole once Barman has it; until then it is not known to be."""
        result = lab.gateway.hooks("check-wal", "--deep", user="barman")
        print(result.stdout)
        return result.returncode == 0 and "main: deep OK: " in result.stdout

    wait_for(whole, "whole WAL by content", every=2)
