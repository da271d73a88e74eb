"""Files that are there whole, or as they were."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


@contextlib.contextmanager
def rewritten(path: Path) -> Iterator[TextIO]:
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
