"""What serves where repmgr has given up: the old primary again, or its successor, if the old primary has died.

repmgrd is no help then. One that was paused when it gave up the primary promotes nobody later either, though it is
unpaused (repmgrd-physical.c, MS_DEGRADED: it only follows another primary). Else it promotes no node where too few are
left to agree, and a primary that is shutting down, but does not end, still answers it. This is done only while repmgrd
is paused on all nodes that answer, after repmgr has ended, and if it is certain that nobody has been promoted: two
primaries are worse than none.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from shlex import quote

from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.repmgr_files import identities
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.switchover.on_node import Repmgr, repmgr_of
from repmgr_hooks.switchover.phases import Plan
from repmgr_hooks.system.steps import Host, Program
from repmgr_hooks.text import one_line

log = logging.getLogger(__name__)

LIMIT = 15.0
START_LIMIT, STOP_LIMIT, PROMOTE_LIMIT = 60, 30, 90
LONGEST = 2 * (STOP_LIMIT + LIMIT) + PROMOTE_LIMIT + LIMIT
"""Seconds for all of this."""
# Before anything else of its timeline a promotion writes, and syncs, its history (timeline.c, writeTimeLineHistory).
DOWN = """
cd {directory} || exit
if server=$(head -n 1 postmaster.pid 2>/dev/null) && kill -s 0 "$server" 2>/dev/null; then exit; fi
files=$(ls pg_wal) || exit
echo "down $(echo "$files" | grep -Ex '[0-9A-F]{{8}}\\.history' | sort | tail -n 1)"
"""
# postmaster.opts holds how the server was started, and stays: repmgr of PGDG's RPMs is beside PostgreSQL's programs.
# What starts a server may go on waiting for its output: nobody waits for that.
START = """
cd {directory} || exit
PATH=$PATH:$(dirname "$(sed 's/ .*//;q' postmaster.opts)") LC_ALL=C
export PATH LC_ALL
[ ! -e standby.signal ] && [ ! -e recovery.signal ] || exit
{first}
setsid timeout --foreground {limit} repmgr -f {conf} node service --action=start </dev/null >/dev/null 2>&1 &
echo started
"""
STOPPED = "pg_controldata . | grep -qx 'Database cluster state: *shut down' || exit 0"
# A backend hangs, for which a fast shutdown waits without end. An immediate one kills what is left (postmaster.c,
# SIGKILL_CHILDREN_AFTER_SECS); crash recovery has little to do, for there was a checkpoint right before.
# While it runs repmgr has promoted nobody: it does so only when it has seen it stopped (do_standby_switchover).
# The eighth line says that it is shutting down (pidfile.h); one that serves, and that we cannot reach, is left alone.
END = """
server=$(head -n 1 postmaster.pid 2>/dev/null) && kill -s 0 "$server" 2>/dev/null || exit 0
case $(sed -n 8p postmaster.pid) in stopping*) ;; *) exit ;; esac
pg_ctl -D . -m immediate -w -t {stop_limit} stop >/dev/null 2>&1 || exit"""
# repmgr itself refuses while its node sees a primary (repmgr-action-standby.c, do_standby_promote).
PROMOTE = """
cd {directory} || exit
server=$(head -n 1 postmaster.pid) || exit
PATH=$PATH:$(dirname "$(readlink "/proc/$server/exe")") LC_ALL=C
export PATH LC_ALL
unset SSH_AUTH_SOCK
timeout --foreground {limit} repmgr -f {conf} standby promote --siblings-follow </dev/null 2>&1
"""


def promote(plan: Plan, states: Sequence[NodeState], promoting: bool, host: Host) -> bool:
    """Have repmgr promote the node that was to be promoted, or one that has more WAL, and return whether it has.

    It is a failover, which repmgrd has let pass while it was paused; so what repmgrd asks for is asked for here, too:
    that more than half of the nodes are seen, and of those the one with the most WAL (repmgrd-physical.c, do_election).
    ``promoting``: repmgr may have begun to promote its node; then that, and no other, is safe to promote.
    """
    others = [state for state in states if state.node != plan.source]
    seen = [state for state in others if state.reachable]
    if _may_be_promoted_already(plan, seen):
        return False
    if 2 * len(seen) <= len(others):
        log.warning("nobody is promoted: %d of %d nodes answer", len(seen), len(others))
        return False
    best = _best(plan, seen)
    if best is None:
        return False
    if promoting and best.node != plan.target:
        log.warning("nobody is promoted: node %d has more WAL than node %d", best.node, plan.target)
        return False
    try:
        repmgr = plan.repmgr if best.node == plan.target else _repmgr_of(plan, best.node, host)
        directory, conf = quote(repmgr.directory), quote(repmgr.conf)
        script = PROMOTE.format(directory=directory, conf=conf, limit=PROMOTE_LIMIT)
        for line in _run(repmgr, script, host, PROMOTE_LIMIT + LIMIT).splitlines():
            log.info("repmgr: %s", one_line(line, 300))
        return True
    except OperationFailed as error:
        log.warning("%s", error)
        return False


def _may_be_promoted_already(plan: Plan, seen: Sequence[NodeState]) -> bool:
    """A standby on a newer timeline follows somebody who was promoted."""
    nodes = [state for state in seen if not state.witness and state.node != plan.source]
    return any(not state.in_recovery or state.timeline > plan.state.timeline for state in nodes)


def _best(plan: Plan, seen: Sequence[NodeState]) -> NodeState | None:
    """Of those with the most WAL the one that was to be promoted; None if that does not answer."""
    target = next((state for state in seen if state.node == plan.target), None)
    if target is None:
        return None
    never = {row.node for row in target.registered if not row.electable}
    nodes = [state for state in seen if not state.witness and state.node not in never]
    return max(nodes, key=lambda state: state.lsn) if any(state.lsn > target.lsn for state in nodes) else target


def _repmgr_of(plan: Plan, node: int, host: Host) -> Repmgr:
    """Raises OperationFailed."""
    cluster = plan.managed.cluster
    what, limit = f"node {node} has more WAL than node {plan.target}", cluster.postgres.timeout
    log.warning("%s: it is to be promoted", what)
    known = identities(node, host, limit).get(node)
    if known is None or not cluster.nodes[node].shell:
        raise OperationFailed(f"{what}, and it has no 'shell'", code="no_shell", hint="promote it by hand")
    return repmgr_of(node, cluster.nodes[node].shell, known, host, limit)


def start_old_primary(plan: Plan, states: Sequence[NodeState], promoting: bool, host: Host) -> bool:
    """Start the old primary, if that is safe, and return whether it was begun; how it goes is seen at the node.

    ``promoting``: repmgr may have begun to promote its node.
    """
    before, target, repmgr, old_repmgr = plan.state, plan.target, plan.repmgr, plan.old_repmgr
    if old_repmgr is None:
        return False
    others = [state for state in states if state.node != before.primary and not state.witness]
    silent = [state.node for state in others if not state.reachable]
    if silent not in ([], [target]) or _may_be_promoted_already(plan, [state for state in others if state.reachable]):
        return False
    try:
        if not silent:
            ended = _started(old_repmgr, END.format(stop_limit=STOP_LIMIT), host)
            return ended or (not promoting and _started(old_repmgr, STOPPED, host))
        return not _promoted(repmgr, before.timeline, host) and _started(old_repmgr, STOPPED, host)
    except OperationFailed as error:
        log.warning("%s", error)
        return False


def _promoted(target: Repmgr, timeline: int, host: Host) -> bool:
    """False if a node's server is down, and has begun no timeline. Raises OperationFailed."""
    said = _run(target, DOWN.format(directory=quote(target.directory)), host)
    found = re.fullmatch(r"down ?(?:([0-9A-F]{8})\.history)?", said)
    return found is None or int(found[1] or "0", 16) > timeline


def _started(repmgr: Repmgr, first: str, host: Host) -> bool:
    """Start a server; what is to be true, or done, ``first``, says no by ending the script. Raises OperationFailed."""
    directory, conf = quote(repmgr.directory), quote(repmgr.conf)
    script = START.format(directory=directory, conf=conf, limit=START_LIMIT, first=first)
    return _run(repmgr, script, host) == "started"


def _run(repmgr: Repmgr, script: str, host: Host, limit: float = STOP_LIMIT + LIMIT) -> str:
    return host.run(Program((*repmgr.command, "sh"), stdin=script), limit).strip()
