"""``may-promote``: exit code 4 is the only veto, and whatever fails is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import clock
from repmgr_hooks.cli import may_promote as module
from repmgr_hooks.cli.may_promote import VETO, readable
from repmgr_hooks.config import Config
from repmgr_hooks.journal.last_seen import LastSeen, PrimaryPosition, Publisher
from tests.fake import FakeHost

SEEN = LastSeen("main", None, 0, "nobody", "", (), 5, last_primary=PrimaryPosition(1, 1, 2**40))
Ask = Callable[..., tuple[int, str]]


@pytest.fixture
def ask(
    run: Callable[..., int],
    host: FakeHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Ask:
    """Ask for node 2, and return the exit code and the one line."""
    monkeypatch.setattr(module, "LocalHost", lambda conninfos, **_: host)
    monkeypatch.setattr(module.clock, "sleep", lambda seconds: None)
    monkeypatch.setattr(module, "WAIT", 0.2)

    def asked(*words: str) -> tuple[int, str]:
        code = run("may-promote", "--directory", str(tmp_path), *words, "2")
        output = capsys.readouterr()
        assert output.out.count("\n") == 1
        return code, output.out.strip()

    return asked


def test_the_primary_serves(ask: Ask) -> None:
    assert ask() == (VETO, "node 2 must not be promoted: node 1 answers the gateway as the primary")


def test_it_is_gone(ask: Ask, host: FakeHost) -> None:
    host.nodes[1].reachable = False
    assert ask() == (0, "node 2 may be promoted")


def test_too_much_would_be_lost(ask: Ask, host: FakeHost, tmp_path: Path) -> None:
    host.nodes[1].reachable = False
    Publisher(tmp_path, "main").publish(SEEN)
    assert ask() == (0, "node 2 may be promoted")
    assert ask("--max-lost-wal", "1GB")[0] == VETO


def test_only_a_look_of_the_service_after_the_question_counts(ask: Ask, host: FakeHost, tmp_path: Path) -> None:
    """And what it saw before a step that it is taking is older than it looks."""
    host.nodes[1].reachable = False
    publisher = Publisher(tmp_path, "main")
    publisher.publish(replace(SEEN, primary=1))
    assert ask() == (0, "node 2 may be promoted")
    publisher.extend(90)
    assert ask() == (0, "node 2 may be promoted")


def test_such_a_look(ask: Ask, host: FakeHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host.nodes[1].reachable = False
    look = Publisher(tmp_path, "main")
    monkeypatch.setattr(module.clock, "sleep", lambda seconds: look.publish(replace(SEEN, primary=1)))
    look.publish(replace(SEEN, primary=1))
    assert ask() == (VETO, "node 2 must not be promoted: repmgr-hooks.service reaches node 1, the primary")


def test_a_bug_is_no_veto(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> list[str]:
        raise TypeError("a bug\nof two lines")

    monkeypatch.setattr(module, "found", broken)
    code, said = ask()
    assert code == 0
    assert said.startswith("node 2 may be promoted; it is not known what speaks against it: a bug")


def test_a_node_that_is_not_ours_and_no_configuration(ask: Ask, tmp_path: Path) -> None:
    assert ask("--cluster", "other")[0] == 0
    (tmp_path / "config.yaml").write_text("clusters: [")
    assert ask()[0] == 0


def test_the_limit() -> None:
    """Whatever it waits for."""
    asked = (
        "import time; from repmgr_hooks.cli.may_promote import limited\n"
        "with limited(0.2): time.sleep(600)\n"
        "raise SystemExit(4)"
    )
    ran = subprocess.run((sys.executable, "-c", asked), capture_output=True, text=True, timeout=120, check=False)
    assert (ran.returncode, ran.stdout) == (0, "may be promoted; there was no answer within 0 s\n")


def test_a_password_file_of_the_service(loaded: Config, tmp_path: Path) -> None:
    """repmgrd's user cannot read it, and has its own."""
    cluster = loaded.clusters["main"].cluster
    there = tmp_path / "pgpass"
    there.touch()
    for passfile, expected in (("/nowhere/pgpass", ""), (str(there), str(there)), ("", "")):
        given = replace(cluster, postgres=replace(cluster.postgres, passfile=passfile))
        assert readable(given).postgres.passfile == expected


def test_the_clock_of_the_boot() -> None:
    assert clock.since_boot() > 0
