"""Which exit code a command's errors give, and what is said of them."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from repmgr_hooks.cli import streams
from repmgr_hooks.cli.output import BUG, FAILED, USAGE, all_written, complain
from repmgr_hooks.errors import HooksError, OperationFailed, UsageError

OUTPUT = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT, errno.EAGAIN)
"""Errors of write(2)."""
NO_THREAD = "can't start new thread"
"""What Python says in a RuntimeError, which has no code (_threadmodule.c)."""


def code_of(job: Callable[[], int]) -> int:
    """Do a job and return the exit code; the one place that turns errors into codes."""
    try:
        code = job()
    except UsageError as error:
        complain(error)
        return USAGE
    except HooksError as error:
        complain(error)
        return FAILED
    except BrokenPipeError:
        streams.give_up(sys.stdout)
        return FAILED
    except OSError as error:
        streams.give_up(sys.stdout)
        of_output = not error.filename and error.errno in OUTPUT
        where = f"the output cannot be written: {error.strerror}" if of_output else error
        complain(HooksError(f"{where}; nothing more was done", hint="check that place, then run the command again"))
        return FAILED
    except KeyboardInterrupt:
        complain(HooksError("interrupted", hint="'repmgr-hooks reconcile' does what is left"))
        return FAILED
    except Exception as error:
        if isinstance(error, MemoryError) or str(error) == NO_THREAD:
            lacking = str(error) or "no memory is left"
            complain(OperationFailed(f"this process cannot go on: {lacking}", hint="check its limits: ulimit -a"))
            return FAILED
        from repmgr_hooks.cli.logged import log

        log.exception("this is a bug in repmgr_hooks; please report it with the lines below")
        return BUG
    finally:
        all_written()
        written = streams.finish()
    if not written:
        complain(
            HooksError("everything was done, but the output cannot be written", hint="check where the output goes")
        )
    return code if written else FAILED
