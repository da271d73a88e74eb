"""Commands that show what is true, what happened, and what would go wrong."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import json
import sys

from repmgr_hooks import checks, clock, handlers
from repmgr_hooks.barman.deep import Effort
from repmgr_hooks.checks import database_host, finding, offline, recovery
from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import acting_as, service_user
from repmgr_hooks.cli.output import (
    FAILED,
    OK,
    choose,
    complain,
    configured,
    journal_of,
    journal_or_why_not,
    say,
    with_journal,
    world_of,
    write_whole,
)
from repmgr_hooks.config import Config, config_path, load
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import HooksError, OperationFailed, UsageError
from repmgr_hooks.forward import settings
from repmgr_hooks.hook import forwards
from repmgr_hooks.journal import wal_checks
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.lock import broken
from repmgr_hooks.reports import exposition, failover, failover_html, failover_text, history, metrics, status, wal_check
from repmgr_hooks.reports.wal_check import WalCheck
from repmgr_hooks.system.host import LocalHost

RESTORE_WITHIN = 3600.0


def do_status(arguments: argparse.Namespace) -> int:
    """Show each cluster on the screen."""
    loaded = configured(arguments)
    chosen = choose(loaded, arguments.cluster, None)
    found, error = with_journal(
        loaded, lambda journal: [status.look(managed, world_of(managed), journal, loaded) for managed in chosen]
    )
    if wrong := error or broken(loaded.state_dir):
        complain(wrong)
    if arguments.json:
        print(json.dumps({cluster_status.cluster.name: cluster_status.as_dict() for cluster_status in found}, indent=2))
    else:
        say(line for cluster_status in found for line in cluster_status.lines())
    return OK if all(cluster_status.healthy for cluster_status in found) and not wrong else FAILED


def do_check_wal(arguments: argparse.Namespace) -> int:
    """Say whether a restore would bring back what the cluster has."""
    loaded = configured(arguments)
    chosen = [managed for managed in choose(loaded, arguments.cluster, None) if managed.cluster.barman]
    if not chosen:
        raise UsageError(f"{loaded.path}: no section 'barman': there is nothing to check")
    with contextlib.ExitStack() as stack:
        journal, _ = journal_or_why_not(loaded, stack)
        found = {managed.cluster.name: check_wal(managed, arguments, journal) for managed in chosen}
    if arguments.json:
        print(json.dumps({name: report.as_dict() for name, report in found.items()}, indent=2))
    else:
        say(line for name, report in found.items() for line in report.lines(name))
    return OK if all(report.healthy for report in found.values()) else FAILED


def check_wal(managed: ManagedCluster, arguments: argparse.Namespace, journal: Journal | None) -> WalCheck:
    """Look at one cluster; what following the records has shown, ``status`` and the alerts show too."""
    settings = managed.cluster
    found = wal_check.compared(
        settings,
        world_of(managed),
        journal,
        functools.partial(tell_progress, settings.name) if arguments.deep else None,
        (arguments.within or RESTORE_WITHIN) if arguments.restore else None,
        Effort(arguments.newest, arguments.within or Effort.within),
    )
    if journal and (row := found.row("newest" if arguments.newest else "all", clock.wall())):
        try:
            wal_checks.keep(journal, settings.name, row)
        except OperationFailed as error:
            complain(error)
    return found


def tell_progress(cluster: str, done: int, of: int) -> None:
    """Show on stderr how far the records have been followed."""
    print(f"{cluster}: {done} of {of} files, {100 * done // of} %", file=sys.stderr, flush=True)


def do_history(arguments: argparse.Namespace) -> int:
    """Show what happened."""
    loaded = configured(arguments)
    chosen = choose(loaded, arguments.cluster, None)
    if arguments.failover is not None:
        return show_failover(arguments, loaded, [managed.cluster.name for managed in chosen])
    if arguments.html is not None:
        raise UsageError("--html shows one change of the primary: add '--failover last'")
    with journal_of(loaded) as journal:
        runs = history.read(journal, arguments.n, arguments.cluster, arguments.failed)
    if arguments.json:
        print(json.dumps(runs, indent=2))
    else:
        say(history.lines(runs) or ["nothing yet"])
    return OK


def show_failover(arguments: argparse.Namespace, loaded: Config, clusters: list[str]) -> int:
    """Show one change of the primary, on the screen or as a page."""
    with journal_of(loaded) as journal:
        report = failover.report(journal, failover.find(journal, arguments.failover, clusters))
    if arguments.html:
        write_whole(arguments.html, failover_html.render(report))
    if arguments.json:
        print(json.dumps(dataclasses.asdict(report), indent=2))
    elif not arguments.html:
        say(failover_text.lines(report))
    return OK


def do_metrics(arguments: argparse.Namespace) -> int:
    """Say in numbers what ``status`` and ``history`` say in words."""
    loaded = configured(arguments)
    chosen = choose(loaded, arguments.cluster, None)
    if arguments.file is not None and arguments.file.suffix != ".prom":
        raise UsageError(f"{arguments.file}: the collector of node_exporter reads only files that end in .prom")
    samples, error = with_journal(
        loaded,
        lambda journal: [
            sample
            for managed in chosen
            for sample in metrics.measure(
                status.look(managed, world_of(managed), journal, loaded), journal, loaded.state_dir
            )
        ],
    )
    text = exposition.render(samples)
    if arguments.file:
        write_whole(arguments.file, text)
    else:
        print(text, end="")
    if error:
        complain(error)
    return FAILED if error else OK


def do_check(arguments: argparse.Namespace) -> int:
    """Say what would go wrong."""
    note = ""
    try:
        if arguments.offline is None:
            found = examined(arguments)
        else:
            found, note = judged(arguments)
    except HooksError as error:
        if not arguments.nagios:
            raise
        print(finding.nagios_line("UNKNOWN", str(error)))
        return finding.NAGIOS["UNKNOWN"]
    if arguments.nagios:
        line, code = finding.nagios(found)
        print(line)
        return code
    if arguments.json:
        print(json.dumps(finding.as_dicts(found), indent=2))
    else:
        print("\n".join([*finding.lines(found), *filter(None, [note])]))
    return FAILED if finding.bad(found) else OK


def examined(arguments: argparse.Namespace) -> list[Finding]:
    """Look at everything that ``check`` knows of. Raises UsageError for a wrong configuration."""
    if forwards(str(path := config_path(arguments.config))):
        return [*database_host.findings(settings.load(path), path, LocalHost({}), arguments.end_to_end)]
    loaded = configured(arguments)
    worlds = {name: world_of(managed) for name, managed in loaded.clusters.items()}
    with contextlib.ExitStack() as stack:
        journal, error = journal_or_why_not(loaded, stack)
        found = [*checks.findings(loaded, journal, lambda one: worlds[one.cluster.name], arguments.end_to_end)]
    if error and not finding.bad(found):
        topic, owner = Topic("service.journal"), service_user(loaded.state_dir)
        found.append(topic.fail(str(error), error.hint) if owner.can_be_me else unseen(topic, error))
    # With the service's keys, and with no more rights: the lines that are run come from the nodes.
    with acting_as(service_user(loaded.state_dir)):
        for managed in loaded.clusters.values() if arguments.restore else ():
            found += recovery.findings(managed.cluster, world_of(managed))
    if arguments.send_test_alert:
        found += checks.alerts.sent(loaded, LocalHost({}))
    return found


def judged(arguments: argparse.Namespace) -> tuple[list[Finding], str]:
    """Judge files by themselves, and say what was not looked at. Raises UsageError with the mistakes of all of them."""
    if arguments.end_to_end or arguments.restore or arguments.send_test_alert:
        raise UsageError("--offline looks at nothing but the file", hint="leave out the other options")
    loaded: list[Config] = []
    refused: list[UsageError] = []
    for path in arguments.offline or [config_path(arguments.config)]:
        try:
            loaded.append(load(path, here=False))
        except UsageError as error:
            refused.append(error)
    if refused:
        raise UsageError("\n".join(map(str, refused)), hint=refused[0].hint)
    return [found for one in loaded for found in offline.findings(one)], offline.not_looked_at(loaded)


def do_handlers(arguments: argparse.Namespace) -> int:
    """List the handlers."""
    say(
        f"{name:12} {handler.origin:24} {(handler.module.__doc__ or '').partition(chr(10))[0]}"
        for name, handler in sorted(handlers.installed().items())
    )
    return OK
