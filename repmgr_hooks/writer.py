"""Writes that nobody waits for: the reader of a pipe or a terminal may have stopped, and a disk may hang."""

from __future__ import annotations

import os
import threading
from collections import deque
from contextlib import suppress
from typing import TextIO

MOST = 2**20
"""Characters that are kept for a reader who is slow; what comes beyond is counted and dropped."""
LAST_WORDS = 2.0


class Writer:
    """A stream with a thread that writes to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._texts: deque[str] = deque()
        self._kept = self._lost = 0
        self._changed = threading.Condition()
        self._works = True
        try:
            threading.Thread(target=self._run, name="writer", daemon=True).start()
        except RuntimeError:  # there are no threads left; whoever writes says so, and ends
            self._works = False

    def write(self, text: str) -> None:
        """Queue it to be written; returns at once."""
        if not self._works:
            with suppress(OSError, ValueError):
                write(self._stream, text)
            return
        with self._changed:
            if self._kept + len(text) > MOST:
                self._lost += 1
                return
            self._keep(text)

    def _keep(self, text: str) -> None:
        if self._lost:
            text, self._lost = f"{self._lost} line(s) are missing here: nobody read them\n{text}", 0
        self._texts.append(text)
        self._kept += len(text)
        self._changed.notify_all()

    def flush(self, limit: float = LAST_WORDS) -> bool:
        """Wait until all is written, at most so many seconds; False if it is not."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._kept, limit)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._texts)
                text = self._texts.popleft()
            with suppress(OSError, ValueError):  # nobody reads any more, or it is closed
                write(self._stream, text)
            with self._changed:
                self._kept -= len(text)
                if self._lost and not self._texts:
                    self._keep("")
                self._changed.notify_all()


def write(stream: TextIO, text: str) -> None:
    """Write past the stream's buffer: its lock, held by a thread that waits, would stop the end of the program."""
    try:
        handle = stream.fileno()
    except OSError:
        stream.write(text)
        return
    data = text.encode(stream.encoding or "utf-8", "backslashreplace")
    while data:
        data = data[os.write(handle, data) :]
