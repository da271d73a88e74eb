"""Whose files we follow: what decides where clients are sent must not be writable by others."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from repmgr_hooks.errors import OperationFailed


def writable_by_others(path: Path, owner: int | None = None) -> str:
    """Return why a file is not to be trusted, in words; empty if only root and its ``owner`` (we) can change it.

    The directories above count too: who can write one can put another file in its place (unless it is sticky, as /tmp);
    and a link on the way counts with those that it is in.
    """
    allowed = (0, os.geteuid() if owner is None else owner)
    try:
        named, real = path.absolute(), path.resolve(strict=True)
        for place in dict.fromkeys((named, *named.parents, real, *real.parents)):
            if wrong := _wrong(place, place.lstat(), allowed):
                return wrong
    except OSError as error:
        return str(error)
    return ""


def _wrong(place: Path, status: os.stat_result, allowed: tuple[int, int]) -> str:
    if status.st_uid not in allowed:
        return f"{place} belongs to another user (uid {status.st_uid}); chown root {place}"
    is_link = stat.S_ISLNK(status.st_mode)
    sticky_directory = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & 0o022 and not (is_link or sticky_directory):
        return f"{place} can be written by others; chmod go-w {place}"
    return ""


def owner_of(directory: Path) -> os.stat_result:
    """Return whose a state directory is; as that user, root can be led to nothing. Raises OperationFailed, OSError.

    A link, or a place where a third user could put another directory, could be made root's own by who is to have less.
    """
    status = directory.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise OperationFailed(
            f"{directory} is no directory, or a link to one: root follows none; name the directory itself"
        )
    if wrong := writable_by_others(directory, status.st_uid):
        raise OperationFailed(f"root does not work in {directory}: {wrong}")
    return status
