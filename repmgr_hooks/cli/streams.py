"""What we inherit from our caller: standard streams closed, full, or without a reader; signals that are ignored."""

from __future__ import annotations

import os
import sys
from contextlib import suppress


def reopen() -> None:
    """Open /dev/null in place of what is closed: else the next file that is opened, such as the journal, is output."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, mode))


def take_signals() -> None:
    """Take signals as usual. With SIGCHLD ignored there is no exit code (wait(2)), and no program would fail."""
    import signal  # repmgrd's events do without

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def finish() -> bool:
    """Write out what is left; False if that cannot be, and then Python does not try it again when it ends."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        give_up()
        return False
    return True


def give_up() -> None:
    """From now on output goes nowhere."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
