"""How the commands print and complain."""

from __future__ import annotations

import logging
import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from repmgr_hooks.errors import UsageError, hint_lines
from repmgr_hooks.files import atomic_write
from repmgr_hooks.log import Form, Lines, goes_to_journal
from repmgr_hooks.text import MOST, printable
from repmgr_hooks.writer import Writer

OK, FAILED, USAGE, BUG = 0, 1, 2, 3

log = logging.getLogger("repmgr_hooks")
LIBRARIES = ("asyncio", "psycopg", "sh")


def write_whole(path: Path, text: str) -> None:
    """Write a file that others may read; it is there whole, or as it was. Raises UsageError.

    It takes the place of what is there: root would make /dev/null, or /dev/stdout, a file.
    """
    try:
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError(f"{path} is not a file", hint="name one, or a new one")
        with atomic_write(path) as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}", hint="name another file") from None


def show_log_lines(stream: TextIO, form: Form = "plain") -> Lines:
    """Send the log to ``stream``, one line an entry."""
    output = Lines(stream, form)
    log.handlers[:] = [output]
    log.setLevel(logging.INFO)
    # Libraries (asyncio, psycopg) would write their warnings to stderr themselves, and wait for whoever reads it.
    for library in LIBRARIES:
        logging.getLogger(library).handlers[:] = [output]
    return output


def all_written() -> None:
    """Wait a moment until the log is written: then what is printed comes after it."""
    for handler in log.handlers:
        handler.flush()


def say(lines: Iterable[str]) -> None:
    """Print lines; on a terminal they are folded where it ends, elsewhere a line stays a line."""
    width = _columns() if sys.stdout.isatty() else None
    for line in lines:
        line = printable(line, 2 * MOST)
        print(folded(line, width) if width else line)


def _columns() -> int:
    import shutil  # brings all its compressors

    return shutil.get_terminal_size().columns


def folded(line: str, width: int) -> str:
    """Return a line as lines that end between words, further in than it begins.

    >>> print(folded("  WARNING node 1 does not answer", 20))
      WARNING node 1
        does not answer
    """
    import textwrap  # for a terminal alone

    further = " " * (len(line) - len(line.lstrip()) + 2)
    wrapped = textwrap.wrap(line, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapped)


def complain(error: object) -> None:
    """Say on stderr what went wrong; in the log, if that is for a collector."""
    if any(isinstance(handler, Lines) and handler.form == "json" for handler in log.handlers):
        log.error("%s", error)
        all_written()
    else:
        all_written()
        start = "<3>" if goes_to_journal(sys.stderr) else ""
        stderr = Writer(sys.stderr)
        lines = [f"repmgr-hooks: {printable(str(error), 2 * MOST)}", *hint_lines(getattr(error, "hint", ""))]
        stderr.write("".join(f"{start}{line}\n" for line in lines))
        stderr.flush()
