"""What serves where repmgr has given up: the old primary again, or its successor, if the old primary has died.

repmgrd is no help then. One that was paused when it gave up the primary promotes nobody later either, though it is
unpaused (repmgrd-physical.c, MS_DEGRADED: it only follows another primary). Else it promotes no node where too few are
left to agree, and a primary that is shutting down, but does not end, still answers it. This is done only while repmgrd
is paused on all nodes that answer, after repmgr has ended, and if it is certain that nobody has been promoted: two
primaries are worse than none.

The command does it at its end. Where that was killed, the service does (``service/guard.py``): on the host on which the
switchover was begun, for only that has the record, whichever of several gateways has the address by then. Each gateway
leads its own ports to who serves in the end.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from shlex import quote

from repmgr_hooks import clock
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.cluster.reasons import ReasonCode
from repmgr_hooks.cluster.repmgr_files import identities
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover import record, take_back
from repmgr_hooks.switchover.on_node import Repmgr, repmgr_of
from repmgr_hooks.switchover.record import MARGIN, Record
from repmgr_hooks.system.steps import POLL, Host, Program
from repmgr_hooks.text import one_line

log = logging.getLogger(__name__)

LIMIT = 15.0
LATE = 5.0
"""Seconds for which a primary may be silent: one that is busy is no reason to promote another."""
START_LIMIT, STOP_LIMIT, PROMOTE_LIMIT = 60, 30, 90
LONGEST = 2 * (STOP_LIMIT + LIMIT) + LATE + PROMOTE_LIMIT + LIMIT
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


class WayBack:
    """Of one switchover, ``found``, whose lock is held by whoever does this; what is done is noted there before."""

    def __init__(
        self, cluster: Cluster, found: Record, finder: Callable[[], PrimaryFinder], host: Host, late: float = LATE
    ) -> None:
        self.found = found
        self.did = ""
        """What was done, if something was."""
        self._cluster, self._finder, self._host, self._late = cluster, finder, host, late

    def somebody_serves(self) -> bool:
        """Where repmgrd would promote no node, let one serve all the same; False if that is not safe, or has failed.

        Raises OperationFailed.
        """
        states = self._nobody_serves()
        if not states:
            return False
        self._begins(2 * (STOP_LIMIT + LIMIT) + START_LIMIT + self._late)
        if start_old_primary(self._cluster, self.found, states, self._host):
            self.did = f"nobody was promoted: node {self.found.source} is started again"
            log.warning("%s", self.did)
            return self._wait(lambda: self._primary() == self.found.source, START_LIMIT)
        if self._wait(lambda: self._primary() is not None, self._late):
            return True
        states = self._nobody_serves()
        if not states:
            return False
        self._begins(PROMOTE_LIMIT + LIMIT)
        promoted = promote(self._cluster, self.found, states, self._host)
        if promoted is not None:
            self.did = f"node {self.found.source} is down: node {promoted} is promoted"
            log.warning("%s", self.did)
        return promoted is not None

    def _nobody_serves(self) -> Sequence[NodeState]:
        """Return what each node says, if none is the primary or was promoted since, and no repmgrd may do it."""
        finder = self._finder()
        decision = finder.decision(self._host)
        newer = finder.last_known.timeline > self.found.timeline
        nobody = decision.reason.code in (ReasonCode.NOBODY, ReasonCode.UNHEARD)
        if not nobody or newer or not self.found.timeline:
            return ()
        asked = [state.node for state in decision.states if state.reachable and not state.witness]
        if not take_back.are_paused(asked, self._host, LIMIT):
            log.warning("repmgrd is not paused, and may promote a node: this is left to it")
            return ()
        return decision.states

    def _primary(self) -> int | None:
        return self._finder().decision(self._host).primary

    def _begins(self, limit: float) -> None:
        """If we are killed, nobody begins it anew before it has ended on its node."""
        until = clock.monotonic() + limit + MARGIN
        self.found = replace(self.found, repmgr=True, place="", until=until)
        try:
            record.keep(self._cluster, self.found)
        except OperationFailed as error:  # nobody is served by a record
            log.warning("%s", error)

    def _wait(self, true: Callable[[], bool], limit: float) -> bool:
        end = self._host.now() + limit
        while not (found := true()) and self._host.now() < end:
            self._host.sleep(POLL)
        return found


def promote(cluster: Cluster, found: Record, states: Sequence[NodeState], host: Host) -> int | None:
    """Have repmgr promote the node that was to be promoted, or one that has more WAL, and return which.

    It is a failover, which repmgrd has let pass while it was paused; so what repmgrd asks for is asked for here, too:
    that more than half of the nodes are seen, and of those the one with the most WAL (repmgrd-physical.c, do_election).
    Where repmgr may have begun to promote its node (``promoting``), that, and no other, is safe to promote.
    """
    others = [state for state in states if state.node != found.source]
    seen = [state for state in others if state.reachable]
    if _may_be_promoted_already(found, seen):
        return None
    if 2 * len(seen) <= len(others):
        log.warning("nobody is promoted: %d of %d nodes answer", len(seen), len(others))
        return None
    best = _best(found, seen)
    if best is None:
        return None
    if found.promoting and best.node != found.target:
        log.warning("nobody is promoted: node %d has more WAL than node %d", best.node, found.target)
        return None
    try:
        repmgr = _repmgr_of(cluster, found, best.node) or _found_out(cluster, found, best.node, host)
        directory, conf = quote(repmgr.directory), quote(repmgr.conf)
        script = PROMOTE.format(directory=directory, conf=conf, limit=PROMOTE_LIMIT)
        for line in _run(repmgr, script, host, PROMOTE_LIMIT + LIMIT).splitlines():
            log.info("repmgr: %s", one_line(line, 300))
        return best.node
    except OperationFailed as error:
        log.warning("%s", error)
        return None


def _may_be_promoted_already(found: Record, seen: Sequence[NodeState]) -> bool:
    """A standby on a newer timeline follows somebody who was promoted."""
    nodes = [state for state in seen if not state.witness and state.node != found.source]
    return any(not state.in_recovery or state.timeline > found.timeline for state in nodes)


def _best(found: Record, seen: Sequence[NodeState]) -> NodeState | None:
    """Of those with the most WAL the one that was to be promoted; None if that does not answer."""
    target = next((state for state in seen if state.node == found.target), None)
    if target is None:
        return None
    never = {row.node for row in target.registered if not row.electable}
    nodes = [state for state in seen if not state.witness and state.node not in never]
    return max(nodes, key=lambda state: state.lsn) if any(state.lsn > target.lsn for state in nodes) else target


def _repmgr_of(cluster: Cluster, found: Record, node: int) -> Repmgr | None:
    """Return repmgr of a node as the record has it; None if that cannot be run."""
    command = cluster.nodes[node].shell if node in cluster.nodes else ()
    places = {number: (directory, conf) for number, directory, conf in found.repmgrs}
    return Repmgr(command, *places[node]) if command and node in places else None


def _found_out(cluster: Cluster, found: Record, node: int, host: Host) -> Repmgr:
    """Return repmgr of a node that is not in the record. Raises OperationFailed."""
    what, limit = f"node {node} has more WAL than node {found.target}", cluster.postgres.timeout
    log.warning("%s: it is to be promoted", what)
    known = identities(node, host, limit).get(node)
    if known is None or not cluster.nodes[node].shell:
        raise OperationFailed(f"{what}, and it has no 'shell'", code="no_shell", hint="promote it by hand")
    return repmgr_of(node, cluster.nodes[node].shell, known, host, limit)


def start_old_primary(cluster: Cluster, found: Record, states: Sequence[NodeState], host: Host) -> bool:
    """Start the old primary, if that is safe, and return whether it was begun; how it goes is seen at the node."""
    target, source = found.target, found.source
    repmgr, old_repmgr = (_repmgr_of(cluster, found, node) for node in (target, source))
    if repmgr is None or old_repmgr is None:
        return False
    others = [state for state in states if state.node != source and not state.witness]
    silent = [state.node for state in others if not state.reachable]
    if silent not in ([], [target]) or _may_be_promoted_already(found, [state for state in others if state.reachable]):
        return False
    try:
        if not silent:
            ended = _started(old_repmgr, END.format(stop_limit=STOP_LIMIT), host)
            return ended or (not found.promoting and _started(old_repmgr, STOPPED, host))
        return not _promoted(repmgr, found.timeline, host) and _started(old_repmgr, STOPPED, host)
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
