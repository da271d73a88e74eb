"""One run in the foreground: for a command that somebody has typed, and at boot."""

from __future__ import annotations

import logging
from dataclasses import replace

from repmgr_hooks import clock
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.engine import dispatcher
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import RunObserver, RunResult, Show, shown_to_nobody
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event
from repmgr_hooks.journal.heartbeat import is_away, saw_primary
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.log import about
from repmgr_hooks.service.recorder import JournalRecorder, end_run, ended, remember
from repmgr_hooks.system.steps import Host

NOBODY_ASKED = ("boot", "event")
log = logging.getLogger(__name__)


def run_now(
    managed: ManagedCluster,
    host: Host,
    events: list[Event],
    cause: str,
    journal: Journal | None,
    waiting: Show = shown_to_nobody,
) -> RunResult:
    """One run in the foreground, journalled if there is a journal. The caller holds the cluster's lock."""
    unwritten = RunObserver(waiting)
    if journal is None:
        return dispatcher.handle(managed, host, events, observer=unwritten)
    name = managed.cluster.name
    last_known = LastKnownPrimary()
    try:
        started, last_known = clock.wall(), journal.last_known(name)
        numbers = [journal.add_event(name, event, clock.wall(), by_hand=cause != "event") for event in events]
        run = journal.begin_run(name, cause, 1, numbers)
        # Whoever reconciles by hand knows what he does.
        last_known = replace(journal.last_known(name), away=cause in NOBODY_ASKED and is_away(managed.cluster))
    except OperationFailed as error:
        log.error("%s; going on without it", error)
        return dispatcher.handle(managed, host, events, observer=unwritten, last_known=last_known)
    observer = JournalRecorder(journal, name, run, set(), waiting)
    with about(run=run, events=numbers):
        result = dispatcher.handle(managed, host, events, observer=observer, last_known=last_known)
    if result.decision and result.decision.primary is not None:
        saw_primary(managed.cluster)
    if result.ok:
        remember(journal, name, result.decision, last_known)
    end_run(journal, ended(run, name, cause, 1, started, result))
    return result
