"""The state directory's disk hangs, as a server of files that has gone: the ports follow a failover all the same."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.endtoend.looks import routes
from tests.endtoend.test_alive import FOLLOWED, end_worker, fail_over, own_disk
from tests.lab import Lab, wait_for

# linux/fanotify.h; whoever opens or reads a file waits for a word of ours, until we close our end.
FAN_CLASS_CONTENT, FAN_MARK_ADD, FAN_MARK_FILESYSTEM = 0x4, 0x1, 0x100
FAN_OPEN_PERM, FAN_ACCESS_PERM, FAN_ONDIR = 0x10000, 0x20000, 0x40000000
AT_FDCWD = -100


@contextmanager
def hung(place: Path) -> Iterator[None]:
    """Whoever opens or reads something on this disk hangs meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.fanotify_init(FAN_CLASS_CONTENT, os.O_RDONLY)
    try:
        what = ctypes.c_uint64(FAN_OPEN_PERM | FAN_ACCESS_PERM | FAN_ONDIR)
        if handle < 0 or libc.fanotify_mark(
            handle, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, what, AT_FDCWD, str(place).encode()
        ):
            raise OSError(ctypes.get_errno(), "fanotify(7)")
        yield
    finally:
        os.close(handle)


@pytest.mark.parametrize("starts", [False, True], ids=["it runs", "it starts"])
def test_a_failover_while_the_disk_hangs(lab: Lab, starts: bool) -> None:
    with own_disk(lab, "size=8m") as state:
        lab.start_worker()
        wait_for(lambda: list(state.glob("*.looked")), "the first look")
        if starts:
            end_worker(lab)
        with hung(state):
            if starts:
                lab.start_worker()
            fail_over(lab)
            event = lab.gateway.hooks("event", "--cluster", "main", "2", "standby_promote", user="postgres")
            assert "the disk does not answer" in event.stderr + lab.gateway.log("worker")
            assert event.returncode == 0, event.stderr
            assert routes(lab) == FOLLOWED
            status = lab.gateway.hooks("status")
            assert "primary is node 2" in status.stdout, status.stderr
            assert lab.daemons["worker"].poll() is None
        told = lab.gateway.hooks("event", "--cluster", "main", "2", "standby_promote", user="postgres")
        assert told.returncode == 0
        wait_for(lambda: "standby_promote of node 2" in lab.gateway.hooks("history").stdout, "its event in the history")
        assert end_worker(lab) == 0
