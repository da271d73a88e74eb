"""Files that are there whole, or as they were."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def rewritten(path: Path) -> Iterator[TextIO]:
    """Open a new file that takes a place, with what was written to it, only when all went well. Raises OSError.

    Nobody else can read it at first. Others may write in that directory: it is worked on through a handle.
    """
    hidden = f".{path.name}.{os.getpid()}"
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(hidden, dir_fd=directory)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(hidden, flags, 0o600, dir_fd=directory), "w", encoding="utf-8") as file:
            yield file
        os.rename(hidden, path.name, src_dir_fd=directory, dst_dir_fd=directory)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(hidden, dir_fd=directory)
        os.close(directory)
