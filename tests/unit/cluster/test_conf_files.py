"""Of many repmgr.conf each is looked at, and read, once for all clusters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repmgr_hooks import clock
from repmgr_hooks.cluster import conf_files, repmgr_files
from repmgr_hooks.cluster.conf_files import FEW, HOLDS, ConfFiles


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """More than few, and all that there are."""
    files = [tmp_path / f"{number}.conf" for number in range(FEW + 1)]
    for number, file in enumerate(files, 1):
        file.write_text(f"node_id={number}\nnode_name='n{number}'\n")
    monkeypatch.setattr(repmgr_files, "files_here", lambda: [file for file in files if file.exists()])
    return files


def test_of_many_what_was_seen_holds_for_a_while(many: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: now[0])
    here = ConfFiles()
    before = here.look()
    many[0].write_text("node_id=99\n")
    assert here.look() is before
    now[0] += HOLDS
    assert here.look() != before


def test_few_are_looked_at_each_time(many: list[Path]) -> None:
    here = ConfFiles()
    many[0].unlink()
    before = here.look()
    many[1].write_text("node_id=99\n")
    assert here.look() != before


def test_a_file_is_read_once_in_each_turn_and_when_it_has_changed(many: list[Path]) -> None:
    here = ConfFiles()
    first = next(conf_files.examined(here.look(), 1.0))
    assert next(conf_files.examined(here.look(), 1.0)) is first
    assert next(conf_files.examined(here.look(), 2.0)) is not first, "what it includes may have changed"
    many[0].write_text("node_id=99\n")
    os.utime(many[0], (0, 0))
    assert next(conf_files.examined(ConfFiles().look(), 1.0)).node == 99


def test_one_that_cannot_be_read_is_left_out(many: list[Path]) -> None:
    marks = ConfFiles().look()
    many[3].unlink()
    assert len(list(conf_files.examined(marks, 3.0))) == FEW
