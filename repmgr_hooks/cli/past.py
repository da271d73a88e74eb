"""The command that shows what happened."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from repmgr_hooks.cli.journals import journal_of
from repmgr_hooks.cli.output import OK, say, write_whole
from repmgr_hooks.config_file import of_gateway, state_dir_of
from repmgr_hooks.errors import UsageError
from repmgr_hooks.reports import history


def do_history(arguments: argparse.Namespace) -> int:
    """Show what happened; the configuration is asked which clusters there are only if that matters."""
    config = of_gateway(arguments.config)
    if arguments.failover is not None:
        return show_failover(arguments, config)
    if arguments.html is not None:
        raise UsageError("--html shows one change of the primary: add '--failover last'")
    if arguments.cluster is not None:
        clusters_meant(arguments, config)
    with journal_of(state_dir_of(config)) as journal:
        runs = history.read(journal, arguments.n, arguments.cluster, arguments.failed)
    if arguments.json:
        print(json.dumps(runs, indent=2))
    else:
        say(history.lines(runs) or ["nothing yet"])
    return OK


def clusters_meant(arguments: argparse.Namespace, config: Path) -> list[str]:
    """Return the named cluster, or all. Raises UsageError."""
    from repmgr_hooks.outline import outline  # YAML takes as long as all the rest

    return outline(config).named(arguments.cluster)


def show_failover(arguments: argparse.Namespace, config: Path) -> int:
    """Show one change of the primary, on the screen or as a page."""
    from repmgr_hooks.reports import failover, failover_html, failover_text

    clusters = clusters_meant(arguments, config)
    with journal_of(state_dir_of(config)) as journal:
        report = failover.report(journal, failover.find(journal, arguments.failover, clusters))
    if arguments.html:
        write_whole(arguments.html, failover_html.render(report))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    elif not arguments.html:
        say(failover_text.lines(report))
    return OK
