"""A standby is cloned by Barman through its API, and `check --restore` knows when it would not be.

``tests/lab/backup_api.py`` stands for pg-backup-api; repmgr, Barman, ssh and PostgreSQL are real.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import follows
from tests.endtoend.test_hints import looked
from tests.endtoend.test_recovery import check, repmgr_conf
from tests.endtoend.typist import type_in
from tests.lab import BASE, DATA, Lab, versions, wait_for, wait_for_answer
from tests.lab.backup_api import HOLD
from tests.lab.barman import back_up, clone_by_api, clone_from_barman, serve_standbys, start_api, stop_api

JOBS = "/var/lib/barman/main_backup/jobs"
RESTORES = "/pg-backup-api recovery|/barman recover "
COMPLETE = "standby clone (from pg_backupapi) complete"


@pytest.fixture
def api_of_repmgr() -> None:
    """The repmgr of this machine can clone so."""
    if versions.repmgr() < "5.4":
        pytest.skip("repmgr 5.4 and newer clone through pg-backup-api")


@pytest.fixture(scope="module")
def served() -> Iterator[Lab]:
    """Two nodes in service, a backup, and the service; each test leaves them as they were, with db2 running."""
    with fresh_lab() as lab:
        lab.open(repmgrd=False)
        serve_standbys(lab)
        lab.append(lab.db1, f"{DATA}/postgresql.conf", "archive_mode = on\narchive_command = '/bin/true'\n")
        lab.db1.pg_ctl("restart", "-m", "fast")
        back_up(lab, lab.db1)
        clone_by_api(lab, lab.db2)
        lab.db1.sql("insert into work default values", "app")
        yield lab


@pytest.mark.usefixtures("api_of_repmgr")
def test_a_clone_that_joins(served: Lab) -> None:
    lab = served
    assert COMPLETE in clone_from_barman(lab, lab.db2, lab.db1, shown=True)
    wait_for(lambda: follows(lab.db2, lab.db1), "db2 to follow db1")
    registered = "select type, active, upstream_node_id from repmgr.nodes where node_id = 2"
    assert lab.db1.sql(registered, "repmgr") == "standby|t|1"
    lab.db1.sql("insert into work default values", "app")
    wait_for(lambda: lab.db2.sql("select count(*) from work", "app") == "2", "db2 to have both rows")


@pytest.mark.usefixtures("api_of_repmgr")
def test_barman_leaves_a_restored_node_without_archive_command(served: Lab) -> None:
    lab = served
    clone_from_barman(lab, lab.db2, lab.db1, shown=True)
    assert lab.db2.sql("show archive_command") == "false"
    wait_for_answer(
        lambda: {finding["where"] for finding in looked(lab) if finding["code"] == "nodes.archiving"},
        lambda where: where == {"main node 2"},
        "check to see it",
    )
    lab.db2.sql("alter system set archive_command = '/bin/true'")
    lab.db2.pg_ctl("reload")
    wait_for(lambda: "nodes.archiving" not in {finding["code"] for finding in looked(lab)}, "check to see it", every=2)


def test_check_on_a_way_that_is_well(served: Lab) -> None:
    before = served.gateway.result("ls", JOBS).stdout

    _, lines = check(served)

    assert lines[-1].startswith("OK    recovery.clone      main node 2: pg-backup-api at 10.0.0.20 takes backup 20")
    assert served.gateway.result("ls", JOBS).stdout == before, "nothing is restored"


@contextmanager
def stopped(lab: Lab) -> Iterator[None]:
    stop_api(lab)
    try:
        yield
    finally:
        start_api(lab)


@contextmanager
def silent(lab: Lab) -> Iterator[None]:
    """The kernel takes connections for it, and nobody answers."""
    lab.daemons["api"].send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        lab.daemons["api"].send_signal(signal.SIGCONT)


def line(name: str, value: str) -> Callable[[Lab], AbstractContextManager[None]]:
    """A line of the node's repmgr.conf that has another value."""

    def changed(lab: Lab) -> AbstractContextManager[None]:
        found = re.search(rf"^{name}=.*", lab.db2.path("/etc/repmgr/db2.conf").read_text(), re.MULTILINE)
        assert found
        return repmgr_conf(lab, found[0], f"{name}='{value}'")

    return changed


