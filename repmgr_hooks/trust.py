"""Whose files we follow: what decides where clients are sent must not be writable by others."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def writable_by_others(path: Path) -> str:
    """Return why a file is not to be trusted, in words; empty if only root and we ourselves can change it.

    The directories above count too: who can write one can put another file in its place (unless it is sticky, as /tmp).
    """
    try:
        real = path.resolve(strict=True)
        for place in (real, *real.parents):
            if wrong := _wrong(place):
                return wrong
    except OSError as error:
        return str(error)
    return ""


def _wrong(place: Path) -> str:
    status = place.stat()
    if status.st_uid not in (0, os.geteuid()):
        return f"{place} belongs to another user (uid {status.st_uid}); chown root {place}"
    sticky_directory = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & 0o022 and not sticky_directory:
        return f"{place} can be written by others; chmod go-w {place}"
    return ""
