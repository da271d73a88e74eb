"""Of many repmgr.conf each is looked at, and read, once for all clusters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repmgr_hooks import clock, config
from repmgr_hooks.cluster import conf_files, repmgr_files
from repmgr_hooks.cluster.conf_files import FEW, HOLDS, ConfFiles
from repmgr_hooks.cluster.readiness import AGAIN, AGAIN_IF_WRONG, ReadinessProbe
from tests.fake import FakeHost

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]


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


def test_what_was_read_while_something_was_wrong_is_not_taken_for_what_is_read_much_later(
    many: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every 60 s while something is, else every 600 s: the fifth minute and the fifth ten minutes had one name."""
    monkeypatch.setattr(conf_files, "HERE", ConfFiles())
    monkeypatch.setattr(repmgr_files, "identities", lambda *_: {})
    included = many[0].with_name("included")
    included.write_text("failover=sometimes\n")
    many[0].write_text("node_id=1\nnode_name='n1'\npromote_command=x\ninclude 'included'\n")
    many[1].write_text("node_id=2\nnode_name='n2'\npromote_command=x\nfailover=automatic\n")
    host, probe, now = FakeHost(), ReadinessProbe(), [4.5 * AGAIN_IF_WRONG]
    monkeypatch.setattr(host, "now", lambda: now[0])
    assert 1 in probe.files(2, MAIN.cluster, host).against
    now[0] = 5.9 * AGAIN_IF_WRONG
    assert 1 in probe.files(2, MAIN.cluster, host).against
    included.write_text("failover=automatic\n")
    now[0] = 7.1 * AGAIN_IF_WRONG
    assert probe.files(2, MAIN.cluster, host).against == {}
    now[0] = 5.5 * AGAIN
    assert probe.files(2, MAIN.cluster, host).against == {}
