"""A timeline number used twice: no two branches flow into one archive, and the way out leads to a whole one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, nothing_missing, routes, worker_log
from tests.endtoend.test_continuity import close_file, configure_nodes, switchpoint
from tests.endtoend.test_point_in_time import recover
from tests.lab import CONFIG_FILE, DATA, Host, Lab, wait_for, wait_for_answer
from tests.lab.barman import archive, back_up

NAME = "BRANCH_CONFLICT: Barman "
STREAMING = "/var/lib/barman/main_backup/streaming"


@pytest.fixture(params=["Debian's Barman", "the newest Barman"])
def three(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Three nodes in service after a backup; nobody waits for a standby, and the gate not for long."""
    with fresh_lab(3, newest_barman=request.param != "Debian's Barman") as lab:
        lab.build_service()
        configure_nodes(lab, "synchronous_standby_names = ''\n")
        lab.append(lab.db3, f"{DATA}/postgresql.conf", "synchronous_standby_names = ''\n")
        lab.db3.pg_ctl("reload")
        text = lab.gateway.path(CONFIG_FILE).read_text()
        lab.put(lab.gateway, CONFIG_FILE, text.replace("fail_open_after: 120", "fail_open_after: 30"))
        lab.serve(repmgrd=False)
        back_up(lab, lab.db1)
        write(lab.db1, 5)
        yield lab


def write(host: Host, count: int) -> None:
    host.sql(f"insert into work select from generate_series(1, {count})", "app")


def rows(host: Host) -> set[int]:
    return {int(row) for row in host.sql("select id from work", "app").split()}


def caught_up(lab: Lab, primary: Host, standby: Host) -> None:
    wait_for(
        lambda: primary.sql("select pg_current_wal_lsn()") == standby.sql("select pg_last_wal_replay_lsn()"),
        f"{standby.name} to have replayed all",
    )


def leads_to(lab: Lab, host: Host) -> None:
    wait_for(lambda: routes(lab).get(54322) == host.address, f"the app port to lead to {host.name}", 120)


def go_through_db2(lab: Lab) -> set[int]:
    """db2 is promoted, writes what nobody will miss, and dies; return the rows that it has."""
    for host in (lab.db2, lab.db3):
        caught_up(lab, lab.db1, host)
    lab.db1.pg_ctl("stop", "-m", "immediate")
    lab.db2.sql("select pg_promote()")
    leads_to(lab, lab.db2)
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    for _ in range(3):
        write(lab.db2, 20)
        archive(lab, lab.db2)
    lost = rows(lab.db2)
    lab.db2.pg_ctl("stop", "-m", "immediate")
    return lost


def archive_of_timeline_2(lab: Lab) -> set[str]:
    """Every complete file of timeline 2 that Barman has: what has flowed in."""
    names = ("-name", "00000002????????????????", "-o", "-name", "00000002.history")
    found = lab.gateway.run("find", "/var/lib/barman/main_backup", "-type", "f", "(", *names, ")").split()
    return {path.rpartition("/")[2] for path in found}


def go_on_writing(host: Host, files: int = 6) -> None:
    """What only the true branch has, beyond all that Barman has of the other."""
    for _ in range(files):
        write(host, 11)
        close_file(host)
    host.sql("select txid_current()")


def nothing_flows_in(lab: Lab, host: Host, before: set[str]) -> None:
    for _ in range(2):
        lab.gateway.barman("-q", "cron")
        lab.gateway.barman("archive-wal", "main_backup", check=False)
    assert not barman_streams_from(host)
    assert archive_of_timeline_2(lab) == before


def type_the_way_out(lab: Lab, primary: Host) -> None:
    """What a person would do: type what is shown. No ``--wait``: see ``back_up``."""
    shown = lab.gateway.hooks("reconcile").stdout
    typed = re.search(r"to continue, run[^:]*: (.*?)\. Then make a base backup[^:]*: (.*)", shown)
    assert typed, shown
    for command in typed[1].split("; "):
        lab.gateway.run(*shlex.split(command), user="barman", check="--stop" not in command)
    wait_for_answer(lambda: lab.gateway.hooks("reconcile"), lambda said: said.returncode == 0, "Barman to stream")
    lab.gateway.run(*shlex.split(typed[2].splitlines()[0]), user="barman", limit=200)
    archive(lab, primary)
    lab.gateway.barman("check-backup", "main_backup", "latest")


def a_restore_equals(lab: Lab, host: Host, lost: set[int]) -> None:
    write(host, 7)
    archive(lab, host)
    restored = recover(lab, "restored", "--no-get-wal", "--target-tli", "latest").keys()
    assert restored == rows(host)
    assert restored != lost
    wait_for_answer(lambda: lab.gateway.hooks("check-wal"), lambda said: said.returncode == 0, "all to be whole")


def test_a_standby_that_never_followed_is_promoted(three: Lab) -> None:
    """Timeline 2 again, with the same switchpoint: the history files are equal, the WAL is not."""
    lab = three
    lost = go_through_db2(lab)
    before = archive_of_timeline_2(lab)
    lab.db3.sql("select pg_promote()")
    leads_to(lab, lab.db3)
    go_on_writing(lab.db3)
    assert switchpoint(lab.db3) > 0
    wait_for(lambda: NAME in "\n".join(worker_log(lab)), "the conflict to be said")
    nothing_flows_in(lab, lab.db3, before)
    status = wait_for_answer(lambda: lab.gateway.hooks("status"), lambda said: NAME in said.stdout, "status to name it")
    assert status.returncode == 1
    checked = lab.gateway.hooks("check-wal")
    assert checked.returncode == 1
    assert NAME in checked.stdout, checked.stdout
    assert "FAIL" in lab.gateway.hooks("check").stdout

    type_the_way_out(lab, lab.db3)
    wait_for(lambda: barman_streams_from(lab.db3), "Barman to stream from db3")
    a_restore_equals(lab, lab.db3, lost)
    wait_for(lambda: nothing_missing(lab), "an end of the conflict")


def test_the_old_primary_goes_on(three: Lab) -> None:
    """Timeline 1 goes on beyond the switchpoint; then the next promotion makes another timeline 2."""
    lab = three
    lost = go_through_db2(lab)
    before = archive_of_timeline_2(lab)
    lab.db1.pg_ctl("start")
    lab.gateway.hooks("reconcile", "--reset-state")
    leads_to(lab, lab.db1)
    wait_for(lambda: NAME in "\n".join(worker_log(lab)), "the conflict to be said")
    nothing_flows_in(lab, lab.db1, before)
    assert NAME in lab.gateway.hooks("check-wal").stdout

    wait_for(lambda: lab.db3.sql("select count(*) from pg_stat_wal_receiver") == "1", "db3 to receive again")
    go_on_writing(lab.db1, 2)
    caught_up(lab, lab.db1, lab.db3)
    lab.db1.pg_ctl("stop", "-m", "immediate")
    lab.db3.sql("select pg_promote()")
    leads_to(lab, lab.db3)
    go_on_writing(lab.db3)
    nothing_flows_in(lab, lab.db3, before)
    wait_for(lambda: NAME in lab.gateway.hooks("status").stdout, "the conflict in the status")
    assert NAME in lab.gateway.hooks("check-wal").stdout

    type_the_way_out(lab, lab.db3)
    wait_for(lambda: barman_streams_from(lab.db3), "Barman to stream from db3")
    a_restore_equals(lab, lab.db3, lost)
