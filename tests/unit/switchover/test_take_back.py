"""What is taken back of a switchover whose holder is gone, or late; and the file that says what that is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.holds import Holder
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.switchover import record
from repmgr_hooks.switchover.record import Record
from repmgr_hooks.switchover.take_back import may_unpause

RECORD = Record(Holder(7, 123, "boot"), source=1, target=2, since=100.0, until=200.0, phase="hold", paused=(1, 2))


def cluster(place: Path) -> Cluster:
    return Cluster({1: Node("10.0.0.11")}, Gateway("10.0.0.20", {}), name="main", state_dir=str(place))


@pytest.mark.parametrize(
    ("repmgr", "alive", "over", "primary", "expected"),
    [
        (False, True, False, 1, False),
        (True, True, False, None, False),
        (True, True, True, None, True),  # too late: whoever holds it
        (False, False, False, 1, True),
        (False, False, False, None, True),
        # repmgr may still be at work: a repmgrd could promote another node beside the one that repmgr promotes
        (True, False, False, None, False),
        (True, False, False, 1, False),
        (True, False, False, 2, True),
        (True, False, True, None, True),
    ],
)
def test_when_repmgrd_is_unpaused(repmgr: bool, alive: bool, over: bool, primary: int | None, expected: bool) -> None:
    assert may_unpause(replace(RECORD, repmgr=repmgr), alive, over, primary) is expected


def test_the_file_holds_what_was_written(tmp_path: Path) -> None:
    assert record.read(cluster(tmp_path)) is None
    record.keep(cluster(tmp_path), RECORD)
    assert record.read(cluster(tmp_path)) == RECORD
    record.keep(cluster(tmp_path), None)
    assert record.read(cluster(tmp_path)) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"holder": 7}', "\x00", '{"holder": {}, "source": 1}'])
def test_a_file_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster-main.switchover").write_text(text)
    with pytest.raises(OperationFailed, match=r"cluster-main\.switchover"):
        record.read(cluster(tmp_path))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / "cluster-main.switchover").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperationFailed):
        record.read(cluster(tmp_path))


def test_its_time_is_over_after_its_limit_and_after_a_boot() -> None:
    assert not record.over(RECORD, 199.0, "boot")
    assert record.over(RECORD, 200.0, "boot")
    assert record.over(RECORD, 1.0, "another boot")
