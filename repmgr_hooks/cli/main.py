"""Which command is meant; what its errors come to stands in ``outcome.py``."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from repmgr_hooks.cli import streams
from repmgr_hooks.cli.arguments import parser
from repmgr_hooks.hook import option
from repmgr_hooks.text import CONTROL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from argparse import Namespace
    from pathlib import Path

    Command = Callable[[Namespace], int]
    GiveUp = Callable[[Path, bool], None]

COMMANDS: Mapping[str, str] = {
    "event": "act.do_event",
    "worker": "serve.do_worker",
    "forward": "forward.do_forward",
    "receive-event": "forward.do_receive_event",
    "replay": "act.do_replay",
    "reconcile": "act.do_reconcile",
    "simulate-failover": "act.do_simulate_failover",
    "switchover": "switchover.do_switchover",
    "drill": "drill.do_drill",
    "boot": "act.do_reconcile",
    "status": "show.do_status",
    "check-wal": "check_wal.do_check_wal",
    "history": "past.do_history",
    "metrics": "show.do_metrics",
    "serve-http": "serve_http.do_serve_http",
    "may-promote": "may_promote.do_may_promote",
    "pause": "maintain.do_pause",
    "resume": "maintain.do_resume",
    "init": "setup.do_init",
    "check": "examine.do_check",
    "handlers": "list_handlers.do_handlers",
    "config-schema": "setup.do_config_schema",
    "complete": "complete.do_complete",
}
"""Where each is. Its module is imported when it is asked for: whoever looks into the history, or asks for help, does
not wait until all that a failover needs has been imported."""
ROOTS_OWN = ("check", "config-schema", "handlers", "history", "init")
"""They look into files of several users, or write where root says; the journal they open as its owner."""

PLACES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin")
"""Where a service finds programs (systemd.exec(5)). ``su`` and cron leave out the sbin, where the firewall's programs
are; sudo has no /usr/local on Debian sid and RHEL (``secure_path``), and a Barman that pip has installed would be found
by the service alone."""

START_NOTHING = ("pause",)
"""They start no program and change no rules: as the service's user they need none of its capabilities."""


def main(argv: Sequence[str]) -> int:
    """Run the program: root becomes the service's user first, unless the command needs root. Returns the exit code."""
    return run(argv, become_service)


def complete_path() -> None:
    """Let programs be found where a service finds them: for root first there, for others after their own places."""
    path = list(filter(None, os.environ.get("PATH", "").split(":")))
    missing = [place for place in PLACES if place not in path]
    os.environ["PATH"] = ":".join([*missing, *path] if os.geteuid() == 0 else [*path, *missing])


def become_service(config: Path, capable: bool) -> None:
    """Drop root's privileges for good; nothing happens unless we are root."""
    if os.geteuid() == 0:
        from repmgr_hooks.cli import privileges  # what it imports takes time, and nobody else has any to drop

        privileges.become_service(config, capable)


def run(argv: Sequence[str], give_up: GiveUp = lambda config, capable: None) -> int:
    """Run one command and return the exit code."""
    try:
        job = partial(run_command, parsed(argv), give_up)
    except SystemExit:  # argparse has printed the help, or what is wrong
        streams.finish()
        raise
    except BaseException as error:
        job = partial(fail, error)
    from repmgr_hooks.cli.outcome import code_of  # not for help, nor for a usage error

    return code_of(job)


def parsed(argv: Sequence[str]) -> Namespace:
    """Return the arguments. Raises UsageError for those that are no text, SystemExit as argparse does."""
    for word in argv:
        if CONTROL.search(word):
            from repmgr_hooks.catalogue import shorten
            from repmgr_hooks.errors import UsageError

            what = f"{shorten(word)} holds a control character, or is not UTF-8"
            raise UsageError(what, hint="write it as plain text")
    return parser(option("--config", list(argv))[1][:1]).parse_args(argv)


def fail(error: BaseException) -> int:
    """Raise where errors become codes."""
    raise error


def run_command(arguments: Namespace, give_up: GiveUp) -> int:
    """Run the command that the arguments name."""
    complete_path()
    if arguments.command not in ROOTS_OWN:
        from repmgr_hooks.config_file import config_path

        # Absolute: the service's user works in /, for it may not be allowed to be where root is.
        config = config_path(arguments.config).absolute()
        arguments.config = str(config)
        arguments.file = arguments.file and arguments.file.absolute()
        give_up(config, arguments.command not in START_NOTHING)
    carry_out = command(arguments.command)
    gc.freeze()  # what has been imported is no garbage; see __main__.py
    gc.enable()
    return carry_out(arguments)


def command(name: str) -> Command:
    """Return what carries out a command."""
    module, _, function = COMMANDS[name].partition(".")
    carry_out: Command = getattr(importlib.import_module(f"repmgr_hooks.cli.{module}"), function)
    return carry_out
