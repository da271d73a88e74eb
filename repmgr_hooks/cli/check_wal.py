"""The command that says whether a restore would bring back what the cluster has."""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys

from repmgr_hooks import clock
from repmgr_hooks.barman.deep import Effort
from repmgr_hooks.cli.configured import choose, configured, world_of
from repmgr_hooks.cli.journals import journal_or_why_not
from repmgr_hooks.cli.output import FAILED, OK, complain, say
from repmgr_hooks.cli.rights import complain_of_passfiles
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, UsageError
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.reports import wal_check
from repmgr_hooks.reports.wal_check import WalCheck

RESTORE_WITHIN = 3600.0


def do_check_wal(arguments: argparse.Namespace) -> int:
    """Say whether a restore would bring back what the cluster has."""
    if arguments.newest and not arguments.deep:
        raise UsageError("--newest says how much of the records is followed", hint="add --deep")
    if arguments.within and not (arguments.deep or arguments.restore):
        raise UsageError("--within is the time for following the records, or for a restore", hint="add --deep")
    loaded = configured(arguments)
    chosen = [managed for managed in choose(loaded, arguments.cluster, None) if managed.cluster.barman]
    if not chosen:
        raise UsageError(f"{loaded.path}: no section 'barman': there is nothing to check")
    complain_of_passfiles(chosen)
    with contextlib.ExitStack() as stack:
        journal, _ = journal_or_why_not(loaded.state_dir, stack)
        found = {managed.cluster.name: check_wal(managed, arguments, journal) for managed in chosen}
    if arguments.json:
        print(json.dumps({name: report.as_dict() for name, report in found.items()}, indent=2))
    else:
        say(line for name, report in found.items() for line in report.lines(name))
    return OK if all(report.healthy for report in found.values()) else FAILED


def check_wal(managed: ManagedCluster, arguments: argparse.Namespace, journal: Journal | None) -> WalCheck:
    """Look at one cluster; what is found of the records and the backup, ``status`` and the alerts show too."""
    settings = managed.cluster
    found = wal_check.compared(
        settings,
        world_of(managed),
        journal,
        functools.partial(tell_progress, settings.name) if arguments.deep else None,
        (arguments.within or RESTORE_WITHIN) if arguments.restore else None,
        Effort(arguments.newest, arguments.within or Effort.within),
    )
    if journal:
        try:
            found.keep(journal, settings.name, "newest" if arguments.newest else "all", clock.wall())
        except OperationFailed as error:
            complain(error)
    return found


def tell_progress(cluster: str, done: int, of: int) -> None:
    """Show on stderr how far the records have been followed."""
    print(f"{cluster}: {done} of {of} files, {100 * done // of} %", file=sys.stderr, flush=True)
