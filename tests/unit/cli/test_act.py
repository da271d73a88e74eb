"""The commands of an operator, with a fake world and a journal of their own: output and exit codes."""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from repmgr_hooks.cli import values
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.event import Event
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.pauses import pause_of
from tests.fake import FakeHost, step_row

PROMOTED = Event(2, "standby_promote", True, 1, "2026-11-20 03:00:00+00")
NODE_2 = "10.0.0.12:5432"

RunResult = Callable[..., int]


def past(journal: Journal, ok: bool, message: str, events: int = 1, attempt: int = 1) -> int:
    """A run that has ended."""
    numbers = [journal.add_event("main", PROMOTED, time.time()) for _ in range(events)]
    run = journal.begin_run("main", "event", attempt, numbers)
    journal.add_step(run, step_row("slot {on: primary}", "create slot", 5.0, 1.25, "" if ok else "no such node"))
    journal.end_run(run, ok, not ok, message, 2, 2)
    return run


# -- status ------------------------------------------------------------------------------------------------------------


def test_status_of_a_healthy_cluster(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("status") == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == "main: primary is node 1, timeline 1 (the only node out of recovery)"
    assert len(rest) == 9 + len(["service: none is running", "HINT"])


@pytest.mark.parametrize("command", ["status --json", "metrics"])
@pytest.mark.parametrize("wrong", ["pragma user_version = 9999", "drop table event"])
def test_a_journal_that_cannot_be_used_is_shown_to_machines_too(
    run: RunResult, journal: Journal, capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str, wrong: str
) -> None:
    """Who reads JSON or metrics does not see stderr."""
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.db")) as db:
        db.execute(wrong)
        db.commit()
    assert run(*command.split()) == 1
    said = capsys.readouterr()
    assert "journal.db" in said.err
    if command == "metrics":
        assert 'repmgr_hooks_healthy{cluster="main"} 0\n' in said.out
    else:
        (status,) = json.loads(said.out).values()
        assert status["healthy"] is False
        assert [warning["code"] for warning in status["warnings"]] == ["journal"]


def test_status_of_a_cluster_in_trouble(run: RunResult, capsys: pytest.CaptureFixture[str], host: FakeHost) -> None:
    host.fail_over()
    assert run("status") == 1
    assert "PENDING route port app to node 2" in capsys.readouterr().out
    assert host.changes == []


@pytest.mark.parametrize(("lost", "code"), [([], 0), ([1], 1)])
def test_status_for_machines(
    run: RunResult, capsys: pytest.CaptureFixture[str], host: FakeHost, lost: list[int], code: int
) -> None:
    for number in lost:
        host.lose(number)
    assert run("status", "--json") == code
    plain = json.loads(capsys.readouterr().out)
    assert list(plain) == ["main"]
    assert plain["main"]["healthy"] is (code == 0)
    assert plain["main"]["decision"]["primary"] == (None if lost else 1)


# -- history -----------------------------------------------------------------------------------------------------------


def test_history_of_nothing(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history") == 0
    assert capsys.readouterr().out == "nothing yet\n"
    assert run("history", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []


def test_history_tells_the_story(run: RunResult, capsys: pytest.CaptureFixture[str], journal: Journal) -> None:
    past(journal, False, "FAILED after 1.0 s")
    past(journal, True, "done: 1 step(s), 1.2 s", events=8, attempt=2)
    assert run("history") == 0
    failed, event, step, message, good, *rest = capsys.readouterr().out.splitlines()
    assert failed.endswith("  main  FAILED  event")
    assert event == "    event 1: standby_promote of node 2"
    assert step == "    1.25 s  create slot: FAILED: no such node"
    assert message == "    FAILED after 1.0 s"
    assert good.endswith("  main  ok  event, attempt 2")
    assert rest == [
        "    2 more before these",
        *(f"    event {number}: standby_promote of node 2" for number in range(4, 10)),
        "    1.25 s  create slot",
        "    done: 1 step(s), 1.2 s",
    ]


def test_history_of_what_runs_and_of_what_was_cut_off(
    run: RunResult, capsys: pytest.CaptureFixture[str], journal: Journal
) -> None:
    journal.begin_run("main", "boot", 1, [])
    assert run("history") == 0
    assert "  main  running  boot\n" in capsys.readouterr().out
    journal.release_cut_off()
    assert run("history") == 0
    assert "  main  FAILED  boot\n    cut off\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ([], ["a", "b", "c"]),
        (["-n", "2"], ["b", "c"]),
        (["--failed"], ["b"]),
        (["--cluster", "main", "-n", "1"], ["c"]),
        (["-n", "0"], []),
    ],
)
def test_history_for_machines(
    run: RunResult, capsys: pytest.CaptureFixture[str], journal: Journal, argv: list[str], shown: list[str]
) -> None:
    for message in "abc":
        past(journal, message != "b", message)
    assert run("history", "--json", *argv) == 0
    plain = json.loads(capsys.readouterr().out)
    assert [found["message"] for found in plain] == shown
    for found in plain:
        assert found["events"][0]["name"] == "standby_promote"
        assert found["events"][0]["other_node"] == 1
        assert found["steps"][0]["duration"] == 1.25


@pytest.mark.parametrize("command", ["status", "history", "pause", "resume", "reconcile"])
def test_a_cluster_that_is_not_there(run: RunResult, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run(command, "--cluster", "mian") == 2
    assert "has no cluster 'mian'\nHINT: did you mean 'main'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("check-wal --newest 1GB", "add --deep"),
        ("check-wal --within 1s", "add --deep"),
        ("history --failover last -n 3", "leave out -n and --failed"),
        ("history --failover last --failed", "leave out -n and --failed"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(
    run: RunResult, capsys: pytest.CaptureFixture[str], words: str, hint: str
) -> None:
    """Who forgot --deep believed that the records were followed."""
    assert run(*words.split()) == 2
    assert capsys.readouterr().err.endswith(f"HINT: {hint}\n")


# -- pause and resume --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1s", 1), ("007m", 420), ("24h", 86400)]
)
def test_how_long(text: str, seconds: int) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "90", "1d", "1.5h", "-5m", "5 m", "5M", "h2", "²s", "1h30m", "+5s", "1_0s"])
def test_no_such_time(text: str, run: RunResult, capsys: pytest.CaptureFixture[str], journal: Journal) -> None:
    with pytest.raises(argparse.ArgumentTypeError):
        values.duration(text)
    with pytest.raises(SystemExit) as ended:
        run("pause", f"--for={text}")
    assert ended.value.code == 2
    assert "is not a time such as 90s, 30m or 2h" in capsys.readouterr().err
    assert journal.paused("main") is None


