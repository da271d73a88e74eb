"""Commands that begin and end a maintenance; to begin one, the names of the clusters are enough."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.cli.output import OK
from repmgr_hooks.config_file import names, of_gateway, state_dir_of
from repmgr_hooks.hook import wake
from repmgr_hooks.journal.maintenance import Maintenance, Pause
from repmgr_hooks.journal.pauses import keep, until_when
from repmgr_hooks.journal.store import opened
from repmgr_hooks.lock import holder, lock_name


def do_pause(arguments: argparse.Namespace) -> int:
    """Begin a maintenance."""
    path = of_gateway(arguments.config)
    clusters, state_dir = names.meant(path, arguments.cluster), state_dir_of(path)
    until = None if arguments.duration is None else clock.wall() + arguments.duration
    with closing(opened(Maintenance, state_dir / "journal.db")) as journal:
        for name in clusters:
            journal.pause(name, until, arguments.reason)
            keep(state_dir, name, Pause(until, arguments.reason, clock.wall()))
    heard = wake(str(state_dir / "spool"))
    for name in clusters:
        print(f"{name}: PAUSED {until_when(until)}: events are stored, nothing is done{_but(name, state_dir)}")
    if not heard:
        print(f"no service is running that works with {state_dir}", file=sys.stderr)
        print("HINT: systemctl status repmgr-hooks", file=sys.stderr)
    return OK


def _but(cluster: str, state_dir: Path) -> str:
    """What goes on for all that."""
    held = holder(state_dir / lock_name(cluster))
    if held is None:
        return ""
    if "worker" in held.command.split():
        return " after the step that the service is taking now"
    return f" but by {held}, which goes on"


def do_resume(arguments: argparse.Namespace) -> int:
    """End a maintenance, and do what was left undone; a configuration that does not say what to do leaves the pause."""
    from repmgr_hooks import config  # more than a pause needs; psycopg and the like come when the service is awake

    loaded = config.load(of_gateway(arguments.config))
    from repmgr_hooks.cli.rights import refuse_without_rights

    meant = names.named(loaded.path, loaded.clusters, arguments.cluster)
    refuse_without_rights(loaded.clusters[name] for name in meant)
    with closing(opened(Maintenance, loaded.state_dir / "journal.db")) as journal:
        for name in meant:
            journal.resume(name)
            keep(loaded.state_dir, name, None)
    wake(str(loaded.state_dir / "spool"))
    from repmgr_hooks.cli.act import do_reconcile

    return do_reconcile(arguments)
