"""One at a time: a lock file that the kernel lets go when its holder dies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from repmgr_hooks.errors import LockTimeout, OperationFailed
from repmgr_hooks.lock import as_owner, exclusive, holder, is_free


def test_a_second_holder_waits_and_gives_up(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "cluster-main.lock"
    with exclusive(lock, 0):
        begun = time.monotonic()
        with pytest.raises(OperationFailed, match="another process holds .*main.lock"), exclusive(lock, 0.15):
            raise AssertionError("two at a time")
        assert time.monotonic() - begun >= 0.15
    with exclusive(lock, 0):
        pass


def test_the_lock_is_free_again_after_a_failure(tmp_path: Path) -> None:
    lock = tmp_path / "cluster-main.lock"
    with pytest.raises(ZeroDivisionError), exclusive(lock, 0):
        raise ZeroDivisionError
    with exclusive(lock, 0):
        pass


def test_the_lock_is_free_again_when_its_holder_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "cluster-main.lock"
    script = (
        "import os, pathlib, sys; from repmgr_hooks.lock import as_owner, exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), 0): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(lock)], check=False).returncode == -9
    with exclusive(lock, 0):
        pass


def test_where_there_can_be_no_lock_it_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that an I/O error has made read-only, a directory that was removed: a failover does not wait for that."""
    (tmp_path / "file").touch()
    done = []
    with exclusive(tmp_path / "file" / "cluster-main.lock", 0):
        done.append(1)
    assert done == [1]
    assert "no lock can be taken, going on without" in caplog.text
    assert "repair the state directory" in caplog.text
    with pytest.raises(ZeroDivisionError), exclusive(tmp_path / "file" / "cluster-main.lock", 0):
        raise ZeroDivisionError


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, Path.touch])
def test_whatever_stands_there_is_locked(tmp_path: Path, make: Callable[[Path], object]) -> None:
    lock = tmp_path / "cluster-main.lock"
    make(lock)
    with exclusive(lock, 0), pytest.raises(LockTimeout), exclusive(lock, 0):
        raise AssertionError("two at a time")


def test_it_says_who_holds_it_and_since_when(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "cluster-main.lock"
    monkeypatch.setattr(sys, "argv", ["repmgr-hooks", "reconcile", "--cluster", "m\x1b[2J"])
    assert holder(lock) is None
    with exclusive(lock, 0):
        found = holder(lock)
        assert found
        assert (found.process, found.command) == (os.getpid(), "repmgr-hooks reconcile --cluster m\\x1b[2J")
        assert abs(time.time() - found.since) < 10
        said = f"{os.getpid()} \\(repmgr-hooks reconcile --cluster m.*\\) since .*, for 0 s"
        with pytest.raises(LockTimeout, match=said), exclusive(lock, 0):
            pass
    assert holder(lock) is None


@pytest.mark.parametrize("text", ["", "x", "1 2", "1 x y", "1 1e300 x", "1 nan x", "\xff\xff \n\n"])
def test_a_lock_file_that_says_nothing(tmp_path: Path, text: str) -> None:
    lock = tmp_path / "cluster-main.lock"
    with exclusive(lock, 0):
        lock.write_text(text)
        assert holder(lock) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_root_is_the_owner_for_a_moment(tmp_path: Path) -> None:
    place = Path(tempfile.mkdtemp(dir="/tmp"))
    os.chown(place, 34, 35)
    try:
        with as_owner(place):
            (place / "made").touch()
            assert os.getgroups() == []
        assert (place / "made").stat().st_uid == 34
        assert os.geteuid() == 0
        with as_owner(place.with_name("absent")):
            assert os.geteuid() == 0
    finally:
        shutil.rmtree(place)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray")
@pytest.mark.parametrize("how", ["link", "writable", "third user's"])
def test_a_directory_that_root_does_not_work_in(how: str) -> None:
    """Who could put another one there could put one of root's there."""
    above = Path(tempfile.mkdtemp(dir="/tmp"))
    place = above / "state"
    place.mkdir()
    if how == "link":
        place = above / "link"
        place.symlink_to("state")
    elif how == "writable":
        place.chmod(0o770)
    else:
        os.chown(above, 34, 35)
    try:
        with pytest.raises(OperationFailed), as_owner(place):
            raise AssertionError("it was used")
    finally:
        shutil.rmtree(above)


def test_a_lock_that_cannot_be_seen_may_be_held(tmp_path: Path) -> None:
    lock = tmp_path / "worker.lock"
    assert is_free(lock), "nobody has ever held it"
    with exclusive(lock, 0.0):
        assert not is_free(lock)
    assert is_free(lock)
    lock.unlink()
    lock.symlink_to("elsewhere")
    assert not is_free(lock), "who may not enter the directory does not know either"
