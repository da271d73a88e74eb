"""Takes back what a switchover has left that ended without doing so itself: killed, cut off, or too late."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal import holds
from repmgr_hooks.log import hint
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover import record
from repmgr_hooks.switchover.record import Record
from repmgr_hooks.system.steps import Host, Sql

log = logging.getLogger(__name__)

PAUSE = "select repmgr.repmgrd_pause(%s)"
PAUSED = "select repmgr.repmgrd_is_paused()"


def may_unpause(found: Record, alive: bool, over: bool, primary: int | None, settled: Callable[[], bool]) -> bool:
    """Say whether repmgrd is to be given the cluster back, because nobody else will do it. Pure.

    repmgr may still be at work on its node although its caller is gone: until then a repmgrd that was unpaused could
    promote another node beside the one that repmgr promotes. It has promoted once another node is the primary. Where
    that is not so, or where nobody is the primary, somebody has to see to it first (``settled``).
    """
    if alive:
        return over
    if not found.repmgr and (primary is not None or not found.timeline):
        return True
    if primary not in (None, found.source):
        return True
    return settled()


def look(cluster: Cluster, primary: int | None, host: Host, settled: Callable[[Record, bool], bool]) -> Record | None:
    """Take back what is owed, and return the switchover that is still under way. Raises OperationFailed.

    ``settled`` is asked with the switchover, and whether its time is over.
    """
    found = record.read(cluster)
    if found is None:
        return None
    boot = holds.boot_id()
    # What this process itself has taken up is settled here, and nowhere else.
    alive = found.holder.boot == boot and found.holder != holds.this_process() and holds.is_alive(found.holder)
    over = record.over(found, clock.monotonic(), boot)
    if not may_unpause(found, alive, over, primary, lambda: settled(found, over)):
        return found
    nodes = [node for node in found.paused if node in cluster.nodes]  # one that is no more has nothing to be unpaused
    left = list(_failures(nodes, False, host, cluster.postgres.timeout))
    now = found.left_to_repmgrd(left) if left else None
    if now != found:
        record.keep(cluster, now)
    # One that gave its primary up while it was paused promotes nobody later either (repmgrd-physical.c, MS_DEGRADED).
    way = f"if no node becomes the primary: repmgr standby promote, on node {found.target}" if primary is None else ""
    if left:
        names = " and ".join(f"node {node}" for node in left)
        what = f"repmgrd of {names} is still paused by a switchover that was cut off; it is unpaused when that answers"
        raise OperationFailed(what, code="paused", hint=way)
    log.warning("%s: a switchover was cut off (%s): repmgrd is unpaused", cluster.name, found.phase, extra=hint(way))
    return None


def set_paused(nodes: Sequence[int], paused: bool, host: Host, limit: float) -> None:
    """Pause or unpause the repmgrd of each node. Raises OperationFailed if one cannot be."""
    for failure in _failures(nodes, paused, host, limit).values():
        raise failure


def are_paused(nodes: Sequence[int], host: Host, limit: float) -> bool:
    """True if each node answers, and none has a repmgrd that is not paused.

    A node that does not load repmgr's library says null (repmgr.c, repmgrd_is_paused), and no repmgrd starts there.
    """
    answers = host.fetch_each([Sql(node, PAUSED) for node in nodes], limit).values()
    return not any(isinstance(answer, OperationFailed) or answer[0][0] is False for answer in answers)


def all_answer(nodes: Sequence[int], host: Host, limit: float) -> bool:
    """True if each node can be asked."""
    answers = host.fetch_each([Sql(node, "select 1") for node in nodes], limit)
    return not any(isinstance(answer, OperationFailed) for answer in answers.values())


def unpaused(nodes: Sequence[int], host: Host, limit: float) -> list[int]:
    """Unpause the repmgrd of each node, and return the nodes that did not answer."""
    failures = _failures(nodes, False, host, limit)
    for failure in failures.values():
        log.warning("%s", failure)
    return list(failures)


def _failures(nodes: Sequence[int], paused: bool, host: Host, limit: float) -> dict[int, OperationFailed]:
    answers = host.fetch_each([Sql(node, PAUSE, (paused,)) for node in nodes], limit)
    return {node: answer for node, answer in answers.items() if isinstance(answer, OperationFailed)}
