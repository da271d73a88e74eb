"""Whether this process has run out of something that only a new one gets: descriptors, memory, threads."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed

SPARE_FILES, SPARE_MEMORY = 16, 16 * 2**20
"""Descriptors and bytes that a worker must be able to get: a step needs about as many."""
SHORT_OF = 5.0
"""Seconds after which a worker that could not get them tries once more, and ends."""


def still_exhausted(since: float | None) -> float | None:
    """Return since when this process has run out of something; None if it has not. Raises OperationFailed."""
    if not (why := exhausted()):
        return None
    if since is not None and clock.monotonic() - since >= SHORT_OF:
        raise OperationFailed(f"this process cannot go on ({why}), and ends; systemd starts it anew")
    return clock.monotonic() if since is None else since


def exhausted() -> str:
    """Return what this process has run out of; empty if nothing."""
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(SPARE_FILES):
                stack.enter_context(Path(os.devnull).open())
            spare = mmap.mmap(-1, SPARE_MEMORY)  # asked for, and not touched
            thread = threading.Thread(target=spare.close, daemon=True)
            thread.start()
            thread.join()
    except (OSError, RuntimeError, MemoryError) as error:
        return str(error) or repr(error)
    return ""
