"""The command line: which verb is meant, and which exit code its errors give."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from repmgr_hooks.cli import act, setup, show
from repmgr_hooks.cli.arguments import parser
from repmgr_hooks.cli.output import BUG, FAILED, USAGE, complain, log
from repmgr_hooks.errors import HooksError, UsageError


def main() -> None:
    """Run the program and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one verb and return the exit code; the one place that turns errors into codes."""
    arguments = parser().parse_args(argv)
    verb = VERBS[arguments.verb]
    try:
        return verb(arguments)
    except UsageError as error:
        complain(error)
        return USAGE
    except HooksError as error:
        complain(error)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted; 'repmgr-hooks reconcile' does what is left")
        return FAILED
    except Exception:
        log.exception("this is a bug in repmgr_hooks; please report it with the lines below")
        return BUG


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "event": act.do_event,
    "worker": act.do_worker,
    "replay": act.do_replay,
    "reconcile": act.do_reconcile,
    "boot": act.do_reconcile,
    "status": show.do_status,
    "check-wal": show.do_check_wal,
    "history": show.do_history,
    "metrics": show.do_metrics,
    "pause": act.do_pause,
    "resume": act.do_resume,
    "init": setup.do_init,
    "check": show.do_check,
    "handlers": show.do_handlers,
}
