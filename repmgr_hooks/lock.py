"""One at a time: a lock file that the kernel releases when its holder ends, however it ends.

The file says who holds the lock and since when, for those who wait.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import stat
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from repmgr_hooks import clock
from repmgr_hooks.background import on_disk
from repmgr_hooks.errors import LockTimeout, OperationFailed
from repmgr_hooks.files import untrusted
from repmgr_hooks.text import one_line

log = logging.getLogger(__name__)

POLL = 0.1
LOCK_WAIT = 100.0
"""Seconds that a run waits for the end of another."""
MOST = 300
WORKER_LOCK = "worker.lock"
"""Held by the one worker of a state directory."""


class Holder(NamedTuple):
    """Who holds a lock, ``since`` in seconds since the epoch; as that process has written it."""

    process: int
    since: float
    command: str

    def __str__(self) -> str:
        since = time.strftime("%H:%M:%S", time.localtime(self.since))
        return f"process {self.process} ({self.command}) since {since}, for {max(clock.wall() - self.since, 0):.0f} s"


def lock_name(cluster: str) -> str:
    """Return the name of a cluster's lock file."""
    return f"cluster-{cluster}.lock"


@contextlib.contextmanager
def exclusive(path: Path, limit: float) -> Iterator[None]:
    """Hold a lock file (flock(2)). Raises LockTimeout if another holds it for longer than ``limit`` seconds.

    Where there can be no lock file, what is to be done is done without: it would never be done otherwise.
    """
    handle = -1
    try:
        handle = on_disk(partial(_opened, path))
        _take(handle, path, limit)
        on_disk(partial(_sign, path))
    except OSError as error:
        log.error("no lock can be taken, going on without: %s; repair the state directory, or correct it", error)
    except LockTimeout:
        os.close(handle)
        raise
    try:
        yield
    finally:
        if handle >= 0:
            os.close(handle)


def _opened(path: Path) -> int:
    """Open a lock file, made if it is missing; on a disk that can only be read, one that is there will do."""
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | flags, 0o600)
    except OSError as error:
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY | flags & ~os.O_CREAT)
        raise error


def _take(handle: int, path: Path, limit: float) -> None:
    end = clock.monotonic() + limit
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if clock.monotonic() >= end:
                by = f": {found}" if (found := holder(path)) else ""
                raise LockTimeout(f"another process holds {path} (waited {limit:.0f} s){by}") from None
            clock.sleep(POLL)


def _sign(path: Path) -> None:
    """Write who we are, through a handle of our own: a disk that hangs may keep us when the lock is let go again."""
    command = " ".join(["repmgr-hooks", *sys.argv[1:]])
    with contextlib.suppress(OSError):  # a full disk, or one that can only be read
        handle = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.write(handle, f"{os.getpid()} {clock.wall():.3f} {command}".encode(errors="replace")[:MOST])
        finally:
            os.close(handle)


def _signature(handle: int) -> Holder | None:
    try:
        process, since, command = os.pread(handle, MOST, 0).decode(errors="replace").split(" ", 2)
        time.localtime(float(since))
        return Holder(int(process), float(since), one_line(command))
    except (OSError, ValueError, OverflowError):
        return None


def holder(path: Path) -> Holder | None:
    """Return who holds a lock now; None if nobody does, or it cannot be seen."""
    try:
        return on_disk(partial(_holder, path))
    except OSError:
        return None


def is_free(path: Path) -> bool:
    """True if nobody holds a lock; if that cannot be seen, somebody may."""
    try:
        return on_disk(partial(_is_free, path))
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _is_free(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(handle)


def _holder(path: Path) -> Holder | None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _signature(handle)
    finally:
        os.close(handle)
    return None


def broken(state_dir: Path) -> str:
    """Return why nothing can be written into the state directory; empty if something can."""
    try:
        there = os.statvfs(state_dir)
    except OSError as error:
        return f"the state directory cannot be used: {error}"
    if there.f_flag & os.ST_RDONLY:
        return f"the state directory {state_dir} is on a read-only file system"
    if there.f_files and not there.f_ffree:
        return f"the disk of the state directory {state_dir} has no room for another file (inodes)"
    if not there.f_bavail:
        return f"the disk of the state directory {state_dir} is full"
    return ""


@contextlib.contextmanager
def as_owner(directory: Path) -> Iterator[None]:
    """Let root be the owner of a state directory for a moment, and be led to nothing that the owner may not do.

    It holds for all threads, and no program must be started meanwhile. Raises OperationFailed.
    """
    if os.geteuid() != 0 or not os.path.lexists(directory):
        yield
        return
    owner, groups = owner_of(directory), os.getgroups()
    os.setgroups([])
    os.setegid(owner.st_gid)
    os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def owner_of(directory: Path) -> os.stat_result:
    """Return the owner of a state directory, as whom root works there safely. Raises OperationFailed, OSError.

    A link, or a place where a third user could put another directory, could be made root's own by who is to have less.
    """
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OperationFailed(
            f"{directory} is not a directory, or is a symbolic link, which root does not follow",
            code="untrusted",
            hint="name the directory itself",
        )
    if wrong := untrusted(directory, status.st_uid):
        what = f"root does not work in {directory}: {wrong}"
        raise OperationFailed(what, code=wrong.code, hint=wrong.hint)
    return status
