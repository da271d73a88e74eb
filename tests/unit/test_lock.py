"""One at a time: a lock file that the kernel lets go when its holder dies."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.lock import exclusive


def test_a_second_holder_waits_and_gives_up(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "cluster-main.lock"
    with exclusive(lock, 0):
        begun = time.monotonic()
        with pytest.raises(OperationFailed, match="another process holds .*main.lock"), exclusive(lock, 0.15):
            raise AssertionError("two at a time")
        assert 0.15 <= time.monotonic() - begun < 2
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
        "import os, pathlib, sys; from repmgr_hooks.lock import exclusive\n"
        "with exclusive(pathlib.Path(sys.argv[1]), 0): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", script, str(lock)], check=False).returncode == -9
    with exclusive(lock, 0):
        pass


def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    lock = tmp_path / "file" / "cluster-main.lock"
    with pytest.raises(OperationFailed, match="'state_dir'"), exclusive(lock, 0):
        raise AssertionError("no lock was taken")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 34, 35)
    with exclusive(state / "cluster-main.lock", 0):
        made = (state / "cluster-main.lock").stat()
    assert (made.st_uid, made.st_gid) == (34, 35)
