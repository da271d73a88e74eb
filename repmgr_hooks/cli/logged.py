"""The log of a command: where its lines go, and what is said in its place."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TextIO

from repmgr_hooks.log import Form, Lines, goes_to_journal
from repmgr_hooks.writer import Writer

log = logging.getLogger("repmgr_hooks")
LIBRARIES = ("asyncio", "psycopg", "sh")


def show_log_lines(stream: TextIO, form: Form = "plain") -> Lines:
    """Send the log to ``stream``, one line an entry."""
    output = Lines(stream, form)
    log.handlers[:] = [output]
    log.setLevel(logging.INFO)
    # Libraries (asyncio, psycopg) would write their warnings to stderr themselves, and wait for whoever reads it.
    for library in LIBRARIES:
        logging.getLogger(library).handlers[:] = [output]
    return output


def flush() -> None:
    """Wait a moment until the log is written."""
    for handler in log.handlers:
        handler.flush()


def is_for_collector() -> bool:
    """True if no person reads the log."""
    return any(isinstance(handler, Lines) and handler.form == "json" for handler in log.handlers)


def write_at_once(stream: TextIO, lines: Iterable[str]) -> None:
    """Write lines beside the log, and wait a moment for whoever reads; journald hears that they are errors."""
    start = "<3>" if goes_to_journal(stream) else ""
    writer = Writer(stream)
    writer.write("".join(f"{start}{line}\n" for line in lines))
    writer.flush()
