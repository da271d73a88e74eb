"""What finds a cluster's primary, with what the journal remembers of it."""

from __future__ import annotations

from dataclasses import replace

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.journal.heartbeat import is_away
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.settings.cluster import Cluster


def primary_finder(settings: Cluster, journal: Journal | None) -> PrimaryFinder:
    """Return what decides for a cluster, with what the journal remembers of it. Raises OperationFailed."""
    known = journal.last_known(settings.name, settings.flap_limit.window) if journal else LastKnownPrimary()
    return PrimaryFinder(settings, replace(known, away=is_away(settings)))
