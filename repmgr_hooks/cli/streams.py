"""What we inherit from our caller: standard streams closed, full, or without a reader; signals that are ignored."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import TextIO


def reopen() -> None:
    """Open /dev/null in place of what is closed: else the next file that is opened, such as the journal, is output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode))
    for stream in (sys.stdout, sys.stderr):  # a locale of 8 bits lacks letters of what servers and people write
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def take_signals() -> None:
    """Take signals as usual. With SIGCHLD ignored there is no exit code (wait(2)), and no program would fail."""
    import signal  # repmgrd's events do without

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def finish() -> bool:
    """Write out what is left; False if stdout cannot be, and Python does not try it again when it ends.

    What cannot be written to stderr is nobody's to say, but Python would exit with 120 (Py_FinalizeEx): from 3.12 on
    argparse leaves it there.
    """
    written = _flushed(sys.stdout)
    _flushed(sys.stderr)
    return written


def _flushed(stream: TextIO) -> bool:
    try:
        stream.flush()
    except (OSError, ValueError):
        give_up(stream)
        return False
    return True


def give_up(stream: TextIO) -> None:
    """From now on what is written there goes nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
