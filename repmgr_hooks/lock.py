"""One at a time: a lock file that the kernel lets go when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks.errors import Busy, StepFailed

POLL = 0.1


@contextlib.contextmanager
def exclusive(path: Path, limit: float) -> Iterator[None]:
    """Hold a lock file (flock(2)). Raises Busy if another holds it for longer than ``limit`` seconds."""
    end = time.monotonic() + limit
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a")
        as_its_directory(path)
    except OSError as error:
        raise StepFailed(f"the state directory cannot be written: {error}; mend it or correct 'state_dir'") from None
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise Busy(f"another process holds {path} (waited {limit:.0f} s)") from None
                time.sleep(POLL)
        yield


def as_its_directory(path: Path) -> None:
    """Give a file that root has made to the owner of its directory, so that the service can use it too."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
