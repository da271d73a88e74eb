"""What `check --restore` makes of a restore_command and a repmgr.conf; the shell and the programs are real."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks import clone
from repmgr_hooks.checks.clone import login
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.checks.recovery import Restore, findings, proofs
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.repmgr_conf import settings_in
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.shell import Shell
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"].cluster
BARMAN = Barman("main_backup")

SEGMENT = 1024 * 1024
WAL, HISTORY = "0000000200000001000000FE", "00000002.history"
FILES = {WAL, HISTORY, "0000000100000001000000FF", "00000001.history", f"{WAL[:-1]}F.partial", "backup.info"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A data directory with an archive beside it, whose files are whole."""
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / WAL).write_bytes(b"w" * SEGMENT)
    (tmp_path / "archive" / HISTORY).write_text("1\t1/FE000000\tno recovery target specified\n")
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def shown(finding: Finding) -> str:
    """A finding in one line, without its key."""
    return f"{finding.level:4}  {finding.where}: {finding.message}" + (f"; {finding.hint}" if finding.hint else "")


def proved(directory: Path, command: str, files: set[str] = FILES) -> list[str]:
    shell = Shell((), str(directory), LocalHost({}), limit=2 if "sleep" in command else 60)
    found = [shown(finding) for finding in proofs(shell, Restore(command, SEGMENT, "0A"), files, "node 2")]
    assert not Path(shell.place).exists()
    assert list(directory.iterdir()) == []
    return found


def test_a_good_restore_command(directory: Path) -> None:
    assert proved(directory, "cp ../archive/%f %p") == [
        f"OK    node 2: restore_command fetches {WAL}, {SEGMENT} bytes",
        f"OK    node 2: restore_command fetches {HISTORY}, 42 bytes",
        "OK    node 2: restore_command, asked for a file that does not exist, gives 1",
    ]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("cp ../archive/%f %p; true", "asked for a file that does not exist, gives exit code 0"),
        ("cp ../archive/%f %p || exit 255", "shuts down after a code over 125"),
        ("head -c 1000 ../archive/%f >%p", f"brings 1000 bytes of {WAL}; a WAL file has {SEGMENT}"),
        ("cp ../archive/%f elsewhere_; rm elsewhere_", f"brings 0 bytes of {WAL}; a WAL"),
        ("/no/such/program %f %p", "exit code 127: sh: 1: /no/such/program: not found; PostgreSQL shuts down"),
        ("cp ../elsewhere/%f %p", f"does not fetch {WAL}, which Barman has: exit code 1: cp: cannot stat"),
        ("case %f in *.history) : >%p;; *) cp ../archive/%f %p;; esac", f"brings 0 bytes of {HISTORY}"),
        ("sleep 600", f"does not fetch {WAL}, which Barman has: not finished in time"),
        ("kill -9 $$", "shuts down after a code over 125"),
        ("cat", f"brings 0 bytes of {WAL}"),
        ("echo \"that's\" '%%' >&2; false", "exit code 1: that's %"),
    ],
)
def test_a_bad_restore_command(directory: Path, command: str, said: str) -> None:
    *good, last = proved(directory, command)
    assert all(line.startswith("OK  ") for line in good)
    assert last.startswith("FAIL")
    assert said in last


@pytest.mark.parametrize(("option", "warned"), [("-P", True), ("--partial", True), ("--peek", False)])
def test_partial_files_are_not_for_a_standby(directory: Path, option: str, warned: bool) -> None:
    first, *_ = proved(directory, f"cp ../archive/%f %p # barman get-wal {option} main")
    assert first.startswith("WARN" if warned else "OK")


def test_nothing_to_restore_yet(directory: Path) -> None:
    (found,) = proved(directory, "cp ../archive/%f %p", {"00000001.history"})
    assert found.startswith("FAIL  node 2: Barman has no WAL file yet that could be restored")


def test_no_history_before_the_first_failover(directory: Path) -> None:
    assert len(proved(directory, "cp ../archive/%f %p", {WAL})) == 2


