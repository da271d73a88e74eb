"""One at a time: a lock file that the kernel lets go when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks.errors import LockTimeout, OperationFailed
from repmgr_hooks.files import untrusted

POLL = 0.1


def lock_name(cluster: str) -> str:
    """Return the name of a cluster's lock file."""
    return f"cluster-{cluster}.lock"


@contextlib.contextmanager
def exclusive(path: Path, limit: float) -> Iterator[None]:
    """Hold a lock file (flock(2)). Raises Busy if another holds it for longer than ``limit`` seconds."""
    end = time.monotonic() + limit
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OperationFailed(
            f"the state directory cannot be written: {error}; mend it or correct 'state_dir'"
        ) from None
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise LockTimeout(f"another process holds {path} (waited {limit:.0f} s)") from None
                time.sleep(POLL)
        yield
    finally:
        os.close(handle)


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
    """Return whose a state directory is; as that user, root can be led to nothing. Raises OperationFailed, OSError.

    A link, or a place where a third user could put another directory, could be made root's own by who is to have less.
    """
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OperationFailed(
            f"{directory} is no directory, or a link to one: root follows none; name the directory itself"
        )
    if wrong := untrusted(directory, status.st_uid):
        raise OperationFailed(f"root does not work in {directory}: {wrong}")
    return status
