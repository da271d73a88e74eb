"""The log: for a reader, for journald (sd-daemon(3)), or a JSON object a line; on a terminal, what it waits for."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from types import MappingProxyType
from typing import Literal, TextIO

from repmgr_hooks import clock
from repmgr_hooks.background import meanwhile
from repmgr_hooks.errors import hint_lines
from repmgr_hooks.text import MOST, one_line, printable
from repmgr_hooks.writer import Writer

log = logging.getLogger(__name__)

Form = Literal["plain", "json"]

NOTHING: Mapping[str, object] = MappingProxyType({})
ABOUT: ContextVar[Mapping[str, object]] = ContextVar("about", default=NOTHING)

PRIORITY = {"CRITICAL": 2, "ERROR": 3, "WARNING": 4, "INFO": 6, "DEBUG": 7}
COLOUR = {"CRITICAL": "\033[31m", "ERROR": "\033[31m", "WARNING": "\033[33m"}
PLAIN_AGAIN = "\033[0m"


@contextmanager
def about(**what: object) -> Iterator[None]:
    """Say what the lines of this thread are about meanwhile: ``cluster``, ``run``, ``events``.

    With ``named``, a plain line begins with the cluster: there are several.
    """
    before = ABOUT.set({**ABOUT.get(), **what})
    try:
        yield
    finally:
        ABOUT.reset(before)


def formatter(form: Form, stream: TextIO) -> logging.Formatter:
    """Return what suits where the log goes to."""
    if form == "json":
        from repmgr_hooks.log_json import Json  # what JSON needs, a line for people does not

        return Json()
    if goes_to_journal(stream):
        return ForJournal()
    return ForReader(colour=is_terminal(stream) and not os.environ.get("NO_COLOR"))


def goes_to_journal(stream: TextIO) -> bool:
    """True if journald reads it: it marks the stream by device and inode (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        there = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{there.st_dev}:{there.st_ino}"


def is_terminal(stream: TextIO) -> bool:
    """True for a terminal that can do more than print."""
    return stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def hint(*hints: str) -> dict[str, tuple[str, ...]]:
    """Return what goes with a line of the log as ``extra``: what to do about that which the line says.

    Not for an error, a problem or a reason that is itself an argument of the line: what it hints at is shown anyway.
    """
    return {"hints": tuple(filter(None, hints))}


def hints_of(record: logging.LogRecord) -> list[str]:
    arguments = record.args if isinstance(record.args, tuple) else ()
    found = [*getattr(record, "hints", ()), *(getattr(argument, "hint", "") for argument in arguments)]
    return [printable(text) for text in dict.fromkeys(found) if text]


MOST_OF_LINE = 4 * MOST
"""A traceback is longer than what a program says."""


class Plain(logging.Formatter):
    """A line for people; with several clusters it begins with the cluster."""

    def format(self, record: logging.LogRecord) -> str:
        text, what = printable(super().format(record), MOST_OF_LINE), ABOUT.get()
        text = "\n".join([text, *hint_lines(*hints_of(record))])
        start = f"{what.get('cluster')}: "
        return f"{start}{text}" if what.get("named") and not text.startswith(start) else text


class ForReader(logging.Formatter):
    """With the time, and the first letter of the level."""

    def __init__(self, colour: bool = False) -> None:
        super().__init__("%(asctime)s", "%H:%M:%S")
        self._colour, self._plain = colour, Plain()

    def format(self, record: logging.LogRecord) -> str:
        line = f"{self.formatTime(record, self.datefmt)} {record.levelname[0]} {self._plain.format(record)}"
        colour = COLOUR.get(record.levelname) if self._colour else None
        return f"{colour}{line}{PLAIN_AGAIN}" if colour else line


class ForJournal(Plain):
    """With the priority in front of each line and no time: the journal has its own."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(f"<{PRIORITY[record.levelname]}>{line}" for line in super().format(record).splitlines())


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
            with meanwhile(partial(self._show, what, clock.wall() + seconds)):
                yield
        finally:
            self._below("")

    def _show(self, what: str, end: float, over: threading.Event) -> None:
        until = time.strftime("%H:%M:%S", time.localtime(end))
        begun = clock.monotonic()
        while not over.wait(SHORT):
            if self._rewrites:
                self._below(f"... {clock.monotonic() - begun:.0f} s, until {until} at most: {one_line(what)}")
            elif self._said[0] != what or clock.monotonic() - self._said[1] >= SAY_EVERY:
                self._said = (what, clock.monotonic())
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
