"""Takes back what a switchover has left that ended without doing so itself: killed, cut off, or too late."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover import held, record
from repmgr_hooks.switchover.record import Record
from repmgr_hooks.system.steps import Host, Sql

log = logging.getLogger(__name__)

PAUSE = "select repmgr.repmgrd_pause(%s)"
LIMIT = 5.0


@dataclass(frozen=True)
class Owed:
    """What is to be taken back now."""

    release: bool
    unpause: bool


def owed(found: Record, alive: bool, over: bool, primary: int | None) -> Owed:
    """Say what nobody else will take back. Pure.

    repmgr may still be at work on its node although its caller is gone: until then a repmgrd that was unpaused could
    promote another node beside the one that repmgr promotes. It has done, or failed, once another node is the primary;
    else it is given the time that it was to have.
    """
    if alive and not over:
        return Owed(False, False)
    done = not found.repmgr or over or primary not in (None, found.source)
    return Owed(True, done)


def look(cluster: Cluster, state_dir: Path, primary: int | None, host: Host) -> Record | None:
    """Take back what is owed, and return the switchover that is still under way. Raises OperationFailed."""
    found = record.read(state_dir, cluster.name)
    if found is None:
        return None
    over = record.over(found, clock.monotonic(), record.boot_id())
    now = owed(found, record.alive(found.holder), over, primary)
    if now.release and held.end(cluster, state_dir, host):
        log.warning("%s: clients that a switchover held go on: it has ended (phase %s)", cluster.name, found.phase)
    if now.unpause:
        left = unpaused(found.paused, host, LIMIT)
        if not left:
            log.warning("%s: repmgrd is unpaused: the switchover that paused it has ended", cluster.name)
        found = replace(found, paused=tuple(left))
        record.keep(state_dir, cluster.name, found if left else None)
        return found if left else None
    return found


def set_paused(nodes: Sequence[int], paused: bool, host: Host, limit: float) -> None:
    """Pause or unpause the repmgrd of each node. Raises OperationFailed if one cannot be."""
    answers = host.fetch_each([Sql(node, PAUSE, (paused,)) for node in nodes], limit)
    for answer in answers.values():
        if isinstance(answer, OperationFailed):
            raise answer


def unpaused(nodes: Sequence[int], host: Host, limit: float) -> list[int]:
    """Unpause the repmgrd of each node, and return the nodes that did not answer."""
    answers = host.fetch_each([Sql(node, PAUSE, (False,)) for node in nodes], limit)
    for answer in answers.values():
        if isinstance(answer, OperationFailed):
            log.warning("%s", answer)
    return [node for node, answer in answers.items() if isinstance(answer, OperationFailed)]
