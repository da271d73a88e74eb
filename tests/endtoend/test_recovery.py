"""A standby has its backup and its WAL from Barman, and `check --restore` knows when it would not."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import follows
from tests.lab import DATA, Host, Lab, versions, wait_for
from tests.lab.barman import back_up, clone_from_barman, serve_standbys

BACKUPS = "/var/lib/barman/main_backup/base"
META = "/var/lib/barman/main_backup/meta"
KEY = "/var/lib/postgresql/.ssh/id_ed25519"
RESTORE = "/usr/bin/barman-wal-restore 10.0.0.20 main_backup %f %p"


@pytest.fixture(scope="module")
def cloned() -> Iterator[Lab]:
    """Two nodes in service; db2 was cloned from Barman. Each test leaves it as it was."""
    with fresh_lab() as lab:
        lab.open(repmgrd=False)
        serve_standbys(lab)
        back_up(lab, lab.db1)
        lab.db1.sql("insert into work default values", "app")
        assert "standby clone (from Barman) complete" in clone_from_barman(lab, lab.db2, lab.db1)
        wait_for(lambda: follows(lab.db2, lab.db1), "db2 to follow db1")
        lab.start_passive_repmgrd()
        yield lab


def test_clone_from_barman(cloned: Lab) -> None:
    lab = cloned
    registered = "select type, active, upstream_node_id from repmgr.nodes where node_id = 2"
    assert lab.db1.sql(registered, "repmgr") == "standby|t|1"
    assert lab.db2.sql("select pg_is_in_recovery(), current_setting('restore_command')") == f"t|{RESTORE}"
    lab.db1.sql("insert into work default values", "app")
    wait_for(lambda: lab.db2.sql("select count(*) from work", "app") == "2", "db2 to have both rows")
    assert "restored log file" in lab.db2.path(f"{DATA}/server.log").read_text()


@contextmanager
def out_of_reach(host: Host, primary: Host) -> Iterator[None]:
    """A standby and its primary no longer hear each other; everything else goes on."""
    rule = f"INPUT -s {host.address} -p tcp --dport 5432 -j REJECT --reject-with tcp-reset"
    primary.run("iptables", "-I", *rule.split())
    primary.sql(f"select pg_terminate_backend(pid) from pg_stat_replication where application_name = '{host.name}'")
    try:
        yield
    finally:
        primary.run("iptables", "-D", *rule.split())


def test_catching_up_through_restore_command(cloned: Lab) -> None:
    lab = cloned
    lab.append(lab.db1, f"{DATA}/postgresql.conf", "wal_keep_size = 0\nmin_wal_size = '32MB'\nmax_wal_size = '48MB'\n")
    lab.db1.pg_ctl("reload")
    with out_of_reach(lab.db2, lab.db1):
        wait_for(lambda: not follows(lab.db2, lab.db1), "db2 to lose its stream")
        write = "insert into work default values returning pg_walfile_name(pg_current_wal_insert_lsn())"
        closed = []
        for _ in range(5):
            closed.append(lab.db1.sql(write, "app"))
            lab.db1.sql("select pg_switch_wal()")
        there = "select string_agg(name, ' ') from pg_ls_waldir()"

        def removed() -> bool:
            """Not before Barman, through its slot, has received it."""
            lab.db1.sql("checkpoint")
            return closed[0] not in lab.db1.sql(there)

        wait_for(removed, "db1 to have the first no more", every=1)
        last = lab.db1.sql("select max(id) from work", "app")

        wait_for(lambda: lab.db2.sql("select max(id) from work", "app") == last, "db2 to have all rows", 60)

        log = lab.db2.path(f"{DATA}/server.log").read_text()
        assert all(f'restored log file "{name}" from archive' in log for name in closed)
        assert not follows(lab.db2, lab.db1)
    wait_for(lambda: follows(lab.db2, lab.db1), "db2 to stream again")


def check(lab: Lab) -> tuple[int, list[str]]:
    """The exit code of `check --restore`, and what it says about recovery, as the service's user."""
    result = lab.gateway.hooks("check", "--restore", user="barman")
    entries = re.split(r"\n(?! )", result.stdout)
    return result.returncode, [entry for entry in entries if re.search(r"recovery\.(?!history)", entry)]


def test_check_on_a_good_standby(cloned: Lab) -> None:
    lab = cloned

    wait_for(lambda: check(lab)[0] == 0, "a check that is content", every=2)

    code, lines = check(lab)

    assert code == 0
    assert [line[:4] for line in lines] == ["OK  "] * 3
    assert "restore_command fetches 00000001" in lines[0]
    assert lines[0].endswith(", 16777216 bytes")
    assert lines[1].endswith("asked for a file that does not exist, gives 1")
    assert "of main_backup, and rsync fetches it" in lines[2]


