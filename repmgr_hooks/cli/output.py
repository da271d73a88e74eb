"""How the commands print and complain."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from repmgr_hooks.cli.width import columns
from repmgr_hooks.errors import UsageError, hint_lines
from repmgr_hooks.files import atomic_write
from repmgr_hooks.text import MOST, printable

OK, FAILED, USAGE, BUG = 0, 1, 2, 3


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


def all_written() -> None:
    """Wait a moment until the log is written: then what is printed comes after it."""
    if "repmgr_hooks.cli.logged" in sys.modules:  # else there is none, and it takes time to import
        from repmgr_hooks.cli import logged

        logged.flush()


def say(lines: Iterable[str]) -> None:
    """Print lines; on a terminal they are folded where it ends, elsewhere a line stays a line."""
    width = columns() if sys.stdout.isatty() else None
    for line in lines:
        line = printable(line, 2 * MOST)
        print(folded(line, width) if width else line)


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
    from repmgr_hooks.cli import logged  # a command that succeeds does without

    if logged.is_for_collector():
        logged.log.error("%s", error)
        logged.flush()
    else:
        logged.flush()
        lines = [f"repmgr-hooks: {printable(str(error), 2 * MOST)}", *hint_lines(getattr(error, "hint", ""))]
        logged.write_at_once(sys.stderr, lines)