def test_a_pause_is_written_down_and_shown(
    run: RunResult, capsys: pytest.CaptureFixture[str], journal: Journal
) -> None:
    assert run("pause", "--reason", "new disks") == 0
    assert capsys.readouterr().out == "main: PAUSED until it is resumed: events are stored, nothing is done\n"
    found = journal.paused("main")
    assert found and (found.until, found.reason) == (None, "new disks")
    assert run("status") == 1
    assert (
        "  PAUSED until it is resumed (new disks)\n  HINT: to end it: repmgr-hooks resume\n" in capsys.readouterr().out
    )


def test_a_pause_for_a_while(run: RunResult, capsys: pytest.CaptureFixture[str], journal: Journal) -> None:
    assert run("pause", "--for", "30m") == 0
    found = journal.paused("main")
    assert found and found.until and abs(found.until - time.time() - 1800) < 600
    clock = time.strftime("%H:%M:%S", time.localtime(found.until))
    assert capsys.readouterr().out.startswith(f"main: PAUSED until {clock}: ")


@pytest.mark.parametrize("text", ["999999999999999h", "9" * 400 + "h"], ids=len)
def test_a_pause_for_ever_and_a_day(run: RunResult, journal: Journal, text: str) -> None:
    try:
        code = run("pause", "--for", text)
    except SystemExit as ended:
        code = int(ended.code or 0)
    assert code in (0, 2)


def test_a_pause_for_no_time_is_refused(run: RunResult, journal: Journal) -> None:
    with pytest.raises(SystemExit) as ended:
        run("pause", "--for", "0s")
    assert ended.value.code == 2


