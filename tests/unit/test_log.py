"""The form of the log: for a terminal, for a file, for journald, for a collector; and what is shown while one waits."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import pytest

from repmgr_hooks import log as log_module
from repmgr_hooks.cli import logged, output
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.log import Form, about, formatter, goes_to_journal, hint

log = logging.getLogger("repmgr_hooks.somewhere")


@pytest.fixture(autouse=True)
def no_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JOURNAL_STREAM", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def written(tmp_path: Path, say: Callable[[TextIO], None]) -> list[str]:
    with (tmp_path / "log").open("w") as stream:
        say(stream)
        output.all_written()
    return (tmp_path / "log").read_text().splitlines()


def test_in_a_file_a_line_has_the_time_and_no_colour(tmp_path: Path) -> None:
    def say(stream: TextIO) -> None:
        logged.show_log_lines(stream)
        log.error("no %s", "answer")

    (line,) = written(tmp_path, say)
    assert line[2::3][:2] == "::"
    assert line[8:] == " E no answer"


def test_in_the_journal_a_line_has_its_priority_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(stream: TextIO) -> None:
        there = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
        logged.show_log_lines(stream)
        log.info("done")
        log.warning("drift")
        log.error("two\nlines")
        try:
            raise KeyError("a bug")
        except KeyError:
            log.exception("oh")

    lines = written(tmp_path, say)
    assert lines[:5] == ["<6>done", "<4>drift", "<3>two", "<3>lines", "<3>oh"]
    assert all(line.startswith("<3>") for line in lines[5:])
    assert lines[-1] == "<3>KeyError: 'a bug'"


def test_what_is_only_inherited_from_a_service_is_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that a service starts has the variable too, and writes elsewhere."""
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    with (tmp_path / "log").open("w") as stream:
        assert not goes_to_journal(stream)
    assert not goes_to_journal(io.StringIO())


def test_for_a_collector_each_line_is_an_object_that_says_what_it_is_about(tmp_path: Path) -> None:
    def say(stream: TextIO) -> None:
        logged.show_log_lines(stream, "json")
        log.info("no %s", "cluster")
        with about(cluster="main", named=True), about(run=5, events=[7]):
            log.error("two\nlines")
        try:
            raise KeyError("a bug")
        except KeyError:
            log.exception("oh")

    first, second, third = (json.loads(line) for line in written(tmp_path, say))
    time.strptime(first.pop("time")[:19], "%Y-%m-%dT%H:%M:%S")
    assert first == {"level": "info", "message": "no cluster"}
    del second["time"]
    assert second == {"level": "error", "cluster": "main", "run": 5, "events": [7], "message": "two\nlines"}
    assert "KeyError" in third["traceback"]


@pytest.mark.parametrize(("named", "said"), [(False, ["a", "main: b"]), (True, ["main: a", "main: b"])])
def test_with_several_clusters_each_line_names_its_own(tmp_path: Path, named: bool, said: list[str]) -> None:
    def say(stream: TextIO) -> None:
        logged.show_log_lines(stream)
        with about(cluster="main", named=named):
            log.info("a")
            log.info("main: b")

    assert [line[11:] for line in written(tmp_path, say)] == said


def test_a_complaint_is_an_object_too(capsys: pytest.CaptureFixture[str]) -> None:
    output.complain("plain")
    stream = io.StringIO()
    logged.show_log_lines(stream, "json")
    output.complain("for a collector")
    assert capsys.readouterr().err == "repmgr-hooks: plain\n"
    assert json.loads(stream.getvalue())["message"] == "for a collector"


# -- while one waits ---------------------------------------------------------------------------------------------------


class Terminal:
    """A terminal, and what has been written to it."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        self.stream = os.fdopen(theirs, "w")
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self.text += os.read(self._ours, 4096).decode()
            except OSError:
                return

    def shows(self, text: str) -> bool:
        return text in self.text


def until(true: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "SHORT", 0.02)
    monkeypatch.setattr(log_module, "SAY_EVERY", 0.1)


def test_on_a_terminal_one_line_is_written_over(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    lines = logged.show_log_lines(terminal.stream)
    with lines.waiting("a node that is out of recovery", 30):
        until(lambda: terminal.shows("at most: a node that is out of recovery"))
        log.warning("in between")
        until(lambda: "at most" in terminal.text.partition("in between")[2])
    until(lambda: terminal.text.endswith("\r\033[K"))
    assert "\033[K\033[33m" in terminal.text
    assert terminal.text.count("\n") == 1


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_for_who_wants_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    terminal = Terminal()
    logged.show_log_lines(terminal.stream)
    log.error("bad")
    until(lambda: terminal.shows("bad"))
    assert "\033" not in terminal.text


@pytest.mark.parametrize("form", ["plain", "json"])
def test_elsewhere_it_is_a_log_line_now_and_then(quick: None, form: Any) -> None:
    stream = io.StringIO()
    lines = logged.show_log_lines(stream, form)
    with about(cluster="main"), lines.waiting("the end", 30):
        until(lambda: stream.getvalue().count("at most: the end") >= 2)
    if form == "json":
        assert {json.loads(line)["cluster"] for line in stream.getvalue().splitlines()} == {"main"}
    assert "\033" not in stream.getvalue()


def test_what_is_short_is_not_worth_a_word() -> None:
    stream = io.StringIO()
    lines = logged.show_log_lines(stream)
    with lines.waiting("the end", 30):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize("form", ["plain", "json"])
def test_what_to_do_stands_on_a_line_of_its_own(form: Form) -> None:
    stream = io.StringIO()
    error = OperationFailed("the slot is in use", code="in_use", hint="end\x1b[2J that program")
    record = logging.LogRecord("repmgr_hooks", logging.ERROR, __file__, 1, "%s: %s", ("slot", error), None)
    said = formatter(form, stream).format(record)
    if form == "json":
        line = json.loads(said)
        assert (line["message"], line["hint"]) == ("slot: the slot is in use", "end\\x1b[2J that program")
    else:
        assert said.endswith(" E slot: the slot is in use\nHINT: end\\x1b[2J that program")


def test_a_hint_goes_with_a_line_that_does_not_show_the_error_itself() -> None:
    record = logging.makeLogRecord({"msg": "%s", "args": ("it failed",), "levelname": "ERROR", **hint("look", "")})
    assert formatter("plain", io.StringIO()).format(record).endswith(" E it failed\nHINT: look")
