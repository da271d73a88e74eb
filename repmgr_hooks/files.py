"""Files that are there whole or as they were, and whose files we follow.

What decides where clients are sent must not be writable by others.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[TextIO]:
    """Open a new file that takes a place, with what was written to it, only when all went well. Raises OSError."""
    hidden = path.parent / f".{path.name}.{os.getpid()}"
    hidden.unlink(missing_ok=True)
    try:
        with hidden.open("x", encoding="utf-8") as file:
            yield file
        hidden.replace(path)
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink()


def untrusted(path: Path) -> str:
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


def program_problem(run: Sequence[str]) -> str:
    """Return what is wrong with a program and its arguments, in words; empty if nothing is."""
    if not run or not Path(run[0]).is_absolute():
        return "'run' must be a list that begins with the absolute path of a program"
    wrong = untrusted(Path(run[0]))
    return f"the program is refused: {wrong}" if wrong else ""
