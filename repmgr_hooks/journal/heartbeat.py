"""When the worker last looked at a cluster: the time of an empty file. A look that sees nothing new leaves no more."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from repmgr_hooks.lock import give_to_owner_of_directory


def write_heartbeat(state_dir: Path, cluster: str) -> None:
    """Note that the worker has just looked; what cannot be noted is seen as a look that was not made."""
    path = _path(state_dir, cluster)
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            give_to_owner_of_directory(handle, path)
            os.utime(handle)
        finally:
            os.close(handle)


def last_heartbeat(state_dir: Path, cluster: str) -> float | None:
    """Return when the worker last looked, in seconds since the epoch; None if it never did."""
    try:
        return _path(state_dir, cluster).stat().st_mtime
    except OSError:
        return None


def _path(state_dir: Path, cluster: str) -> Path:
    return state_dir / f"cluster-{cluster}.looked"
