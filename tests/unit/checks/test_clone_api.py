"""What `check --restore` makes of a clone through pg-backup-api: its answers as recorded, asked on this host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repmgr_hooks.checks import clone
from repmgr_hooks.checks.clone_api import PLAIN_SSH
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.shell import Shell

BACKUP = "20261125T225439"
SETTINGS = {
    "pg_backupapi_host": "10.0.0.20",
    "pg_backupapi_node_name": "main_backup",
    "pg_backupapi_remote_ssh_command": "ssh postgres@10.0.0.12",
    "pg_backupapi_backup_id": BACKUP,
}
PROGRAMS = {
    # bash -c SCRIPT HOST REQUEST
    "bash": """#!/bin/sh
printf '%s' "$4" >>PLACE/asked
case "$4" in GET*) cat PLACE/status;; POST*) cat PLACE/post;; esac
""",
    "ssh": '#!/bin/sh\necho "$1" >>PLACE/led\nshift; "$@"\n',
    "rsync": "#!/bin/sh\n",
    "barman": "#!/bin/sh\necho 20261126T030000\necho 20261125T030000\n",
    "repmgr": "#!/bin/sh\ncat PLACE/version\n",
}
ALIVE = 'HTTP/1.0 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"OK"'
TAKEN = "HTTP/1.1 400 BAD REQUEST\r\n\r\n<p>Make sure all options/arguments are met and try again</p>"
NOT_THERE = f"""HTTP/1.1 404 NOT FOUND\r\n\r\n{{"error":"404 Not Found: Backup '{BACKUP}' does not exist"}}"""
NO_SERVER = """HTTP/1.1 404 NOT FOUND\r\n\r\n{"error":"404 Not Found: Server 'main_backup' does not exist"}"""


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place with all that a node and a service say; the data directory is ``data`` in it."""
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text.replace("PLACE", str(tmp_path)))
        (tmp_path / name).chmod(0o755)
    for name, text in (("status", ALIVE), ("post", TAKEN), ("version", "repmgr 5.5.0")):
        (tmp_path / name).write_text(text)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/postmaster.pid").write_text("99999999\n/data\n1764142442\n5432\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def found(node: Path, limit: int = 60, **changed: str) -> Finding:
    shell = Shell((), str(node / "data"), LocalHost({}), limit)
    settings = {name: value for name, value in {**SETTINGS, **changed}.items() if value}
    *warned, last = clone.findings(shell, Barman("main_backup"), {"pg_bindir": str(node), **settings}, "node 2")
    assert not warned
    return last


def test_all_is_well(node: Path) -> None:
    said = found(node)
    assert (said.level, said.code) == ("OK", "recovery.clone")
    assert "takes backup 20261125T225439 of main_backup" in said.message
    assert "repmgr waits without end for a service that is gone" in said.message
    asked = (node / "asked").read_bytes().decode()
    assert asked.startswith("GET /status HTTP/1.0\r\nHost: 10.0.0.20:7480\r\n")
    assert asked.endswith(f'\r\n\r\n{{"operation_type": "recovery", "backup_id": "{BACKUP}"}}')
    assert "destination" not in asked, "nothing may be restored"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("pg_backupapi_node_name", "", "repmgr.conf has pg_backupapi_host, but no pg_backupapi_node_name"),
        ("pg_backupapi_backup_id", "", "repmgr.conf has pg_backupapi_host, but no pg_backupapi_backup_id"),
        ("pg_backupapi_backup_id", "last-failed", "such a backup cannot be restored"),
        ("pg_backupapi_host", "http://10.0.0.20", "is not a name: http://10.0.0.20, main_backup"),
        ("pg_backupapi_host", "$(id)", "is not a name: $(id), main_backup"),
        ("pg_backupapi_node_name", "main/../x", "is not a name: 10.0.0.20, main/../x"),
        ("pg_backupapi_host", "thirteen-long", "have 24 characters; with more than 23 repmgr crashes in the middle"),
        ("pg_backupapi_remote_ssh_command", "ssh elsewhere", ""),
    ],
)
def test_a_line(node: Path, name: str, value: str, said: str) -> None:
    finding = found(node, **{name: value})
    assert said in finding.message
    assert finding.level == ("FAIL" if said else "OK")


def test_twenty_three_characters_are_not_too_many(node: Path) -> None:
    assert found(node, pg_backupapi_host="twelve--long").level == "OK"


@pytest.mark.parametrize("host", ["[2001:db8::20]", "[fe80::1%eth0]"])
def test_an_ipv6_address(node: Path, host: str) -> None:
    assert found(node, pg_backupapi_host=host, pg_backupapi_node_name="main").level == "OK"


@pytest.mark.parametrize(
    ("version", "level", "said"),
    [
        ("repmgr 5.3.3", "FAIL", "repmgr 5.3 ignores pg_backupapi_host: it would not clone from Barman"),
        ("repmgr 5.10.0", "OK", "takes backup"),
        ("", "WARN", "the version of its repmgr is unknown"),
    ],
)
def test_a_version(node: Path, version: str, level: str, said: str) -> None:
    (node / "version").write_text(version)
    finding = found(node)
    assert finding.level == level
    assert said in finding.message


def test_barman_host_goes_first(node: Path) -> None:
    shell = Shell((), str(node / "data"), LocalHost({}), limit=60)
    warned, *_ = clone.findings(shell, Barman("main"), {"barman_host": "x", **SETTINGS}, "node 2")
    assert (warned.level, warned.message) == (
        "WARN",
        "repmgr.conf has barman_host: repmgr does not use pg_backupapi_host",
    )


