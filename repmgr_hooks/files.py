"""Write files atomically, and tell which files can be trusted.

What decides where clients are sent must not be writable by others.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from repmgr_hooks.errors import Problem, mistake


def text_of(path: Path) -> str:
    """Return a text in which every byte survives that is no UTF-8, until ``atomic_write`` writes it. Raises OSError."""
    return path.read_text(encoding="utf-8", errors="surrogateescape")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Open a new file that takes a place, with what was written to it, only when all went well. Raises OSError.

    Nobody else can read it at first. Others may write in that directory: it is worked on through a handle.
    """
    hidden = f".{path.name}.{os.getpid()}"
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with os.fdopen(_made(hidden, directory), "w", encoding="utf-8", errors="surrogateescape") as file:
            yield file
        os.rename(hidden, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(hidden, dir_fd=directory)
        raise
    finally:
        os.close(directory)


def _made(hidden: str, directory: int) -> int:
    """Make a file anew; one of that name has been left."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(hidden, flags, 0o600, dir_fd=directory)
    except FileExistsError:
        os.unlink(hidden, dir_fd=directory)
        return os.open(hidden, flags, 0o600, dir_fd=directory)


def untrusted(path: Path, owner: int | None = None) -> Problem | None:
    """Return why a file is not to be trusted; None if only root and its ``owner`` (we) can change it.

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
        return Problem("untrusted", str(error))
    return None


def _wrong(place: Path, status: os.stat_result, allowed: tuple[int, int]) -> Problem | None:
    if status.st_uid not in allowed:
        return Problem("untrusted", f"{place} belongs to another user (uid {status.st_uid})", f"chown root {place}")
    is_link = stat.S_ISLNK(status.st_mode)
    sticky_directory = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if status.st_mode & 0o022 and not (is_link or sticky_directory):
        return Problem("untrusted", f"{place} can be written by others", f"chmod go-w {place}")
    return None


def program_problem(program: Path) -> Problem | None:
    """Return what is wrong with a program; None if nothing is."""
    if wrong := untrusted(program):
        return mistake(f"the program is refused: {wrong}", wrong.hint or "name a program")
    if not program.is_file():
        return mistake(f"the program is refused: {program} is not a file", "name a program")
    return None
