"""One at a time: a lock file that the kernel lets go when its holder dies, however it dies.

Root uses the state directory of another user here, who could have put a symbolic link there: none is followed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks.errors import LockTimeout, OperationFailed

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
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        give_to_owner_of_directory(handle, path)
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


def give_to_owner_of_directory(handle: int, path: Path) -> None:
    """Give a file that root has made to the owner of its directory, so that the service can use it too."""
    if os.geteuid() == 0 and os.fstat(handle).st_nlink == 1:
        owner = path.parent.stat()
        os.fchown(handle, owner.st_uid, owner.st_gid)


@contextlib.contextmanager
def as_owner(directory: Path) -> Iterator[None]:
    """Let root be the owner of a directory for a moment, so that it can be led to nothing that the owner may not do.

    For the start of a program only: it holds for all threads.
    """
    user, group = os.geteuid(), os.getegid()
    if user == 0 and directory.exists():
        owner = directory.stat()
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
    try:
        yield
    finally:
        os.seteuid(user)
        os.setegid(group)
