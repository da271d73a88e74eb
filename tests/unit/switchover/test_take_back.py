"""What is taken back of a switchover whose holder is gone, or late; and the file that says what that is."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.switchover import record
from repmgr_hooks.switchover.record import Process, Record
from repmgr_hooks.switchover.take_back import Owed, owed

RECORD = Record(Process(7, "123", "boot"), source=1, target=2, since=100.0, until=200.0, phase="hold", paused=(1, 2))


@pytest.mark.parametrize(
    ("repmgr", "alive", "over", "primary", "expected"),
    [
        (False, True, False, 1, Owed(False, False)),
        (True, True, False, None, Owed(False, False)),
        (True, True, True, None, Owed(True, True)),  # too late: whoever holds it
        (False, False, False, 1, Owed(True, True)),
        (False, False, False, None, Owed(True, True)),
        # repmgr may still be at work: a repmgrd could promote another node beside the one that repmgr promotes
        (True, False, False, None, Owed(True, False)),
        (True, False, False, 1, Owed(True, False)),
        (True, False, False, 2, Owed(True, True)),
        (True, False, True, None, Owed(True, True)),
    ],
)
def test_what_is_taken_back(repmgr: bool, alive: bool, over: bool, primary: int | None, expected: Owed) -> None:
    assert owed(replace(RECORD, repmgr=repmgr), alive, over, primary) == expected


def test_the_file_holds_what_was_written(tmp_path: Path) -> None:
    assert record.read(tmp_path, "main") is None
    record.keep(tmp_path, "main", RECORD)
    assert record.read(tmp_path, "main") == RECORD
    record.keep(tmp_path, "main", None)
    assert record.read(tmp_path, "main") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"holder": 7}', "\x00", '{"holder": {}, "source": 1}'])
def test_a_file_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster-main.switchover").write_text(text)
    with pytest.raises(OperationFailed, match=r"cluster-main\.switchover"):
        record.read(tmp_path, "main")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / "cluster-main.switchover").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperationFailed):
        record.read(tmp_path, "main")


def test_a_process_is_alive_until_it_ends() -> None:
    assert record.alive(record.myself())
    child = subprocess.Popen(["sleep", "60"])
    try:
        holder = Process(child.pid, record._start_of(child.pid), record.boot_id())
        assert record.alive(holder)
    finally:
        child.kill()
    assert not record.alive(holder) or child.poll() is None
    child.wait(60)
    assert not record.alive(holder)


@pytest.mark.parametrize("other", [{"started": "1"}, {"boot": "another"}, {"pid": 2**22}])
def test_another_process_of_that_number_is_not_taken_for_it(other: dict[str, object]) -> None:
    assert not record.alive(replace(record.myself(), **other))  # type: ignore[arg-type]
    assert os.getpid() == record.myself().pid


def test_its_time_is_over_after_its_limit_and_after_a_boot() -> None:
    assert not record.over(RECORD, 199.0, "boot")
    assert record.over(RECORD, 200.0, "boot")
    assert record.over(RECORD, 1.0, "another boot")
