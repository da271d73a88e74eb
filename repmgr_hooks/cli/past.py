"""The command that shows what happened."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from repmgr_hooks.cli.journals import journal_of
from repmgr_hooks.cli.output import OK, say, write_whole
from repmgr_hooks.config_file import names, of_gateway, state_dir_of
from repmgr_hooks.errors import UsageError
from repmgr_hooks.reports import history

LAST = 20
"""So many runs are shown, if it is not said how many."""


def do_history(arguments: argparse.Namespace) -> int:
    """Show what happened; the configuration is asked which clusters there are only if that matters."""
    config = of_gateway(arguments.config)
    if arguments.failover is not None:
        if arguments.failed or arguments.n is not None:
            raise UsageError("--failover shows one change of the primary", hint="leave out -n and --failed")
        return show_failover(arguments, config)
    if arguments.html is not None:
        raise UsageError("--html shows one change of the primary: add '--failover last'")
    if arguments.cluster is not None:
        names.meant(config, arguments.cluster)
    with journal_of(state_dir_of(config)) as journal:
        runs = history.read(journal, LAST if arguments.n is None else arguments.n, arguments.cluster, arguments.failed)
    if arguments.json:
        print_json(runs)
    else:
        say(history.lines(runs) or ["no run has failed" if arguments.failed else "nothing yet"])
    return OK


def show_failover(arguments: argparse.Namespace, config: Path) -> int:
    """Show one change of the primary, on the screen or as a page."""
    from repmgr_hooks.reports import failover, failover_html, failover_text

    clusters = names.meant(config, arguments.cluster)
    with journal_of(state_dir_of(config)) as journal:
        report = failover.report(journal, failover.find(journal, arguments.failover, clusters))
    if arguments.html:
        write_whole(arguments.html, failover_html.render(report))
    if arguments.json:
        print_json(dataclasses.asdict(report))
    elif not arguments.html:
        say(failover_text.lines(report))
    return OK


def print_json(what: object) -> None:
    """Print it as JSON."""
    import json  # for programs alone

    print(json.dumps(what, indent=2))