def test_resume_ends_the_pause_and_makes_up_for_it(run: RunResult, journal: Journal, host: FakeHost) -> None:
    run("pause")
    host.fail_over()
    assert run("resume") == 0
    assert journal.paused("main") is None
    assert host.leads_to(host.app_port) == NODE_2
    (made,) = journal.runs(9)
    assert (made.cause, made.ok) == ("resume", True)


@pytest.mark.parametrize("command", ["resume", "reconcile", "replay 1 primary_register"])
def test_who_may_not_change_rules_is_told_so_at_once(
    run: RunResult, journal: Journal, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """As barman it tried for two minutes, and a failed run was recorded."""
    journal.pause("main", None, "new disks")
    monkeypatch.setattr("os.geteuid", lambda: 34)
    monkeypatch.setattr("repmgr_hooks.cli.rights.may_change_rules", lambda: False)
    assert run(*command.split()) == 2
    assert capsys.readouterr().err.endswith("root's to change, and nothing was done\nHINT: run it as root\n")
    assert journal.paused("main") is not None
    assert journal.runs(10) == []
    assert run("reconcile", "--dry-run") == 0


def test_resume_without_a_pause(run: RunResult, journal: Journal, host: FakeHost) -> None:
    assert run("resume") == 0
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"


def test_resume_when_the_primary_is_unknown(run: RunResult, journal: Journal, host: FakeHost) -> None:
    run("pause")
    host.lose(1)
    assert run("resume") == 1
    assert journal.paused("main") is None


def test_a_configuration_with_a_mistake_can_be_paused_but_not_resumed(
    run: RunResult, journal: Journal, host: FakeHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was paused stays so until it is known what is to be done."""
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text() + "no_such_option: 1\n")
    assert run("pause") == 0
    assert run("resume") == 2
    assert "no_such_option: unknown option" in capsys.readouterr().err
    assert journal.paused("main")
    assert pause_of("main", None, tmp_path)


@pytest.mark.parametrize("command", ["status", "history", "pause", "resume", "reconcile", "metrics", "check-wal"])
def test_what_only_a_gateway_can_do(
    run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    forwarding = f"state_dir: {tmp_path}\nforward: {{gateways: {{a: {{command: [/bin/true]}}}}}}\n"
    (tmp_path / "config.yaml").write_text(forwarding)
    assert run(command) == 2
    assert "it is the file of a database host\nHINT: run this on a gateway" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


# -- replay, reconcile, boot -------------------------------------------------------------------------------------------


def test_an_event_of_the_journal_again(run: RunResult, journal: Journal, host: FakeHost) -> None:
    number = journal.add_event("main", PROMOTED, 5.0)
    journal.end_run(journal.begin_run("main", "event", 1, [number]), False, False, "", None, 0)
    host.fail_over()
    assert run("replay", "--id", str(number)) == 0
    assert host.leads_to(host.app_port) == NODE_2
    last = journal.runs(1)[0]
    assert (last.cause, last.ok) == ("replay", True)
    assert [item.event for item in journal.events_of(last.id)] == [PROMOTED]


def test_an_event_of_the_journal_as_a_dry_run(
    run: RunResult, journal: Journal, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    number = journal.add_event("main", PROMOTED, 5.0)
    host.fail_over()
    assert run("replay", "--dry-run", "--id", str(number)) == 0
    assert "  would route port app to node 2 (10.0.0.12)\n" in capsys.readouterr().out
    assert (host.changes, journal.runs(9)) == ([], [])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--id", "7"], "the journal has no event 7\nHINT: 'repmgr-hooks history' shows their numbers"),
        (["--id", "7", "2", "standby_promote"], "give either --id or the words of an event, not both"),
        ([], "got 0 arguments"),
    ],
)
def test_a_replay_of_nothing(run: RunResult, capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert run("replay", *argv) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("number", ["-1", "", "x", "9" * 30, "9" * 5000])
def test_what_is_no_number_of_an_event(run: RunResult, capsys: pytest.CaptureFixture[str], number: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run("replay", "--id", number)
    assert ended.value.code == 2
    assert "is not the number of an event; see 'history'" in capsys.readouterr().err


def test_an_event_of_a_cluster_that_is_gone(
    run: RunResult, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    number = journal.add_event("former", PROMOTED, 5.0)
    assert run("replay", "--id", str(number)) == 2
    assert "has no cluster 'former'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["reconcile", "boot"])
def test_by_hand_and_at_boot(run: RunResult, journal: Journal, host: FakeHost, command: str) -> None:
    host.fail_over()
    assert run(command) == 0
    assert host.leads_to(host.app_port) == NODE_2
    assert [(made.cause, made.ok) for made in journal.runs(9)] == [(command, True)]


def test_a_failure_is_exit_code_1_and_written_down(
    run: RunResult, journal: Journal, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.fail_over()
    host.barman.health = "ruins"
    assert run("reconcile") == 1
    (made,) = journal.runs(9)
    assert (made.ok, made.again) == (False, True)
    assert "No space left on device" in made.message
    assert "No space left on device" in capsys.readouterr().out


def test_a_bug_is_exit_code_3(run: RunResult, host: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*words: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(host, "fetch_each", bug)
    assert run("reconcile") == 3


# -- a journal that cannot be used -------------------------------------------------------------------------------------


def newer(tmp_path: Path) -> None:
    Journal(tmp_path / "journal.db").close()
    with sqlite3.connect(tmp_path / "journal.db") as other:
        other.execute("pragma user_version = 99")
    other.close()


@pytest.mark.parametrize("command", ["history", "pause", "resume"])
def test_what_needs_the_journal_says_so(
    run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    newer(tmp_path)
    assert run(command) == 1
    line, hint = capsys.readouterr().err.splitlines()
    assert line.endswith("is of a newer version (99) than this program")
    assert hint == "HINT: upgrade repmgr_hooks"


@pytest.mark.parametrize("argv", [["reconcile"], ["boot"], ["replay", "2", "standby_promote"]])
def test_what_repairs_the_cluster_goes_on_without_it(
    run: RunResult, tmp_path: Path, host: FakeHost, capsys: pytest.CaptureFixture[str], argv: list[str]
) -> None:
    newer(tmp_path)
    host.fail_over()
    assert run(*argv) == 0
    assert host.leads_to(host.app_port) == NODE_2
    assert (
        "newer version (99) than this program; going on without it\nHINT: upgrade repmgr_hooks\n"
        in capsys.readouterr().out
    )


def test_status_says_what_is_true_without_a_journal(
    run: RunResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer(tmp_path)
    assert run("status") == 1
    assert "main: primary is node 1" in capsys.readouterr().out


# -- a failed run, and what an operator does about it ------------------------------------------------------------------


def test_a_failed_run_is_forgotten_after_a_good_reconcile(run: RunResult, journal: Journal) -> None:
    past(journal, False, "Barman is in ruins")
    assert run("status") == 1
    assert run("reconcile") == 0
    assert run("status") == 0


# -- simulate-failover -------------------------------------------------------------------------------------------------


def test_a_simulation_shows_each_step_and_changes_nothing(
    run: RunResult, journal: Journal, host: FakeHost, capsys: pytest.CaptureFixture[str]
) -> None:
    host.nodes[2].upstream = 1
    assert run("simulate-failover", "2") == 0
    shown = capsys.readouterr().out
    assert "as if node 2 were promoted now, to timeline 2" in shown
    assert "\n  would route port app to node 2 (10.0.0.12)\n    iptables-restore" in shown
    assert host.changes == []
    assert journal.runs(9) == []


def test_a_simulation_of_a_failover_that_would_fail(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("simulate-failover", "2") == 1
    assert "node 2 receives no WAL from node 1: what is written there now would be lost" in capsys.readouterr().out


def test_a_simulation_knows_what_the_journal_remembers(run: RunResult, journal: Journal, host: FakeHost) -> None:
    """Node 1 would be a stale primary."""
    host.nodes[2].upstream = 1
    journal.remember("main", LastKnownPrimary(1, 9, host.nodes[1].system_identifier))
    assert run("simulate-failover", "2") == 1
