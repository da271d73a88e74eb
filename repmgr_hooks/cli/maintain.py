"""Commands that begin and end a maintenance; to begin one, the names of the clusters are enough."""

from __future__ import annotations

import argparse
from contextlib import closing

from repmgr_hooks import clock
from repmgr_hooks.cli.output import OK
from repmgr_hooks.config_file import names, of_gateway, state_dir_of
from repmgr_hooks.hook import wake
from repmgr_hooks.journal.maintenance import Maintenance, Pause
from repmgr_hooks.journal.pauses import keep, until_when
from repmgr_hooks.journal.store import opened


def do_pause(arguments: argparse.Namespace) -> int:
    """Begin a maintenance."""
    path = of_gateway(arguments.config)
    clusters, state_dir = names.meant(path, arguments.cluster), state_dir_of(path)
    until = None if arguments.duration is None else clock.wall() + arguments.duration
    with closing(opened(Maintenance, state_dir / "journal.db")) as journal:
        for name in clusters:
            journal.pause(name, until, arguments.reason)
            keep(state_dir, name, Pause(until, arguments.reason, clock.wall()))
    for name in clusters:
        print(f"{name}: PAUSED {until_when(until)}: events are stored, nothing is done")
    return OK


def do_resume(arguments: argparse.Namespace) -> int:
    """End a maintenance, and do what was left undone; a configuration that does not say what to do leaves the pause."""
    from repmgr_hooks import config  # more than a pause needs; psycopg and the like come when the service is awake

    loaded = config.load(of_gateway(arguments.config))
    with closing(opened(Maintenance, loaded.state_dir / "journal.db")) as journal:
        for name in names.named(loaded.path, loaded.clusters, arguments.cluster):
            journal.resume(name)
            keep(loaded.state_dir, name, None)
    wake(str(loaded.state_dir / "spool"))
    from repmgr_hooks.cli.act import do_reconcile

    return do_reconcile(arguments)