@contextmanager
def restore_command(lab: Lab, line: str) -> Iterator[None]:
    """db2 has another restore_command."""

    def change(value: str) -> None:
        lab.db2.sql(f"alter system set restore_command = '{value}'")
        lab.db2.pg_ctl("reload")
        wait_for(lambda: lab.db2.sql("show restore_command") == value, "the other restore_command")

    change(line)
    try:
        yield
    finally:
        change(RESTORE)


@contextmanager
def away(host: Host, place: str) -> Iterator[None]:
    """A file or directory is gone."""
    path = host.path(place)
    kept = path.rename(path.with_name(path.name + "-away"))
    try:
        yield
    finally:
        kept.rename(path)


@contextmanager
def repmgr_conf(lab: Lab, old: str, new: str) -> Iterator[None]:
    """The repmgr.conf of db2 says something else."""
    place, text = "/etc/repmgr/db2.conf", lab.db2.path("/etc/repmgr/db2.conf").read_text()
    assert old in text
    lab.put(lab.db2, place, text.replace(old, new))
    try:
        yield
    finally:
        lab.put(lab.db2, place, text)


@contextmanager
def no_backup(lab: Lab) -> Iterator[None]:
    """From Barman 3.13.2 on the list of backups stands in a directory of its own."""
    with ExitStack() as gone:
        for place in (BACKUPS, META):
            if lab.gateway.path(place).exists():
                gone.enter_context(away(lab.gateway, place))
        yield


def pg_control(lab: Lab) -> str:
    """Where Barman keeps this file of its backup."""
    backup = max(lab.gateway.run("ls", BACKUPS).split())
    return f"{BACKUPS}/{backup}/data/global/pg_control"


@contextmanager
def unreadable(host: Host, place: str) -> Iterator[None]:
    """A file that its owner may not read."""
    host.path(place).chmod(0)
    try:
        yield
    finally:
        host.path(place).chmod(0o600)


FAULTS: dict[str, tuple[Callable[[Lab], AbstractContextManager[None]], str]] = {
    "no key": (
        lambda lab: away(lab.db2, KEY),
        "ssh to barman@10.0.0.20 in batch mode fails: exit code 255",
    ),
    "no restore_command": (
        lambda lab: restore_command(lab, ""),
        "no restore_command: WAL that the primary no longer has is lost to it",
    ),
    "restore_command: other server": (
        lambda lab: restore_command(lab, RESTORE.replace("main_backup", "other_backup")),
        "which Barman has: exit code 1: ERROR: Unknown server 'other_backup'",
    ),
    "restore_command: other path": (
        lambda lab: restore_command(lab, RESTORE.replace("/usr/bin", "/opt/bin")),
        "barman-wal-restore: not found\n      HINT: PostgreSQL shuts down after a code over 125",
    ),
    "restore_command: always 0": (
        lambda lab: restore_command(lab, f"{RESTORE} || true"),
        "asked for a file that does not exist, gives exit code 0",
    ),
    "no backup": (no_backup, "a clone finds no backup of main_backup: exit code 1"),
    "backup not to be read": (
        lambda lab: unreadable(lab.gateway, pg_control(lab)),
        "/data/global/pg_control: exit code 23: ",
    ),
    "compressed backup": (
        lambda lab: away(lab.gateway, pg_control(lab)),
        "has no file data/global/pg_control; a clone wants plain files",
    ),
    "repmgr.conf: other server": (
        lambda lab: repmgr_conf(lab, "barman_server='main", "barman_server='other"),
        "a clone finds no backup of other_backup: exit code 1",
    ),
    "repmgr.conf: pg_backupapi too early": (
        lambda lab: repmgr_conf(lab, "barman_host='barman@10.0.0.20'\nbarman_server", "pg_backupapi_host"),
        "repmgr 5.3 ignores pg_backupapi_host: it would not clone from Barman",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_on_a_fault(cloned: Lab, fault: str) -> None:
    happens, said = FAULTS[fault]
    if "too early" in fault and versions.repmgr() != "5.3":
        pytest.skip("repmgr 5.4 and newer clone through pg-backup-api")
    with happens(cloned):
        code, lines = check(cloned)

    failures = [line for line in lines if line.startswith("FAIL")]
    assert len(failures) == 1, lines
    assert said in failures[0]
    assert code == 1


def test_check_without_a_way_to_the_standby(cloned: Lab) -> None:
    lab = cloned
    config = lab.gateway.path("/etc/repmgr-hooks/config.yaml")
    text = config.read_text()
    config.write_text(text.replace(", shell: [ssh, -o, BatchMode=yes, postgres@10.0.0.12]", ""))
    try:
        code, lines = check(lab)
    finally:
        config.write_text(text)
    assert code == 0
    (line,) = lines
    assert line.startswith("WARN  recovery.wal        main node 2: nothing was tried on it")
