"""Point-in-time recovery across a failover, from what Barman holds, compared row by row with what the client was told.

No acknowledged row may be missing, although the old primary is killed: a commit is acknowledged when the synchronous
standby, which is promoted then, has flushed it (``synchronous_standby_names`` in ``config/postgresql-db1.conf``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import follows
from tests.lab import Lab, Write, wait_for
from tests.lab.barman import archive, back_up, serve_standbys, show_backups_to_repmgr
from tests.lab.three import rejoin

MILLISECOND = 0.001
"""The client writes its times down in whole ones."""


@dataclass(frozen=True)
class FailoverReport:
    """What the client was told, on both sides of a failover, and two quiet moments: before it and after it."""

    lab: Lab
    writes: list[Write]
    before: float
    after: float


@pytest.fixture(scope="module")
def story() -> Iterator[FailoverReport]:
    with fresh_lab() as lab:
        lab.open()
        back_up(lab, lab.db1)
        client = lab.start_client()
        before = quiet_moment(client.wait_for_write(time.time()))
        client.wait_for_write(before + 0.5)
        lab.db1.pg_ctl("stop", "-m", "immediate")
        after = quiet_moment(client.wait_for_write(time.time()))
        client.wait_for_write(after + 0.5)
        client.stop()
        archive(lab, lab.db2)
        yield FailoverReport(lab, client.writes(), before, after)


def quiet_moment(write: Write) -> float:
    """A moment after a write; the client waits for 100 ms before the next one."""
    return write.ended + 0.05


def recover(lab: Lab, name: str, *options: str) -> dict[int, float]:
    """Recover with Barman, start PostgreSQL there, and return the rows: id, and when it was written."""
    place = f"/var/lib/barman/{name}"
    lab.gateway.barman("recover", *options, "main_backup", "latest", place)
    # As Barman says: its command is to be looked at before use. PostgreSQL runs as barman here and needs no sudo.
    settings = lab.gateway.path(f"{place}/postgresql.auto.conf")
    settings.write_text(settings.read_text().replace("sudo -u barman ", ""))
    lab.put(lab.gateway, f"{place}/hba.conf", "local all all trust\n", owner="barman")
    mine = f"-c listen_addresses='' -c unix_socket_directories={place} -c hba_file={place}/hba.conf"
    start = ("pg_ctl", "-D", place, "-w", "-t", "180", "-l", f"{place}/log", "-o", mine, "start")
    lab.gateway.run(*start, user="barman", limit=200)
    ask = ("psql", "-XAtq", "-h", place, "-U", "postgres", "-d", "app", "-c")
    there = "select not pg_is_in_recovery() or pg_get_wal_replay_pause_state() = 'paused'"
    try:
        wait_for(lambda: lab.gateway.run(*ask, there, user="barman").strip() == "t", "the end of the recovery")
        rows = lab.gateway.run(*ask, "select id, extract(epoch from at) from work", user="barman").split()
    finally:
        lab.gateway.run("pg_ctl", "-D", place, "-w", "-m", "immediate", "stop", user="barman")
    return {int(row): float(at) for row, at in (line.split("|") for line in rows)}


def compare(rows: dict[int, float], writes: list[Write], target: float) -> None:
    """Every row that the client had been told of by then is there, and none that it did not send, or sent later."""
    told = {write.row: write for write in writes if write.row is not None}
    failed = [write for write in writes if write.row is None]
    assert {row for row, write in told.items() if write.ended <= target} - rows.keys() == set()
    for row, at in rows.items():
        sent = [told[row]] if row in told else failed
        assert any(one.begun - MILLISECOND <= at <= one.ended + MILLISECOND for one in sent), (row, at)
        assert at <= target


@pytest.mark.parametrize("moment", ["before", "after"])
def test_recovery_to_a_moment(story: FailoverReport, moment: str) -> None:
    target = getattr(story, moment)
    time_of_it = datetime.fromtimestamp(target, UTC).isoformat()

    rows = recover(story.lab, moment, "--target-time", time_of_it)

    compare(rows, story.writes, target)
    assert rows.keys() != {write.row for write in story.writes if write.row is not None}


def test_recovery_of_all_there_is(story: FailoverReport) -> None:
    """Without get-wal, Barman copies the WAL of the backup's timeline only, unless it is told otherwise."""
    rows = recover(story.lab, "all", "--no-get-wal", "--target-tli", "latest")

    compare(rows, story.writes, time.time())
    assert rows.keys() == {int(row) for row in story.lab.db2.sql("select id from work", "app").split()}


def test_check_brings_the_history_file(story: FailoverReport) -> None:
    """The old primary is a standby now."""
    lab = story.lab
    serve_standbys(lab)
    rejoin(lab.db1, lab.db2)
    wait_for(lambda: follows(lab.db1, lab.db2), "db1 to follow db2")
    lab.db1.sql("alter system set restore_command = '/usr/bin/barman-wal-restore 10.0.0.20 main_backup %f %p'")
    lab.db1.pg_ctl("reload")
    wait_for(lambda: lab.db1.sql("show restore_command") != "", "the restore_command")

    show_backups_to_repmgr(lab)

    def content() -> bool:
        """That db1 has only just come back is not what is tested."""
        result = lab.gateway.hooks("check", "--restore", user="barman")
        print(result.stdout)
        return result.returncode == 0 and "node 1: restore_command fetches 00000002.history, " in result.stdout

    wait_for(content, "a check that is content", every=2)
