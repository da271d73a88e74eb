"""Every repmgr.conf of this machine, for all clusters of the service: of a hundred clusters there are three hundred.

Each cluster looks for those of its own nodes among all. Of many they are looked for, and read, once for all clusters.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.repmgr_conf import RepmgrConf, examine

FEW = 20
"""So many are looked at each time, whoever asks."""
HOLDS = 5.0
"""Seconds for which what was seen of more holds."""
Marks = Mapping[Path, object]
"""Of each file something that changes with it."""


class ConfFiles:
    """What was seen last."""

    def __init__(self) -> None:
        self._looking = threading.Lock()
        self._seen: Marks = {}
        self._until = 0.0

    def look(self) -> Marks:
        """Return the files and what changes with each."""
        with self._looking:
            if len(self._seen) <= FEW or clock.monotonic() >= self._until:
                self._seen = {file: _mark(file) for file in repmgr_files.files_here()}
                self._until = clock.monotonic() + HOLDS
            return self._seen


HERE = ConfFiles()


def _mark(file: Path) -> object:
    try:
        status = file.stat()
    except OSError as error:
        return str(error)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def examined(marks: Marks, turn: Hashable) -> Iterator[RepmgrConf]:
    """Return the files that can be read, also those that repmgr refuses; in the same ``turn`` one is read once while it
    does not change.
    """
    for file, mark in marks.items():
        with contextlib.suppress(OSError):
            yield _examined(file, mark, turn)


@lru_cache(2000)
def _examined(file: Path, mark: object, turn: Hashable) -> RepmgrConf:
    return examine(file)
