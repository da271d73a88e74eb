"""What ``check`` says on a database host, and on its gateway about such hosts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repmgr_hooks import hook
from repmgr_hooks.checks import database_host, from_hosts, repmgr
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.checks.users import user_of
from repmgr_hooks.cli import main as cli
from repmgr_hooks.config import load as load_gateway
from repmgr_hooks.event import Event, Origin, Report
from repmgr_hooks.forward import settings
from repmgr_hooks.forward.letter import letter
from repmgr_hooks.forward.queue import GatewayQueue
from repmgr_hooks.journal.hosts import HostRow, last_heard
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.repmgr_conf import RepmgrConf, read
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost
from tests.unit.conftest import CONFIG


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The file of a database host."""
    (tmp_path / "spool").mkdir()
    path = tmp_path / "config.yaml"
    path.write_text(f"state_dir: {tmp_path}\nforward:\n  gateways: {{gw1: {{command: [ssh, gw1], timeout: 1}}}}\n")
    return path


def by_code(path: Path) -> dict[str, Finding]:
    return {each.code: each for each in database_host.findings(settings.load(path), path, FakeHost(), False)}


def conf(tmp_path: Path, line: str) -> RepmgrConf:
    path = tmp_path / "repmgr.conf"
    path.write_text(f"node_id=2\nevent_notification_command='{line}'\n")
    return read(path)


def test_a_host_without_a_forwarder(there: Path) -> None:
    found = by_code(there)
    assert (found["config.file"].level, found["forward.running"].level) == ("OK", "FAIL")
    assert found["forward.running"].hint == "systemctl enable --now repmgr-hooks-forward.service"
    assert found["forward.queue"].message == "no event waits; none has been taken yet"


def test_a_forwarder_that_listens(there: Path) -> None:
    os.mkfifo(there.parent / "spool" / hook.WAKE)
    reader = os.open(there.parent / "spool" / hook.WAKE, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert by_code(there)["forward.running"].level == "OK"
    finally:
        os.close(reader)


def test_a_forwarder_that_leaves_events_where_they_are(there: Path) -> None:
    """As when no queue can be written; these are empty, and were all that was looked at."""
    spool = there.parent / "spool"
    os.mkfifo(spool / hook.WAKE)
    reader = os.open(spool / hook.WAKE, os.O_RDONLY | os.O_NONBLOCK)
    try:
        (spool / "01800000000000000100-7").touch()
        assert by_code(there)["forward.running"].level == "OK"
        os.utime(spool / "01800000000000000100-7", (1, 1))
        found = by_code(there)["forward.running"]
        assert (found.level, found.hint) == ("FAIL", "journalctl -u repmgr-hooks-forward says why")
        assert "leaves 1 event(s) in" in found.message
    finally:
        os.close(reader)


def test_events_that_wait_too_long(there: Path) -> None:
    queue = GatewayQueue(there.parent / "forward" / "gw1")
    queue.add([letter("01800000000000000100-7", ["main", "2", "standby_promote"])])
    assert by_code(there)["forward.queue"].level == "OK"
    os.utime(there.parent / "forward" / "gw1" / queue.names()[0], (1, 1))
    found = by_code(there)["forward.queue"]
    assert found.level == "FAIL"
    assert found.message.startswith("1 event(s) wait, the oldest for ")


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ('true event --cluster main %n %e %s "%p" "%t"', "OK"),
        ('true event %n %e %s "%p" "%t"', "OK"),
        ("true event %n %e %s %p %t", "FAIL"),
        ('true event %n %e %s "%p" "%t" "%d"', "FAIL"),
        ("true event %e %n", "FAIL"),
        ("no-such-program event %n %e", "FAIL"),
        ("", "FAIL"),
        ("true event '' %n \"", "FAIL"),
    ],
)
def test_the_line_in_repmgr_conf(tmp_path: Path, line: str, level: str) -> None:
    (found,) = repmgr.of_hosts_file(conf(tmp_path, line.replace("'", "''")))
    assert found.level == level, found


def test_the_command_reads_the_file_of_a_database_host(there: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--config", str(there), "check", "--json"]) == 1
    codes = [each["code"] for each in json.loads(capsys.readouterr().out)]
    assert {"config.file", "files.spool", "forward.running", "forward.queue"} <= set(codes)


@pytest.mark.parametrize("command", ["status", "worker", "reconcile"])
def test_other_commands_say_that_this_is_no_gateway(
    there: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["--config", str(there), command]) == 2
    assert "forward" in capsys.readouterr().err


# -- on the gateway ----------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    shell = "1: {host: 10.0.0.11, shell: [ssh, db1]}"
    path.write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(tmp_path)).replace("1: {host: 10.0.0.11}", shell))
    return path


def heard(*rows: tuple[str, int, float]) -> list[HostRow]:
    return [HostRow(name, node, "repmgrd_start", 100.0, ahead) for name, node, ahead in rows]


def test_a_node_that_its_own_host_reports_needs_no_file_here(gateway: Path) -> None:
    loaded = load_gateway(gateway)
    managed = loaded.clusters["main"]
    me = user_of(os.geteuid())
    found = {each.where: each for each in repmgr.look(loaded, managed, [], me, {}, heard(("db1", 1, 0.0)))}
    assert (found["main node 1"].level, found["main node 2"].level) == ("OK", "WARN")
    assert "repmgrd_start of node 1 from db1" in found["main node 1"].message


def test_clocks_that_are_off(gateway: Path) -> None:
    managed = load_gateway(gateway).clusters["main"]
    assert list(from_hosts.clocks(managed, [])) == []
    assert [each.level for each in from_hosts.clocks(managed, heard(("db1", 1, -9.0)))] == ["OK"], "ssh may be slow"
    (found,) = from_hosts.clocks(managed, heard(("db1", 1, -9.0), ("db2", 2, -40.0)))
    assert (found.level, found.message) == ("WARN", "the clock of db2 is 40 s behind this host's")


class Shell(FakeHost):
    """A shell on a database host; what the check that is run there prints."""

    said = ""

    def run(self, program: Program, limit: float) -> str:
        assert program.argv == ("ssh", "db1", "sh"), "a login shell says more than was asked"
        assert "check --end-to-end --json" in program.stdin
        return self.said


@pytest.fixture
def reported(journal: Journal) -> Iterator[Callable[[str], None]]:
    def add(name: str) -> None:
        number = f"{200 + len(last_heard(journal, 'main')):011d}000000000-1"
        journal.add_events([(Report("main", Event(1, name), Origin("db1", number, -1e10)), 1e11, name)])

    yield add


def test_a_host_that_is_asked_to_send_an_event(
    gateway: Path, journal: Journal, reported: Callable[[str], None]
) -> None:
    managed, host = load_gateway(gateway).clusters["main"], Shell()
    assert list(from_hosts.look(managed, host, journal)) == [], "nothing has come from any host"
    reported("repmgrd_start")
    host.said = json.dumps([{"level": "FAIL", "message": "the forwarder does not run"}])
    (found,) = from_hosts.look(managed, host, journal)
    assert (found.level, found.message) == ("FAIL", "the forwarder does not run")
    host.said = "Permission denied"
    (found,) = from_hosts.look(managed, host, journal)
    assert found.message.startswith("the check on its host cannot be run")
    host.said = "[]"
    (found,) = from_hosts.look(managed, host, journal)
    assert found.message == "no event of its host has arrived within 10 s"
    reported("repmgr_hooks_check")
    (found,) = from_hosts.look(managed, host, journal)
    assert found.level == "OK"
