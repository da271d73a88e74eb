"""A hold is written down, and over in time: with its holder, its boot and its limit."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal import holds
from repmgr_hooks.journal.holds import NO_HOLD, NO_RECORD, Hold, Holder, expired, is_alive
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node

HOLD = Hold(
    *("main", Holder(4711, 99, "this boot"), 1.8e9, 1000.0, 30.0, ("pgbouncer",), 1, 1, "a switchover to node 2"),
    {"host=10.0.0.20 user=hooks": ("app",)},
)


def cluster(place: Path) -> Cluster:
    return Cluster({1: Node("10.0.0.11")}, Gateway("10.0.0.20", {"app": 54322}), name="main", state_dir=str(place))


@pytest.mark.parametrize(
    ("hold", "now", "boot", "alive", "why"),
    [
        (HOLD, 1029.9, "this boot", True, ""),
        (HOLD, 1030.0, "this boot", True, "its limit of 30 s is over"),
        (HOLD, 1001.0, "this boot", False, "process 4711, which held them, is gone"),
        (HOLD, 5.0, "next boot", True, "the host was started anew"),
        (replace(HOLD, over=True), 1001.0, "this boot", True, "it has ended"),
        (replace(HOLD, begun=9e9), 1001.0, "this boot", True, "its limit of 30 s is over"),
    ],
)
def test_when_it_is_over(hold: Hold, now: float, boot: str, alive: bool, why: str) -> None:
    assert expired(hold, now, boot, alive) == why


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert holds.read(cluster(tmp_path)) is None
    holds.write(cluster(tmp_path), HOLD)
    assert holds.read(cluster(tmp_path)) == HOLD
    assert (tmp_path / "cluster-main.hold").stat().st_mode & 0o777 == 0o600
    holds.forget(cluster(tmp_path))
    holds.forget(cluster(tmp_path))
    assert holds.read(cluster(tmp_path)) is None


WRITTEN = json.dumps(asdict(HOLD))
DAMAGED = [
    WRITTEN.replace("4711", '"4711a"'),
    WRITTEN.replace("4711", "1" + "0" * 40),
    WRITTEN.replace("1000.0", "1" + "0" * 400),
    WRITTEN.replace("1000.0", "NaN"),
    WRITTEN.replace(" 30.0", " Infinity"),
    WRITTEN.replace("host=10.0.0.20 ", ""),
    WRITTEN.replace("host=10.0.0.20 ", "host "),
    WRITTEN.replace('["app"]', "7"),
]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"holder": 1}', "\x00", "[" * 50_000, *DAMAGED])
def test_what_is_none_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster-main.hold").write_text(text)
    with pytest.raises(OperationFailed) as error:
        holds.read(cluster(tmp_path))
    assert error.value.code == NO_HOLD


def test_links_are_not_followed_and_nothing_is_held_without_a_record(tmp_path: Path) -> None:
    (tmp_path / "cluster-main.hold").symlink_to("/etc/passwd")
    with pytest.raises(OperationFailed) as error:
        holds.read(cluster(tmp_path))
    assert error.value.code == NO_RECORD
    with pytest.raises(OperationFailed, match="nobody is held without it"):
        holds.write(cluster(tmp_path / "missing"), HOLD)


def test_a_process_is_alive_until_it_has_ended() -> None:
    us = holds.this_process()
    assert is_alive(us)
    assert not is_alive(replace(us, started=us.started - 1)), "another process with its number"
    with subprocess.Popen(["sleep", "600"]) as child:
        found = replace(us, process=child.pid, started=holds._started(child.pid))  # noqa: SLF001
        assert is_alive(found)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_alive(found), "nobody has waited for it yet"
    assert not is_alive(found)


@pytest.mark.parametrize(
    ("error", "way"), [(PermissionError(13, "no"), "run this as root"), (ValueError(), "remove /x")]
)
def test_who_may_not_read_a_record_is_not_told_to_remove_it(error: Exception, way: str) -> None:
    assert holds.way_out(error, Path("/x")) == way
