"""Whether a failover could happen: what keeps repmgr from promoting a standby, found while the primary is well.

What is asked here is asked on its own, and only when nothing is missing: no look at the nodes waits for it, and a node
without these functions (repmgr 4.3 and older) stays a node that answers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.cluster import conf_files, repmgr_files
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.election import IDLE, election
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.obstacles import MAY_BE_MEANT, NO_CONF, WINS, Hindrance, Obstacle, named
from repmgr_hooks.cluster.repmgr_files import Identity
from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.repmgr_conf import RepmgrConf
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Rows, Sql
from repmgr_hooks.text import one_line

ASK = """
select extract(epoch from clock_timestamp() - pg_postmaster_start_time())::float8,
       repmgr.get_upstream_last_seen(), repmgr.repmgrd_is_paused(), coalesce(repmgr.get_repmgrd_pid(), 0) > 0,
       exists (select from pg_stat_activity where state = 'active' and query = 'CHECKPOINT')
"""
"""Not ``repmgrd_is_running()``: it looks for a process of the database's host, and stays true when repmgrd, which may
run elsewhere, has ended. ``repmgr standby switchover`` pauses repmgrd, and then sends a CHECKPOINT, which may take
minutes, before it stops the primary (repmgr-action-node.c, do_node_service)."""
SETTLED = 15.0
"""So many seconds has repmgrd after a start, a promotion or a switchover, to find its way again."""
AGAIN, AGAIN_IF_WRONG = 600.0, 60.0
"""A repmgr.conf that has not changed is read again after so many seconds, for what it includes may have changed."""


@dataclass(frozen=True)
class Repmgrd:
    """What a node knows of its repmgrd: for how long it has not seen its upstream; ``up_for``: the node itself.

    ``checkpoint``: somebody, such as a switchover, waits there for a checkpoint. ``known``: a repmgrd has told the node
    of itself, and not of its end. Times are in seconds; ``error``: why the node said nothing.
    """

    node: int
    up_for: float = 0.0
    unseen_for: float = 0.0
    paused: bool = False
    checkpoint: bool = False
    known: bool = False
    error: str = ""


@dataclass(frozen=True)
class Readiness:
    """Which standbys would be promoted, and what stands against it; ``unknown``: which could not be asked, and why."""

    candidates: tuple[int, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    unknown: Mapping[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        could = f"repmgr would promote {named(self.candidates, ' or ')}" if self.candidates else "NOT POSSIBLE"
        if self == NO_STANDBY:
            return f"{could}: no standby answers"
        if self.unknown and not self.candidates:
            could = "UNKNOWN"
        return "; ".join([could, *(f"node {node} cannot be asked: {why}" for node, why in self.unknown.items())])


NO_STANDBY = Readiness()
"""There is none that answers."""


@dataclass(frozen=True)
class Files:
    """What the files here say of the nodes: where each stands, and what is against a promotion."""

    places: Mapping[int, Path]
    against: Mapping[int, tuple[Hindrance, str]]


NO_FILES = Files({}, {})


class ReadinessProbe:
    """Asks, and remembers of the files what only changes with them."""

    def __init__(self) -> None:
        self._files, self._read_at = NO_FILES, -math.inf
        self._seen: conf_files.Marks = {}
        self.seen = NO_FILES
        """What the last look went by."""

    def look(self, decision: PrimaryDecision, cluster: Cluster, host: Host, since: float = 0.0) -> Readiness | None:
        """Return what stands against a failover now; None without a primary, or of a node that is alone by design.

        ``since``: when the primary was found, in seconds since the epoch.
        """
        standbys = [state for state in decision.states if state.reachable and state.role == "standby"]
        if decision.primary is None or len(decision.states) == 1:
            return None
        if not standbys:
            return NO_STANDBY
        asked = ask([state.node for state in standbys], cluster, host)
        settled = not 0 <= clock.wall() - since < SETTLED
        files = self.seen = self.files(decision.primary, cluster, host)
        found = judge(decision, standbys, asked, files, cluster.repmgrd_timeout, settled)
        if not found.obstacles:
            return found
        # The primary may have been started just now, or be about to be switched over.
        asked |= ask([decision.primary], cluster, host)
        return judge(decision, standbys, asked, files, cluster.repmgrd_timeout, settled)

    def files(self, primary: int, cluster: Cluster, host: Host) -> Files:
        """Look into the files again when one has changed; repmgr is a program to run for each."""
        found, now = conf_files.HERE.look(), host.now()
        if not found:
            return NO_FILES
        again = AGAIN_IF_WRONG if self._files.against else AGAIN
        if found == self._seen and now < self._read_at + again:
            return self._files
        try:
            known = repmgr_files.identities(primary, host, cluster.postgres.timeout)
        except OperationFailed:
            known = {}
        turn = again, now // again
        self._files = read_files(conf_files.examined(found, turn), cluster, known, host)
        self._seen, self._read_at = found, now
        return self._files


def read_files(confs: Iterable[RepmgrConf], cluster: Cluster, known: Mapping[int, Identity], host: Host) -> Files:
    """Judge the files of a cluster's nodes, with repmgr's help.

    Of several for one node, such as an old copy, it is not known which counts: there must be something against each.
    """
    places: dict[int, list[Path]] = {}
    against: dict[int, list[tuple[Hindrance, str] | None]] = {}
    for conf in confs:
        node = repmgr_files.node_of(conf, cluster.nodes, known)
        if node is not None:
            places.setdefault(node, []).append(conf.path)
            against.setdefault(node, []).append(_against(conf, host))
    return Files(
        {node: paths[0] for node, paths in places.items()},
        {node: wrong[0] for node, wrong in against.items() if wrong[0] and all(wrong)},
    )


def _against(conf: RepmgrConf, host: Host) -> tuple[Hindrance, str] | None:
    if wrong := repmgr_files.refusal(conf.path, host) or conf.wrong:
        return Hindrance.REFUSED, wrong
    code = promotes_nothing(conf)
    return (code, "") if code else None


def promotes_nothing(conf: RepmgrConf) -> Hindrance | None:
    """Return why a repmgrd with these settings promotes nothing (configdata.c: ``failover`` is manual by default)."""
    if conf.settings.get("failover", "manual") != "automatic":
        return Hindrance.MANUAL
    return None if conf.settings.get("promote_command") else Hindrance.NO_COMMAND


def ask(nodes: Sequence[int], cluster: Cluster, host: Host) -> dict[int, Repmgrd]:
    """Ask some nodes for their repmgrd."""
    answers = host.fetch_each([Sql(node, ASK) for node in nodes], cluster.postgres.timeout)
    return {node: _repmgrd(node, answers[node]) for node in nodes}


def _repmgrd(node: int, answer: Rows | OperationFailed) -> Repmgrd:
    try:
        if isinstance(answer, OperationFailed):
            raise answer
        with answer_of(node):
            ((up_for, unseen, paused, known, checkpoint),) = answer
            if type(up_for) is not float or not math.isfinite(up_for) or type(unseen) not in (int, type(None)):
                raise TypeError(one_line(repr(answer), 80) + " is not what was asked for")
            # -1, and null without shared_preload_libraries: never since the node was started.
            unseen_for = up_for if unseen is None or unseen < 0 else float(unseen)
            return Repmgrd(node, up_for, unseen_for, paused is True, checkpoint is True, known is True)
    except OperationFailed as error:
        return Repmgrd(node, error=one_line(str(error).removeprefix(f"node {node}: "), 200))


def judge(
    decision: PrimaryDecision,
    standbys: Sequence[NodeState],
    asked: Mapping[int, Repmgrd],
    files: Files,
    limit: float,
    settled: bool,
) -> Readiness:
    """Say which standbys would be promoted. Pure.

    ``settled``: the primary has been the primary for long; until then, while a node has just been started, and in a
    switchover, repmgrd is given time. The primary itself need not have been ``asked``.
    """
    primary = asked.get(decision.primary or 0)
    if primary and not primary.error:
        settled = settled and primary.up_for >= SETTLED and not primary.checkpoint
    hindered: dict[int, list[tuple[Hindrance, str]]] = {}
    for state in standbys:
        hindered[state.node] = list(_hindrances(state, decision, asked[state.node], files, limit, settled))
    free = [node for node, against in hindered.items() if not against]
    votes = _votes(decision, hindered, free, asked) if settled else {}
    unknown = {node: asked[node].error for node in free if asked[node].error}
    found: dict[tuple[Hindrance, str, str], list[int]] = {}
    for node, against in hindered.items():
        for code, detail in against:
            vote = votes.get(node, "") if code in IDLE else ""
            if vote or not free or code not in MAY_BE_MEANT:
                found.setdefault((code, detail, vote), []).append(node)
    obstacles = tuple(
        Obstacle(code, tuple(nodes), not free or vote == WINS, detail, files.places.get(nodes[0], NO_CONF), vote)
        for (code, detail, vote), nodes in found.items()
    )
    if WINS in votes.values():
        free = []
    return Readiness(tuple(node for node in free if node not in unknown), obstacles, unknown)


def _votes(
    decision: PrimaryDecision,
    hindered: Mapping[int, Sequence[tuple[Hindrance, str]]],
    free: Sequence[int],
    asked: Mapping[int, Repmgrd],
) -> dict[int, str]:
    """What the election makes of those that would promote nothing."""
    voting = election(decision)
    idle = [node for node, against in hindered.items() if asked[node].known and IDLE & {code for code, _ in against}]
    return {node: vote for node in idle if voting and (vote := voting.votes_for(node, free))}


def _hindrances(
    state: NodeState, decision: PrimaryDecision, repmgrd: Repmgrd, files: Files, limit: float, settled: bool
) -> Iterator[tuple[Hindrance, str]]:
    primary = decision.primary_state
    row = next((row for row in primary.registered if row.node == state.node), None) if primary else None
    if settled and (voting := election(decision)):
        yield from voting.against(state.node)
    if row and not row.electable:
        yield Hindrance.PRIORITY, ""
    if row and not row.active and settled:
        yield Hindrance.INACTIVE, ""
    if against := files.against.get(state.node):
        yield against
    if settled and not repmgrd.error and repmgrd.up_for >= SETTLED:
        if repmgrd.paused:
            yield Hindrance.PAUSED, ""
        if repmgrd.unseen_for >= limit:
            yield Hindrance.SILENT, ""