def test_the_programs_are_looked_for_where_the_postmaster_does(directory: Path) -> None:
    own = Path("/proc/self/stat").read_text().split()[0]
    shell = Shell(("env", "PATH=/nowhere:/usr/bin:/bin"), str(directory), LocalHost({}))
    assert "/nowhere" in shell.run("echo $PATH").said
    (directory / "postmaster.pid").write_text(f"{own}\n")
    assert "/nowhere" not in shell.run("echo $PATH").said


def test_no_agent_helps(directory: Path) -> None:
    shell = Shell(("env", "SSH_AUTH_SOCK=/tmp/agent"), str(directory), LocalHost({}))
    assert shell.run("echo ${SSH_AUTH_SOCK-none}").said == "none"


@pytest.mark.parametrize(("code", "let_in"), [(0, True), (1, True), (255, False)])
def test_a_key_that_may_not_run_everything_is_let_in_all_the_same(directory: Path, code: int, let_in: bool) -> None:
    ssh = directory.parent / "ssh"
    ssh.write_text(f"#!/bin/sh\necho Permission denied; exit {code}\n")
    ssh.chmod(0o755)
    shell = Shell(("env", f"PATH={ssh.parent}:/usr/bin:/bin"), str(directory), LocalHost({}))
    wrong = login(shell, {"barman_host": "barman@backup"}, "node 2")
    assert (wrong is None) is let_in
    assert wrong is None or "exit code 255: Permission denied" in wrong.message


def test_a_host_that_is_an_option_runs_nothing(directory: Path) -> None:
    """The repmgr.conf is where ``repmgr.nodes`` says."""
    mark = directory.parent / "ran"
    shell = Shell((), str(directory), LocalHost({}))
    assert login(shell, {"barman_host": f"-oProxyCommand=touch {mark}"}, "node 2") is not None
    assert not mark.exists()


def test_a_way_that_leads_nowhere(directory: Path) -> None:
    with pytest.raises(OperationFailed, match="exit code 255: Host key verification failed"):
        Shell(("sh", "-c", "echo Host key verification failed. >&2; exit 255"), str(directory), LocalHost({})).run(
            "true"
        )
    with pytest.raises(OperationFailed, match="true sh: did not run to its end"):
        Shell(("true",), str(directory), LocalHost({})).run("true")


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("a = 'it''s \\'x\\'' # comment", {"a": "it's 'x'"}),
        ("a='1'\na='2'", {"a": "2"}),
        ("  #a='1'\nnode_id=2#x\nb=''\n= 3\n", {"node_id": "2", "b": ""}),
        (
            "restore_command='/usr/bin/barman-wal-restore h s %f %p'",
            {"restore_command": "/usr/bin/barman-wal-restore h s %f %p"},
        ),
    ],
)
def test_repmgr_conf(text: str, settings: dict[str, str]) -> None:
    assert settings_in(text) == settings


def found_in(host: FakeHost) -> list[str]:
    return [shown(finding) for finding in findings(MAIN, host)]


def test_a_standby_that_does_not_answer() -> None:
    host = FakeHost()
    host.lose(2)
    assert found_in(host) == ["FAIL  main node 2: connection timeout expired; nothing more was tested on it"]


def test_no_standby() -> None:
    host = FakeHost()
    del host.nodes[2]
    found = findings(replace(MAIN, nodes={1: MAIN.nodes[1]}), host)
    assert [shown(finding) for finding in found] == ["WARN  main: there is no standby: nothing was tested"]


def test_barman_does_not_work() -> None:
    host = FakeHost()
    host.barman.health = "ruins"
    (found,) = found_in(host)
    assert found.startswith("FAIL  main: barman show-server main_backup: exit code 1: ERROR: cannot open")


def test_without_barman_nothing_is_proved() -> None:
    found = findings(replace(MAIN, barman=None), FakeHost())
    assert [shown(finding) for finding in found] == ["WARN  main: no section 'barman': nothing was tested"]


# -- a clone, file by file ---------------------------------------------------------------------------------------------

