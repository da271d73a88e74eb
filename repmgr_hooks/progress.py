"""Shows in the foreground what is waited for, and until when: never more than a log line, and on a terminal less."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TextIO

from repmgr_hooks.background import meanwhile
from repmgr_hooks.log import Form, formatter, is_terminal
from repmgr_hooks.text import one_line
from repmgr_hooks.writer import Writer

log = logging.getLogger(__name__)

SHORT = 1.0
"""What takes less is not worth a word."""
SAY_EVERY = 10.0
CLEAR_LINE = "\r\033[K"
WIDTH = 79


class Lines(logging.Handler):
    """The log, and below it, on a terminal, one line that is written over and over.

    Whoever logs may hold the lock of a cluster, so nothing here waits for the one who reads.
    """

    def __init__(self, stream: TextIO, form: Form) -> None:
        super().__init__()
        self.setFormatter(formatter(form, stream))
        self._writer = Writer(stream)
        self.form = form
        self._rewrites = form == "plain" and is_terminal(stream)
        self._shown = False
        self._said = ("", 0.0)

    def emit(self, record: logging.LogRecord) -> None:
        self._below("")
        self.say(self.format(record))

    def say(self, line: str) -> None:
        """Print what is no log, in its place among the lines that are."""
        self._writer.write(f"{line}\n")

    def flush(self) -> None:
        """Wait a moment for whoever reads; logging does so at the end of the program."""
        self._writer.flush()

    @contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[None]:
        """Show meanwhile that this is waited for, at most so many seconds."""
        try:
            with meanwhile(partial(self._show, what, time.time() + seconds)):
                yield
        finally:
            self._below("")

    def _show(self, what: str, end: float, over: threading.Event) -> None:
        until = time.strftime("%H:%M:%S", time.localtime(end))
        begun = time.monotonic()
        while not over.wait(SHORT):
            if self._rewrites:
                self._below(f"... {time.monotonic() - begun:.0f} s, until {until} at most: {one_line(what)}")
            elif self._said[0] != what or time.monotonic() - self._said[1] >= SAY_EVERY:
                self._said = (what, time.monotonic())
                log.info("waiting, until %s at most: %s", until, what)

    def _below(self, text: str) -> None:
        """Let this stand below the log, instead of what stood there."""
        self.acquire()
        try:
            if text or self._shown:
                self._writer.write(f"{CLEAR_LINE}{text[:WIDTH]}")
            self._shown = bool(text)
        finally:
            self.release()
