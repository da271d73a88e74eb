"""Commands that show what is true: for people, for programs, for Prometheus."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from threading import BoundedSemaphore

from repmgr_hooks.background import begin
from repmgr_hooks.cli.configured import choose, configured, world_of
from repmgr_hooks.cli.journals import with_journal
from repmgr_hooks.cli.output import FAILED, OK, complain, say, write_whole
from repmgr_hooks.cli.rights import complain_of_passfiles
from repmgr_hooks.config import Config
from repmgr_hooks.engine.last_look import last_look
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import Problem, UsageError
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.lock import broken
from repmgr_hooks.reports import endpoint, exposition, metrics
from repmgr_hooks.reports.look import ALL, Spared, look
from repmgr_hooks.reports.status import ClusterStatus
from repmgr_hooks.system.answers import Answers

NO_JOURNAL = Problem("journal", "the journal cannot be used: what it would show is missing here")
"""Why is said once, on stderr."""
AT_ONCE = 8
"""Clusters; each may start programs of Barman's."""
MANY = 8
"""Of more clusters than these, what the service has just found to be well is not looked at again where that takes long:
of a hundred it would be 1,000 clients' visits, 500 programs, and minutes."""


def do_status(arguments: argparse.Namespace) -> int:
    """Show each cluster on the screen."""
    loaded = configured(arguments)
    chosen = choose(loaded, arguments.cluster, None)
    complain_of_passfiles(chosen)
    found, error = with_journal(
        loaded.state_dir,
        lambda journal: looks(chosen, journal, loaded),
    )
    http = endpoint.look((each.cluster for each in found), endpoint.RUNTIME)
    found = [replace(each, http=http[each.cluster.name]) for each in found]
    wrong = error or broken(loaded.state_dir)
    if wrong:
        complain(wrong)
    if arguments.json:
        print(json.dumps({cluster_status.cluster.name: cluster_status.as_dict() for cluster_status in found}, indent=2))
    else:
        say(line for cluster_status in found for line in cluster_status.lines())
    return OK if all(cluster_status.healthy for cluster_status in found) and not wrong else FAILED


def looks(chosen: Sequence[ManagedCluster], journal: Journal | None, loaded: Config) -> list[ClusterStatus]:
    """Look at several clusters side by side: most of the time each waits for nodes and for Barman."""
    turns, answers = BoundedSemaphore(AT_ONCE), Answers()

    def in_turn(managed: ManagedCluster) -> ClusterStatus:
        with turns:
            spared = Spared(*last_look(endpoint.RUNTIME, managed.cluster.name)) if len(chosen) > MANY else ALL
            found = look(managed, world_of(managed, answers=answers), journal, loaded, spared)
            return replace(found, warnings=(*found.warnings, *unusable))

    unusable = [] if journal else [NO_JOURNAL]
    if wrong := broken(loaded.state_dir):
        unusable.append(Problem("state_dir", wrong))
    return [answer() for answer in [begin(partial(in_turn, managed)) for managed in chosen]]


def do_metrics(arguments: argparse.Namespace) -> int:
    """Say in numbers what ``status`` and ``history`` say in words."""
    loaded = configured(arguments)
    chosen = choose(loaded, arguments.cluster, None)
    if arguments.file is not None and arguments.file.suffix != ".prom":
        raise UsageError(f"{arguments.file}: the collector of node_exporter reads only files that end in .prom")
    complain_of_passfiles(chosen)
    samples, error = with_journal(
        loaded.state_dir,
        lambda journal: [
            sample
            for found in looks(chosen, journal, loaded)
            for sample in metrics.measure(found, journal, loaded.state_dir)
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