def test_barman_server_alone_is_no_other_way(node: Path) -> None:
    """repmgr looks at barman_host alone (repmgr-client.c, get_standby_clone_mode)."""
    assert found(node, barman_server="main_backup").level == "OK"


@pytest.mark.parametrize(
    ("file", "answer", "said"),
    [
        (
            "status",
            "HTTP/1.1 200 OK\r\n\r\n<html>It works!</html>",
            "does not answer at 10.0.0.20:7480: 200: <html>",
        ),
        ("status", "HTTP/1.1 502 Bad Gateway\r\nServer: nginx\r\n\r\n", "7480: 502: nothing"),
        ("status", "SSH-2.0-OpenSSH_10.0", "what answers speaks no HTTP: SSH-2.0-OpenSSH_10.0"),
        ("status", f"HTTP/1.1 200 OK\r\n\r\n{'[' * 60000}", "does not answer at 10.0.0.20:7480: 200: [[["),
        ("post", NOT_THERE, f"would not restore backup {BACKUP} of main_backup: 404: 404 Not Found: Backup '"),
        ("post", NO_SERVER, "404 Not Found: Server 'main_backup' does not exist"),
        ("post", "HTTP/1.1 400 Bad Request\r\n\r\nRequest header too large", "400: Request header too large"),
        ("post", 'HTTP/1.1 202 ACCEPTED\r\n\r\n{"operation_id":"1"}', "202: {"),
        ("post", 'HTTP/1.1 404 NOT FOUND\r\n\r\n["error"]', '404: ["error"]'),
        ("post", "HTTP/1.1 401 UNAUTHORIZED\r\n\r\n{\x1b[31m", "401: {\\x1b[31m"),
    ],
)
def test_an_answer(node: Path, file: str, answer: str, said: str) -> None:
    (node / file).write_text(answer)
    finding = found(node)
    assert finding.level == "FAIL"
    assert said in finding.message
    assert len(finding.message) < 400


def test_a_backup_that_the_service_does_not_know(node: Path) -> None:
    """Barman's newest is named, if it can be asked."""
    (node / "post").write_text(NOT_THERE)
    assert found(node).hint == "in its repmgr.conf: pg_backupapi_backup_id='20261126T030000'"
    assert found(node, pg_backupapi_node_name="other").hint == "name a backup that barman list-backup shows there"
    (node / "barman").write_text("#!/bin/sh\necho ERROR; exit 1\n")
    assert found(node).hint == "name a backup that barman list-backup shows there"


def test_a_short_cut_that_the_service_does_not_know(node: Path) -> None:
    (node / "post").write_text(NOT_THERE)
    assert found(node, pg_backupapi_backup_id="latest").message.endswith("(pg-backup-api has short cuts from 1.3.0 on)")


def test_a_short_cut_that_the_service_takes(node: Path) -> None:
    assert found(node, pg_backupapi_backup_id="latest").level == "OK"


def test_nobody_listens(node: Path) -> None:
    (node / "bash").write_text("#!/bin/sh\necho bash: connect: Connection refused >&2; exit 1\n")
    finding = found(node)
    assert "does not answer at 10.0.0.20:7480: exit code 1: bash: connect: Connection refused" in finding.message


def test_a_service_that_is_silent(node: Path) -> None:
    (node / "bash").write_text("#!/bin/sh\nexec sleep 600\n")
    assert "does not answer at 10.0.0.20:7480: not finished in time" in found(node, limit=5).message


@pytest.mark.parametrize(
    ("program", "text", "said"),
    [
        ("ssh", "echo Permission denied >&2; exit 255", "Barman does not get at the node's files by 'ssh postgres@"),
        ("ssh", "echo 4711", "'ssh postgres@10.0.0.12' leads to another node: its postmaster.pid is not this one's"),
        ("rsync", "echo no such rsync >&2; exit 127", "which the node lacks: exit code 127: no such rsync"),
    ],
)
def test_barmans_way_to_the_node(node: Path, program: str, text: str, said: str) -> None:
    (node / program).write_text(f"#!/bin/sh\n{text}\n")
    finding = found(node)
    assert finding.level == "FAIL"
    assert said in finding.message


@pytest.mark.parametrize(
    "command",
    [
        "ssh postgres@db2",
        "ssh db2",
        "/usr/bin/ssh -q -p 2222 -i ~/.ssh/id -l postgres db2.example.com",
        "ssh -o BatchMode=yes -oConnectTimeout=5 postgres@2001:db8::12",
    ],
)
def test_a_plain_ssh(command: str) -> None:
    assert PLAIN_SSH.fullmatch(command)


@pytest.mark.parametrize(
    "command",
    [
        "touch /tmp/x",
        "ssh db2; touch /tmp/x",
        "ssh -oProxyCommand=x db2",
        "ssh -o ProxyCommand=x db2",
        "ssh -F /tmp/config db2",
        "ssh -J other db2",
        "ssh $(id)",
        "ssh -E /tmp/log db2",
        "ssh db2 rm",
        "ssh -o StrictHostKeyChecking=no db2",
        "ssh -oPermitLocalCommand=yes db2",
        "./ssh db2",
    ],
)
def test_a_command_that_could_do_anything_is_not_run(node: Path, command: str) -> None:
    finding = found(node, pg_backupapi_remote_ssh_command=command)
    assert finding.level == "WARN"
    assert f"is more than ssh to a host, and was not tried: {command}" in finding.message
    assert not (node / "led").exists()
