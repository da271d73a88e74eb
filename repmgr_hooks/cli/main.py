"""Which command is meant, and which exit code its errors give."""

from __future__ import annotations

import argparse
import errno
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from repmgr_hooks.catalogue import shorten
from repmgr_hooks.cli import act, complete, forward, setup, show, streams
from repmgr_hooks.cli.arguments import parser
from repmgr_hooks.cli.output import BUG, FAILED, USAGE, all_written, complain, log
from repmgr_hooks.cli.privileges import become_service
from repmgr_hooks.config import config_path
from repmgr_hooks.errors import HooksError, OperationFailed, UsageError
from repmgr_hooks.settings.schema import CONTROL

OUTPUT = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG, errno.EDQUOT, errno.EAGAIN)
"""Errors of write(2)."""
NO_THREAD = "can't start new thread"
"""What Python says in a RuntimeError, which has no code (_threadmodule.c)."""
ROOTS_OWN = ("check", "config-schema", "handlers", "history", "init")
"""They look into files of several users, or write where root says; the journal they open as its owner."""


def main(argv: Sequence[str]) -> int:
    """Run the program: root becomes the service's user first, unless the command needs root. Returns the exit code."""
    return run(argv, become_service)


def run(argv: Sequence[str], give_up: Callable[[Path], None] = lambda config: None) -> int:
    """Run one command and return the exit code; the one place that turns errors into codes."""
    try:
        code = run_command(argv, give_up)
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


def run_command(argv: Sequence[str], give_up: Callable[[Path], None]) -> int:
    """Run the command that the arguments name. Raises UsageError for those that are no text."""
    for word in argv:
        if CONTROL.search(word):
            raise UsageError(
                f"{shorten(word)} holds a control character, or is not UTF-8", hint="write it as plain text"
            )
    arguments = parser().parse_args(argv)
    if arguments.command not in ROOTS_OWN:
        # Absolute: the service's user works in /, for it may not be allowed to be where root is.
        arguments.config = str(config_path(arguments.config).absolute())
        arguments.file = arguments.file and arguments.file.absolute()
        give_up(Path(arguments.config))
    return COMMANDS[arguments.command](arguments)


def serve_http(arguments: argparse.Namespace) -> int:
    """Import what only this command needs (asyncio), and run it."""
    from repmgr_hooks.cli.serve_http import do_serve_http

    return do_serve_http(arguments)


def may_promote(arguments: argparse.Namespace) -> int:
    """Import what only this command needs, and run it."""
    from repmgr_hooks.cli.may_promote import do_may_promote

    return do_may_promote(arguments)


def _switchover(arguments: argparse.Namespace) -> int:
    """Import what it needs only now: no other command waits for it."""
    from repmgr_hooks.cli.switchover import do_switchover

    return do_switchover(arguments)


def _drill(arguments: argparse.Namespace) -> int:
    """Import what it needs only now: no other command waits for it."""
    from repmgr_hooks.cli.drill import do_drill

    return do_drill(arguments)


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "event": act.do_event,
    "worker": act.do_worker,
    "forward": forward.do_forward,
    "receive-event": forward.do_receive_event,
    "replay": act.do_replay,
    "reconcile": act.do_reconcile,
    "simulate-failover": act.do_simulate_failover,
    "switchover": _switchover,
    "drill": _drill,
    "boot": act.do_reconcile,
    "status": show.do_status,
    "check-wal": show.do_check_wal,
    "history": show.do_history,
    "metrics": show.do_metrics,
    "serve-http": serve_http,
    "may-promote": may_promote,
    "pause": act.do_pause,
    "resume": act.do_resume,
    "init": setup.do_init,
    "check": show.do_check,
    "handlers": show.do_handlers,
    "config-schema": setup.do_config_schema,
    "complete": complete.do_complete,
}