BACKUP = "20261125T225439"
SSH_HERE = """#!/bin/sh
while [ "$1" != -- ]; do shift; done
shift 2; exec sh -c "$*"
"""
BARMAN_HERE = """#!/bin/sh
case "$*" in
  *show-backup*) printf '{"main_backup": {"backup_id": "20261125T225439", "status": "%s"}}' "$(cat HOME/status)";;
  *list-files*) find HOME/base -type f | LC_ALL=C sort;;
esac
"""
RSYNC_HERE = """#!/bin/sh
while [ "$#" -gt 2 ]; do shift; done
exec cp -a "${1#*:}" "$2"
"""


@pytest.fixture
def barmans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Barman's directory of a server with a backup, on a host that ssh leads to, as Barman before 3.13.2 has it."""
    home, programs = tmp_path / "main_backup", tmp_path / "programs"
    for directory in (home / "base" / BACKUP / "data/global", home / "meta", programs):
        directory.mkdir(parents=True)
    for name in ("backup.info", "data/PG_VERSION", "data/backup_label", "data/global/pg_control"):
        (home / "base" / BACKUP / name).write_text("version=170000\n")
    (home / "status").write_text("DONE")
    for name, text in (("ssh", SSH_HERE), ("barman", BARMAN_HERE), ("rsync", RSYNC_HERE)):
        (programs / name).write_text(text.replace("HOME", str(home)))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    return home


def would_clone(tmp_path: Path) -> Finding:
    shell = Shell((), str(tmp_path), LocalHost({}), limit=60)
    (found,) = clone.findings(shell, BARMAN, {"barman_host": "backup", "barman_server": "main_backup"}, "node 2")
    assert not Path(shell.place).exists()
    return found


def moved(home: Path) -> None:
    """As Barman 3.13.2 and newer has it."""
    (home / "base" / BACKUP / "backup.info").rename(home / "meta" / f"{BACKUP}-backup.info")


def test_a_backup_whose_description_is_elsewhere(barmans: Path, tmp_path: Path) -> None:
    """repmgr would end with "cannot open file", and with the description there it copies all files but that."""
    assert would_clone(tmp_path).level == "OK"
    moved(barmans)
    found = would_clone(tmp_path)
    assert found.level == "FAIL"
    assert found.message == (
        f"a clone wants {barmans}/base/{BACKUP}/backup.info, which Barman 3.13.2 and newer has elsewhere"
    )
    now, script = found.hint.removeprefix("as Barman's user: ").split("; and so that each new backup has it, ")
    LocalHost({}).run(Program(("sh", "-ec", now)), 5)
    assert would_clone(tmp_path).level == "OK", "what was typed helps"

    (barmans / "base" / BACKUP / "backup.info").unlink()
    hook = script.removeprefix("in Barman's file: post_backup_script = ")
    LocalHost({}).run(Program(("sh", "-ec", hook), env={"BARMAN_BACKUP_ID": BACKUP}), 5)
    assert would_clone(tmp_path).level == "OK", "and so does Barman itself, after the next backup"


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (f"base/{BACKUP}/data/global/pg_control", "has no file data/global/pg_control"),
        (f"base/{BACKUP}", f"Barman lists no file of backup {BACKUP}: nothing"),
    ],
)
def test_a_backup_that_lacks_files(barmans: Path, tmp_path: Path, lost: str, said: str) -> None:
    (barmans / lost).rename(barmans / "lost")
    assert said in would_clone(tmp_path).message


def test_a_description_that_is_empty(barmans: Path, tmp_path: Path) -> None:
    info = barmans / "base" / BACKUP / "backup.info"
    info.write_text("")
    assert f"rsync does not fetch {info}" in would_clone(tmp_path).message


def test_a_backup_that_waits_for_wal(barmans: Path, tmp_path: Path) -> None:
    """A new one would wait as this does."""
    (barmans / "status").write_text("WAITING_FOR_WALS")
    found = would_clone(tmp_path)
    assert "its newest is WAITING_FOR_WALS" in found.message
    switch, look = found.hint.split(" && ")
    assert (switch, look) == (
        "barman switch-wal --force --archive main_backup",
        "barman check-backup main_backup latest",
    )
