"""What a queue calls out while a cluster lives: a real journal, a fake world, and somebody who listens."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.alerts import receivers
from repmgr_hooks.checks import alerts as alert_checks
from repmgr_hooks.cli import configured
from repmgr_hooks.cli import main as cli
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.observe import NodeState, Slot
from repmgr_hooks.config import Config
from repmgr_hooks.engine import dispatcher
from repmgr_hooks.engine.run import RunObserver
from repmgr_hooks.errors import UsageError
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import slot
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.settings.backoff import Backoff
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.host import LocalHost
from tests.fake import FakeHost

NOBODY = 65534
FILE = Path(__file__).resolve().parents[3] / "config/config.yaml"
TEXT = FILE.read_text()
ALERTS = "alerts:\n  - {mail: [root]}\n"
NOTIFY = "      - on: [standby_failure]\n        do: [notify: {severity: critical}]\n"


class Listens:
    """Keeps the conditions that are open, and all that was ever said."""

    def __init__(self) -> None:
        self.open: dict[str, Alert] = {}
        self.happened: list[Alert] = []

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        self.open = {alert.condition: alert for alert in found}

    def tell(self, alert: Alert) -> None:
        self.happened.append(alert)


def load(tmp_path: Path, text: str) -> Config:
    (tmp_path / "config.yaml").write_text(text.replace("/var/lib/repmgr-hooks", str(tmp_path)))
    loaded = config.load(tmp_path / "config.yaml")
    return replace(loaded, service=replace(loaded.service, retry=Backoff(5, 300, 3)))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[ClusterController, FakeHost, float], None]:
    """Let time pass, on the wall and on the clock that never jumps."""
    wall = [1_800_000_000.0]
    monkeypatch.setattr(time, "time", lambda: wall[0])

    def pass_(queue: ClusterController, host: FakeHost, seconds: float) -> None:
        end = host.now() + seconds
        while host.now() < end:
            pause = max(min(queue.work(), end - host.now()), 0.1)
            wall[0] += pause
            host.sleep(pause)

    return pass_


Later = Callable[[ClusterController, FakeHost, float], None]


def served(tmp_path: Path, journal: Journal, text: str = TEXT) -> tuple[ClusterController, FakeHost, Listens]:
    loaded, host, listens = load(tmp_path, text), FakeHost(), Listens()
    return ClusterController(loaded.clusters["main"], journal, host, loaded, listens), host, listens


def test_while_all_is_well_nothing_is_called_out(tmp_path: Path, journal: Journal, later: Later) -> None:
    queue, host, listens = served(tmp_path, journal)
    later(queue, host, 60)
    assert (listens.open, listens.happened) == ({}, [])


def test_a_primary_is_unknown_and_found_again(tmp_path: Path, journal: Journal, later: Later) -> None:
    queue, host, listens = served(tmp_path, journal)
    later(queue, host, 60)
    host.lose(1)
    later(queue, host, 20)
    assert listens.open == {}
    later(queue, host, 20)
    assert list(listens.open) == ["primary"]
    host.promote(2)
    later(queue, host, 20)
    assert listens.open == {}


def test_while_a_primary_is_waited_for_nothing_is_over(tmp_path: Path, journal: Journal, later: Later) -> None:
    """Also after a restart in the middle of it."""
    queue, host, listens = served(tmp_path, journal)
    host.lose(1)
    later(queue, host, 60)
    loaded = load(tmp_path, TEXT)
    again = ClusterController(loaded.clusters["main"], journal, host, loaded, listens)
    later(again, host, 20)
    assert list(listens.open) == ["primary"]


def test_a_stale_primary_is_called_out_until_it_is_gone(tmp_path: Path, journal: Journal, later: Later) -> None:
    queue, host, listens = served(tmp_path, journal)
    host.fail_over()
    later(queue, host, 20)
    host.nodes[1].reachable = True
    later(queue, host, 20)
    assert list(listens.open) == ["stale_primary"]
    host.nodes[1].in_recovery = True
    later(queue, host, 20)
    assert listens.open == {}


def test_barman_in_ruins_opens_the_gate_and_is_given_up_in_the_end(
    tmp_path: Path, journal: Journal, later: Later
) -> None:
    queue, host, listens = served(tmp_path, journal)
    host.barman.health = "ruins"
    host.fail_over()
    later(queue, host, 150)
    assert list(listens.open) == ["gate"]
    later(queue, host, 600)
    assert list(listens.open) == ["gate", "run"]
    assert listens.open["run"].summary == "given up after 3 attempts: barman {stream: true, min_stream_age: 0}"
    host.barman.health = "good"
    journal.add_event("main", Event(2, "standby_promote"), time.time())
    later(queue, host, 200)
    assert listens.open == {}


def test_what_a_cluster_called_for_before_a_restart_it_calls_for_after_it(
    tmp_path: Path, journal: Journal, later: Later
) -> None:
    queue, host, listens = served(tmp_path, journal)
    host.barman.health = "ruins"
    host.fail_over()
    later(queue, host, 750)
    loaded, again = load(tmp_path, TEXT), Listens()
    ClusterController(loaded.clusters["main"], journal, host, loaded, again).work()
    assert again.open == listens.open != {}


def test_a_journal_that_breaks_is_called_out(tmp_path: Path, journal: Journal) -> None:
    queue, _, listens = served(tmp_path, journal)
    journal.close()
    queue.work()
    (alert,) = listens.happened
    assert (alert.condition, alert.severity) == ("journal", "warning")


def test_a_route_tells_of_its_events(tmp_path: Path, journal: Journal) -> None:
    text = TEXT.replace("\nclusters:\n", f"\n{ALERTS}clusters:\n").replace("    routes:\n", f"    routes:\n{NOTIFY}")
    queue, host, _ = served(tmp_path, journal, text)
    journal.add_event("main", Event(2, "standby_failure"), time.time())
    queue.work()
    (alert,) = host.told
    assert (alert.condition, alert.severity, alert.momentary) == ("standby_failure of node 2", "critical", True)
    assert alert.summary == "standby_failure of node 2; the primary is node 1, timeline 1"
    (run,) = journal.runs(9)
    assert [step.what for step in journal.steps(run.id)] == ["send an alert: standby_failure of node 2"]


@pytest.mark.parametrize(("megabytes", "said"), [(100, 0), (101, 1)])
def test_the_primarys_slot_holds_too_much(tmp_path: Path, megabytes: int, said: int) -> None:
    cluster = load(tmp_path, TEXT).clusters["main"].cluster
    held = Slot("barman", True, None, 16 * 1024 * 1024, "extended")
    state = NodeState(1, in_recovery=False, lsn=(16 + megabytes) * 1024 * 1024, slots=(held,))
    options = slot.Config("primary", max_retained_wal="100MB")
    warnings = list(slot.warnings(options, ClusterState(cluster, 1, 1, {1: state})))
    assert len(warnings) == said
    assert all("slot barman on node 1 holds more than 100MB of WAL" in str(warning) for warning in warnings)


# -- the configuration -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alerts", "said"),
    [
        ("[{mail: []}]", "alerts[0]: must have one of 'mail', 'webhook' and 'exec'"),
        ("[{mail: ['a b']}]", "alerts[0].mail[0]: must be a mail address"),
        ("[{mail: [a@b], severity: urgent}]", "alerts[0].severity: must be one of warning, critical"),
        ("[{webhook: 'ftp://x'}]", "alerts[0]: 'webhook' must be a URL"),
        ("[{exec: [page]}]", "alerts[0].exec: must be a list that begins with the absolute path"),
        ("[{exec: [/no/such/program]}]", "alerts[0].exec: the program is refused"),
        ("[{mail: [a@b], timeout: 0}]", "alerts[0].timeout: must be between 1 and 120"),
        ("{mail: [a@b]}", "alerts: must be a list"),
    ],
)
def test_a_mistake_under_alerts(tmp_path: Path, alerts: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        load(tmp_path, f"alerts: {alerts}\n{TEXT}")
    assert said in str(refused.value)


def test_a_route_that_tells_nobody(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"clusters.main.routes\[0\].do\[0\].notify: there is no receiver under 'alerts'"
    ):
        load(tmp_path, TEXT.replace("    routes:\n", f"    routes:\n{NOTIFY}"))


def test_what_stands_in_the_file_as_a_comment_is_right(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(TEXT.replace("# alerts:", "alerts:").replace("#   - {", "  - {"))
    loaded = config.load(path, here=False)  # the program is not on this machine
    assert [bool(receiver.mail) for receiver in loaded.service.alerts] == [True, False, False]


# -- check -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text(f'#!/bin/sh\ncat > {tmp_path}/letter\nexit "$(cat {tmp_path}/code)"\n')
    sendmail.chmod(0o755)
    (tmp_path / "code").write_text("0")
    for module in (receivers, alert_checks):
        monkeypatch.setattr(module, "SENDMAIL", str(sendmail))
    monkeypatch.setattr(alert_checks, "POSTDROP", str(tmp_path / "postdrop"))

    def run(text: str, *more: str) -> int:
        load(tmp_path, text)
        return cli.run(["--config", str(tmp_path / "config.yaml"), "check", *more])

    return run


def test_a_test_message(check: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    check(ALERTS + TEXT, "--send-test-alert")
    assert "alerts.test         mail root: sent" in capsys.readouterr().out
    assert "WARNING main: a test of repmgr-hooks check --send-test-alert" in (tmp_path / "letter").read_text()


def test_a_test_message_that_fails(
    check: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code").write_text("75")
    assert check(ALERTS + TEXT, "--send-test-alert") == 1
    assert "FAIL  alerts.test         mail root: " in capsys.readouterr().out


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_test_message_that_only_root_could_send(tmp_path: Path) -> None:
    loaded = load(tmp_path, "alerts:\n  - {exec: [/usr/bin/test, -w, /]}\n" + TEXT)
    os.chown(loaded.state_dir, NOBODY, NOBODY)
    findings = alert_checks.sent(loaded, LocalHost({}))
    assert [(found.level, found.code) for found in findings] == [("FAIL", "alerts.test")]


def test_a_test_message_to_nobody(check: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert check(TEXT, "--send-test-alert") == 1
    assert (
        "no receiver is configured: alerts are not sent\n      HINT: name a receiver under 'alerts'\n"
        in capsys.readouterr().out
    )


def test_a_sendmail_that_the_service_may_not_use(
    check: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(ALERTS + TEXT)
    assert "smtp" not in capsys.readouterr().out
    (tmp_path / "postdrop").touch(0o755)
    (tmp_path / "postdrop").chmod(0o2755)
    check(ALERTS + TEXT)
    assert "WARN " in (said := capsys.readouterr().out)
    assert "add 'smtp_relay: 127.0.0.1'" in said


def test_a_secret_that_all_may_read(
    check: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "webhook"
    for mode, warned in ((0o640, False), (0o644, True)):
        file.touch()
        file.chmod(mode)
        check(f"alerts: [{{webhook: {file}}}]\n{TEXT}")
        assert (f"chmod o-r {file}" in capsys.readouterr().out) is warned


# -- the log of a command ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["reconcile"], ["boot"], ["replay", "2", "standby_promote"], ["resume"]])
def test_every_line_of_a_command_is_an_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    host = FakeHost()
    host.fail_over()
    monkeypatch.setattr(configured, "LocalHost", lambda conninfos, **_: host)
    load(tmp_path, TEXT)
    assert cli.run(["--config", str(tmp_path / "config.yaml"), command[0], "--log", "json", *command[1:]]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["cluster"] for line in lines} == {"main"}
    assert [line["message"] for line in lines if "run" in line]


class Looker(RunObserver):
    """Notes what is waited for."""

    def __init__(self) -> None:
        super().__init__(self._note)
        self.shown: list[tuple[str, float]] = []

    def _note(self, what: str, seconds: float) -> AbstractContextManager[None]:
        self.shown.append((what, seconds))
        return nullcontext()


@pytest.mark.parametrize("health", ["good", "ruins"])
def test_who_looks_on_sees_what_is_waited_for(tmp_path: Path, health: str) -> None:
    host, looker = FakeHost(), Looker()
    host.fail_over()
    host.barman.health = health
    dispatcher.handle(load(tmp_path, TEXT).clusters["main"], host, [], observer=looker)
    assert looker.shown[0] == ("a node that is out of recovery", 30)
    what = [text for text, _ in looker.shown]
    good = ("start Barman's receive-wal, until it streams from node 2", 60) in looker.shown
    assert good is (health == "good")
    assert any(text.startswith("to try again: ") for text in what) is (health == "ruins")
    assert all(0 < seconds <= 120 for _, seconds in looker.shown)
