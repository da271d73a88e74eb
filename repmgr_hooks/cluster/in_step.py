"""Whether this gateway tracks each connection that a client has with a node through the gateways' shared address.

The node knows who is connected; this kernel knows what it would translate. What is missing here ends: at once on the
gateway that has the address, and on another one when the address comes. So neither asks the other for its table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from repmgr_hooks.errors import OperationFailed, Problem, answer_of
from repmgr_hooks.netfilter.conntrack import answers_to
from repmgr_hooks.netfilter.conntrackd import CONFIGURATION, fills_kernel, without_comments
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host, Program, Rows, Sql

NOT_IN_STEP = "not_in_step"
GIVE_ALL = "conntrackd -R; sleep 1; conntrackd -B"
"""The first takes in what the kernel has: what came from another conntrackd does not count as its own, and is given to
nobody (1.4.7 and 1.4.8)."""
LIMIT = 5.0
AGAIN = 1.0
"""Seconds until a connection that is missing is looked for once more: it may be on its way, or have ended."""
AT_WORK = 3.0
"""For so long it is looked whether one of those that are missing listens."""
MOST = 10000
ASK = """
select pg_has_role(current_user, 'pg_read_all_stats', 'usage'), host(inet_server_addr()),
       (select jsonb_agg(jsonb_build_array(client_port, state <> 'active' or backend_type = 'walsender'))
          from (select client_port, coalesce(state, 'active') as state, backend_type from pg_stat_activity
                 where client_addr = %s::inet and backend_start < clock_timestamp() - interval '2 s'
                   and application_name not like 'repmgr\\_hooks%%' limit %s) as session)
"""
"""Each port, and whether that session listens. One that is at work notices only at its end that its client has gone; by
then it is tracked no more; a walsender listens while it works (walsender.c, ProcessRepliesIfAny)."""

Session = tuple[str, int]
"""The node's address and the port that it knows its client by."""


@dataclass(frozen=True)
class Tracking:
    """The sessions of clients that the nodes have, and those that this gateway does not track.

    ``broken``: those of the latter that listen, or have listened while they were missing: they have a client.
    """

    sessions: frozenset[Session] = frozenset()
    missing: frozenset[Session] = frozenset()
    broken: frozenset[Session] = frozenset()

    def still(self, before: Tracking) -> Tracking:
        """Return the same, but of what is missing only what was missing before."""
        missing = self.missing & before.missing
        return replace(self, missing=missing, broken=(self.broken | before.broken) & missing)


def look(cluster: Cluster, nodes: Iterable[int], host: Host, also: str = "") -> Tracking:
    """Compare what these nodes and this kernel know; ``also``: entries beside the kernel's. Raises OperationFailed."""
    source = cluster.gateway.snat
    if not cluster.gateway.hosts or source == MASQUERADE:
        return Tracking()
    answers = host.fetch_each([Sql(node, ASK, (source, MOST)) for node in nodes], LIMIT)
    sessions = {session: listens for node, answer in answers.items() for session, listens in _sessions(node, answer)}
    if not sessions:
        return Tracking()
    listing = host.run(Program(Family(source).list_connections(cluster.gateway.address)), LIMIT)
    missing = sessions.keys() - set(answers_to(source, f"{listing}\n{also}"))
    return Tracking(frozenset(sessions), frozenset(missing), frozenset(filter(sessions.get, missing)))


def look_again(cluster: Cluster, nodes: Iterable[int], host: Host, within: float, also: str = "") -> Tracking:
    """Return what is still missing after so many seconds. Raises OperationFailed."""
    nodes, begun = tuple(nodes), host.now()
    seen = look(cluster, nodes, host, also)
    while seen.missing and host.now() - begun < (within if seen.broken else AT_WORK):
        host.sleep(AGAIN)
        seen = look(cluster, nodes, host, also).still(seen)
    return seen


def problem(cluster: Cluster, host: Host) -> Problem:
    """Return what it means that something is missing; the same words for one connection and for a hundred."""
    when = "now" if serves(cluster.gateway, host) else f"when {cluster.gateway.address} comes"
    what = f"connections that clients have with the nodes are not tracked by this gateway: they break {when}"
    return Problem(NOT_IN_STEP, what, f"sudo repmgr-hooks check says why; on the other gateway: {GIVE_ALL}")


def judged_by_kernel(cluster: Cluster, host: Host) -> bool:
    """True if the kernel has all that this gateway would need; conntrackd's own cache can be seen by root alone."""
    if not cluster.gateway.hosts:
        return False
    try:
        return serves(cluster.gateway, host) or fills_kernel(without_comments(host.read(CONFIGURATION)))
    except OperationFailed:
        return False


def _sessions(node: int, answer: Rows | OperationFailed) -> list[tuple[Session, bool]]:
    if isinstance(answer, OperationFailed):
        raise answer
    with answer_of(node):
        ((allowed, address, found),) = answer
        if allowed is not True:
            hint = "grants.sql has what a role needs that is not a superuser"
            raise OperationFailed(f"node {node}: the sessions of clients cannot be seen", code="no_rights", hint=hint)
        if not re.fullmatch(r"[0-9a-f.:]{2,45}", str(address)):
            raise ValueError(f"{address!r:.50} is not an address")
        return [((str(address), int(port)), listens is True) for port, listens in found or ()]
