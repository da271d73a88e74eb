"""What the service saw last: written when something changes, believed for a while, and never after a boot."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import clock
from repmgr_hooks.journal import last_seen as module
from repmgr_hooks.journal.last_seen import LastSeen, NodeSeen, Publisher, forget_others, read_all

NODES = (NodeSeen(1, "10.0.0.11", True, "primary", 1), NodeSeen(2, "10.0.0.12", True, "standby", 1, lag=0))
SEEN = LastSeen("main", 1, 1, "only", "the primary is node 1", NODES, interval=5)


class Moment:
    """The clock since the boot."""

    now = 100.0


@pytest.fixture
def moment(monkeypatch: pytest.MonkeyPatch) -> Moment:
    made = Moment()
    monkeypatch.setattr(clock, "since_boot", lambda: made.now)
    return made


def test_it_is_believed_for_two_looks(tmp_path: Path, moment: Moment) -> None:
    Publisher(tmp_path, "main").publish(SEEN)
    assert list(read_all(tmp_path)) == [("main", SEEN, 30.0)]
    moment.now += 29.9
    ((_, seen, _),) = read_all(tmp_path)
    assert seen == SEEN
    moment.now += 0.2
    ((name, gone, left),) = read_all(tmp_path)
    assert (name, gone, round(left, 1)) == ("main", None, -0.1)


def test_a_quiet_look_writes_nothing(tmp_path: Path, moment: Moment) -> None:
    publisher = Publisher(tmp_path, "main")
    publisher.publish(SEEN)
    before = (tmp_path / "cluster-main.json").stat()
    moment.now += 20
    publisher.publish(replace(SEEN))
    after = (tmp_path / "cluster-main.json").stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert list(read_all(tmp_path)) == [("main", SEEN, 30.0)]
    publisher.publish(replace(SEEN, primary=None))
    assert [seen and seen.primary for _, seen, _ in read_all(tmp_path)] == [None]


def test_numbers_that_are_too_many_take_no_node_from_load_balancers(tmp_path: Path, moment: Moment) -> None:
    """Of each node up to a thousand slots are read, with names of up to 63 letters; what is cut off says nothing."""
    publisher = Publisher(tmp_path, "main")
    names = [f"{'s' * 59}{number:04}" for number in range(1000)]
    slots = [("failover_slot_in_sync", {"node": str(node), "slot": name}, 1.0) for node in (2, 3, 4) for name in names]
    for many in (SEEN, replace(SEEN, primary=None), SEEN):
        publisher.publish(replace(many, numbers=tuple(slots)))
        assert list(read_all(tmp_path)) == [("main", many, 30.0)]
    publisher.renew(tuple(slots[:1]))
    assert list(read_all(tmp_path)) == [("main", replace(SEEN, numbers=tuple(slots[:1])), 30.0)]
    publisher.renew(tuple(slots))
    assert list(read_all(tmp_path)) == [("main", SEEN, 30.0)]


def test_a_long_step_is_waited_for(tmp_path: Path, moment: Moment) -> None:
    publisher = Publisher(tmp_path, "main")
    publisher.extend(90)
    assert list(tmp_path.iterdir()) == [], "nothing has been seen yet"
    publisher.publish(SEEN)
    publisher.extend(90)
    assert [left for _, _, left in read_all(tmp_path)] == [120]
    publisher.publish(SEEN)
    assert [left for _, _, left in read_all(tmp_path)] == [30]


def test_others_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Publisher(tmp_path, "main").publish(SEEN)
    finally:
        os.umask(before)
    assert (tmp_path / "cluster-main.json").stat().st_mode & 0o777 == 0o644


def test_a_file_that_somebody_has_removed_comes_back(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path, "main")
    publisher.publish(SEEN)
    (tmp_path / "cluster-main.json").unlink()
    publisher.publish(SEEN)
    publisher.publish(SEEN)
    assert [seen for _, seen, _ in read_all(tmp_path)] == [SEEN]


def test_a_directory_that_is_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is said once, and stops nothing."""
    publisher = Publisher(tmp_path / "gone", "main")
    for _ in range(3):
        publisher.publish(SEEN)
        publisher.extend(10)
    assert len(caplog.records) == 1
    assert list(read_all(tmp_path / "gone")) == []


def test_of_another_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock began anew: what is kept on a disk would look young."""
    Publisher(tmp_path, "main").publish(SEEN)
    other = tmp_path / "boot"
    other.write_text("3d7a3f5e-0000-0000-0000-000000000000\n")
    monkeypatch.setattr(module, "BOOT", other)
    assert [seen for _, seen, _ in read_all(tmp_path)] == [None]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", '{"boot": ""}', "[" * 100_000, '{"cluster": "main"}', json.dumps({"nodes": 1, "x": 2})],
)
def test_what_cannot_be_read_is_not_believed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster-main.json"
    path.write_text(text)
    os.utime(path, (2**33, 2**33))
    assert [seen for _, seen, _ in read_all(tmp_path)] == [None]


def test_no_link_and_no_fifo_is_read(tmp_path: Path) -> None:
    Publisher(tmp_path, "other").publish(SEEN)
    (tmp_path / "cluster-link.json").symlink_to(tmp_path / "cluster-other.json")
    os.mkfifo(tmp_path / "cluster-fifo.json")
    assert {name: seen is not None for name, seen, _ in read_all(tmp_path)} == {
        "other": True,
        "link": False,
        "fifo": False,
    }


def test_clusters_that_are_gone(tmp_path: Path) -> None:
    for name in ("main", "other"):
        Publisher(tmp_path, name).publish(replace(SEEN, cluster=name))
    (tmp_path / "repmgr_hooks.prom").write_text("")
    forget_others(tmp_path, ["main"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cluster-main.json", "repmgr_hooks.prom"]