FAULTS: dict[str, tuple[Callable[[Lab], AbstractContextManager[None]], str]] = {
    "no service": (stopped, "does not answer at 10.0.0.20:7480: exit code 1: 10.0.0.20: connect: Connection refused"),
    "a silent service": (silent, "does not answer at 10.0.0.20:7480: not finished in time"),
    "another server": (line("pg_backupapi_node_name", "other"), "404: 404 Not Found: Server 'other' does not exist"),
    "a backup that is gone": (
        line("pg_backupapi_backup_id", "20200101T000000"),
        "404 Not Found: Backup '20200101T000000' does not exist",
    ),
    "no short cut of the service": (
        line("pg_backupapi_backup_id", "last-full"),
        "404 Not Found: Backup 'last-full' does not exist",
    ),
    "names too long": (
        line("pg_backupapi_host", "thirteen-long"),
        "have 24 characters; with more than 23 repmgr crashes",
    ),
    "another node": (line("pg_backupapi_remote_ssh_command", "ssh postgres@10.0.0.11"), "leads to another node"),
    "another user": (line("pg_backupapi_remote_ssh_command", "ssh barman@10.0.0.12"), "Permission denied"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_on_a_fault(served: Lab, fault: str) -> None:
    happens, said = FAULTS[fault]
    with happens(served):
        code, lines = check(served)

    failures = [line for line in lines if line.startswith("FAIL  recovery.clone")]
    assert len(failures) == 1, lines
    assert said in failures[0]
    assert code == 1


def test_a_backup_that_is_gone_is_replaced_as_the_hint_says(served: Lab) -> None:
    text = served.db2.path("/etc/repmgr/db2.conf").read_text()
    with line("pg_backupapi_backup_id", "20200101T000000")(served):
        (hint,) = [finding["hint"] for finding in looked(served, "--restore") if finding["code"] == "recovery.clone"]
        type_in(served, hint, "main node 2")
        assert served.db2.path("/etc/repmgr/db2.conf").read_text() == text
        assert not [finding for finding in looked(served, "--restore") if finding["code"] == "recovery.clone"]


def test_a_command_that_is_more_than_ssh_is_not_run(served: Lab) -> None:
    with line("pg_backupapi_remote_ssh_command", "touch /tmp/ran; ssh db2")(served):
        _, lines = check(served)
    assert any(line.startswith("WARN  recovery.clone") for line in lines)
    assert not served.gateway.path("/tmp/ran").exists()


# -- what check warns of, as repmgr does it ----------------------------------------------------------------------------


class Clone:
    """A clone of db2 that runs; ``said`` is what repmgr has written so far."""

    def __init__(self, lab: Lab) -> None:
        self.host, self.before = lab.db2, 0
        if (BASE / "db2-clone.log").exists():
            self.before = len(lab.db2.log("clone"))
        words = ("repmgr", "-f", "/etc/repmgr/db2.conf", "-h", "10.0.0.11", "-U", "repmgr", "-d", "repmgr")
        self.process = lab.db2.start(*words, "standby", "clone", user="postgres", log="clone")

    @property
    def said(self) -> str:
        return self.host.log("clone")[self.before :]

    def wait_for(self, words: str, times: int = 1) -> None:
        """Wait until repmgr has said something so many times, since this was called."""
        begun = self.said.count(words)
        wait_for(lambda: self.said.count(words) >= begun + times, f"{words!r} from repmgr")


@contextmanager
def restores_wait(lab: Lab) -> Iterator[None]:
    """Barman begins no restore meanwhile."""
    hold = lab.gateway.path(f"/var/lib/barman/{HOLD}")
    hold.touch()
    try:
        yield
    finally:
        hold.unlink()


@contextmanager
def clone(lab: Lab) -> Iterator[Clone]:
    """Clone db2 into an empty directory; it is as before afterwards."""
    lab.db2.pg_ctl("stop", "-m", "fast")
    data = lab.db2.path(DATA)
    kept = data.rename(data.with_name("kept"))
    running = Clone(lab)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(60)
        # Without repmgr it goes on, and would write into the directory that comes back.
        wait_for(lambda: not lab.gateway.result("pgrep", "-f", RESTORES).stdout, "Barman to end")
        lab.db2.run("rm", "-rf", DATA)
        kept.rename(data)
        lab.db2.pg_ctl("start")


@pytest.mark.usefixtures("api_of_repmgr")
def test_a_service_that_ends_and_comes_back(served: Lab) -> None:
    """repmgr repeats the last status that it has heard, and goes on as soon as there is another."""
    with clone(served) as running:
        with restores_wait(served):
            wait_for(lambda: "operation id" in running.said, "repmgr to have its operation")
            stop_api(served)
            try:
                running.wait_for("INFO: ", 3)
                assert running.process.poll() is None
            finally:
                start_api(served)
        assert running.process.wait(180) == 0, running.said
        assert COMPLETE in running.said


@pytest.mark.usefixtures("api_of_repmgr")
def test_a_restore_that_ends_without_a_word_is_waited_for_without_end(served: Lab) -> None:
    """As after a reboot of Barman's host; `check` says that a clone needs a time limit."""
    with restores_wait(served), clone(served) as running:
        recovery = "/pg-backup-api recovery main_backup"
        wait_for(lambda: served.gateway.result("pkill", "-KILL", "-f", recovery).returncode == 0, "the restore")
        running.wait_for("INFO: status IN_PROGRESS", 3)
        assert running.process.poll() is None
        assert "DONE" not in running.said


@pytest.mark.usefixtures("api_of_repmgr")
@pytest.mark.parametrize(("host", "lives"), [("twelve--long", True), ("thirteen-long", False)])
def test_repmgr_crashes_over_long_names(served: Lab, host: str, lives: bool) -> None:
    names = served.db2.path("/etc/hosts")
    text = names.read_text()
    names.write_text(f"{text}10.0.0.20 {host}\n")
    try:
        with line("pg_backupapi_host", host)(served), clone(served) as running:
            assert (running.process.wait(180) == 0) is lives, running.said
            assert "operation id" in running.said
            assert (COMPLETE in running.said) is lives
    finally:
        names.write_text(text)
