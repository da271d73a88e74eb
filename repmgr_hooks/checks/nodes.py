"""The nodes, asked as the service will ask them: who answers, with which rights, slots and clock, and who is who."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from repmgr_hooks import clock
from repmgr_hooks.checks import node_settings
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.node_settings import EXAMINE, Examined, examined
from repmgr_hooks.checks.users import User
from repmgr_hooks.cluster import host_names, node_ports
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.failover_slots import NAME
from repmgr_hooks.cluster.login import address_in
from repmgr_hooks.cluster.observe import Registered
from repmgr_hooks.cluster.obstacles import Hindrance
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.cluster.readiness import NO_STANDBY, Readiness, ReadinessProbe
from repmgr_hooks.cluster.reasons import ReasonCode
from repmgr_hooks.cluster.repmgr_files import Identity, identities, program
from repmgr_hooks.cluster.wal import size
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Rows, Sql

MOST_SKEW = 2.0
MOST_UNUSED = 1024**3
"""Bytes of WAL that a slot may hold for a program that is away for a while."""

HINTS = {
    ReasonCode.UNCONFIGURED: "config.yaml: clusters.{cluster}.nodes: {{{node}: {{host: {host}}}}}",
    ReasonCode.UNREGISTERED: "on node {node}: {repmgr} -f {conf} standby register; or take it out of config.yaml",
    ReasonCode.METADATA: "on node {node}: {repmgr} -f {conf} primary register --force",
}


@dataclass(frozen=True)
class Looked:
    """All nodes of a cluster; between ``begun`` and ``ended``, by our own clock, they were asked for theirs.

    ``decision`` is None if no node could be asked who is who.
    """

    begun: float
    ended: float
    nodes: Mapping[int, Examined | OperationFailed]
    decision: PrimaryDecision | None = None
    readiness: Readiness | None = None
    known: Mapping[int, Identity] = field(default_factory=dict)
    """The nodes as repmgr knows them."""

    @property
    def answers(self) -> dict[int, Examined]:
        """The nodes that answered."""
        return {number: node for number, node in self.nodes.items() if isinstance(node, Examined)}

    @property
    def lacking(self) -> dict[int, tuple[str, ...]]:
        """What our role may not do, by node."""
        return {number: node.lacking for number, node in self.answers.items() if node.lacking}


def look(managed: ManagedCluster, host: Host, finder: PrimaryFinder) -> Looked:
    """Ask all nodes; who is who only if our role may know."""
    cluster = managed.cluster
    begun = clock.wall()
    answers = _ask(managed, host, EXAMINE, tuple(cluster.nodes), (list(managed.kept_slots),))
    looked = Looked(begun, clock.wall(), {number: examined(number, answer) for number, answer in answers.items()})
    if looked.lacking or not looked.answers:
        return looked
    decision = finder.decision(host)
    readiness = ReadinessProbe().look(decision, cluster, host, finder.last_known.since)
    known: Mapping[int, Identity] = {}
    if decision.primary is not None:
        with contextlib.suppress(OperationFailed):
            known = identities(decision.primary, host, cluster.postgres.timeout)
    return replace(looked, decision=decision, readiness=readiness, known=known)


def _ask(
    managed: ManagedCluster, host: Host, statement: str, nodes: tuple[int, ...], params: tuple[object, ...] = ()
) -> dict[int, Rows | OperationFailed]:
    limit = managed.cluster.postgres.timeout
    return host.fetch_each([Sql(node, statement, params) for node in nodes], limit)


def findings(managed: ManagedCluster, looked: Looked, user: User) -> Iterator[Finding]:
    """Say what is wrong with the nodes. One that is silent is said to be that, and nothing more."""
    for number, node in looked.nodes.items():
        where = f"{managed.cluster.name} node {number}"
        if isinstance(node, OperationFailed):
            yield _silent(Topic("nodes.answer", where), managed, number, node, user)
            continue
        yield Topic("nodes.answer", where).ok(f"answers {user.name} as {managed.cluster.postgres.user}")
        yield _clock(Topic("nodes.clock", where), node, looked)
        if not managed.cluster.nodes[number].witness:
            yield from node_settings.findings(where, node, managed.kept_slots, managed.cluster.barman)
    if looked.answers:
        yield from node_settings.differences(managed.cluster, looked.answers)
        yield _rights(managed, looked)
    if looked.decision:
        yield from _unused_slots(managed, looked.decision)
        yield from _moved(managed.cluster, looked.known)
        yield from _who(managed, looked, looked.decision)


def _moved(cluster: Cluster, known: Mapping[int, Identity]) -> Iterator[Finding]:
    for number, problem in node_ports.moved(cluster, known):
        yield Topic("nodes.port", f"{cluster.name} node {number}").warn(problem.message, problem.hint)


def _unused_slots(managed: ManagedCluster, decision: PrimaryDecision) -> Iterator[Finding]:
    """Name the slots that hold much WAL for nobody, and of which no route says what becomes of them: one that a route
    named before, or of a standby that is gone.
    """
    awaited = {f"repmgr_slot_{node}" for node in managed.cluster.nodes}
    for state in (state for state in decision.states if state.reachable and not state.witness):
        ours = {*managed.kept_slots, *(awaited if state.node == decision.primary else ())}
        for slot in state.slots:
            held = state.lsn - slot.restart_lsn if slot.restart_lsn and slot.reserved else 0
            unused = slot.active_pid is None and not slot.synced and slot.name not in ours
            if unused and held > MOST_UNUSED and NAME.fullmatch(slot.name):
                topic = Topic("nodes.unused_slots", f"{managed.cluster.name} node {state.node}")
                what = f"slot {slot.name} holds {size(held)} of WAL, no program uses it, and no route names it"
                drop = f"select pg_drop_replication_slot('{slot.name}');"
                yield topic.warn(what, f"if it is needed no more, there: {drop}")


def _silent(topic: Topic, managed: ManagedCluster, number: int, error: OperationFailed, user: User) -> Finding:
    settings, node = managed.cluster.postgres, managed.cluster.nodes[number]
    what = str(error).removeprefix(f"node {number}: ")
    if "pg_hba.conf" in what:
        address = address_in(what) or managed.cluster.gateway.address  # it need not be the gateway's own
        line = f"host {settings.dbname} {settings.user} {Family(address).exactly(address)} scram-sha-256"
        return topic.fail(what, f"in its pg_hba.conf, then reload: {line}")
    place, port = settings.passfile or f"{user.home}/.pgpass", managed.cluster.endpoint(number).port
    there = (node.name or node.host).replace(":", r"\:")  # as libpq reads it (libpq-pgpass)
    password = f"in {place}: {there}:{port}:*:{settings.user}:PASSWORD"
    if "password authentication failed" in what:
        expired = (
            f"if that is right, it may have expired; on the primary: alter role {settings.user} valid until 'infinity';"
        )
        return topic.fail(what, f"{password}; {expired}")
    if "password" in what:
        return topic.fail(what, password)
    if re.search("too many clients|remaining connection slots", what):
        way = "on its host: ps -fu postgres shows who has them; kill ends that of a line 'postgres: USER DATABASE'"
        return topic.fail(what, way)
    by_hand = f"sudo -u {user.name} psql '{managed.cluster.conninfos()[number]}'"
    if error.code == "rejected":
        return topic.fail(what, f"see it: {by_hand}; if it is about the password, {password}")
    return topic.fail(what, f"start PostgreSQL there; see it: {by_hand}")


def names(cluster: Cluster, host: Host) -> Iterator[Finding]:
    """Look whether the name of each node leads to its address."""
    for number, node in host_names.named(cluster):
        topic = Topic("nodes.name", f"{cluster.name} node {number}")
        try:
            problem = host_names.moved_to(number, node, host)
        except OperationFailed as error:
            yield topic.warn(
                f"{node.name} cannot be looked up: {error}", f"in DNS or /etc/hosts: {node.host} {node.name}"
            )
            continue
        if problem:
            yield topic.warn(problem.message, problem.hint)
        else:
            yield topic.ok(f"{node.name} leads to {node.host}")


def _clock(topic: Topic, node: Examined, looked: Looked) -> Finding:
    off = max(node.clock - looked.ended, 0) or min(node.clock - looked.begun, 0)
    if abs(off) > MOST_SKEW:
        side = "ahead of" if off > 0 else "behind"
        return topic.warn(f"its clock is {abs(off):.0f} s {side} ours", "on both hosts: timedatectl set-ntp true")
    return topic.ok("its clock agrees with ours")


def _rights(managed: ManagedCluster, looked: Looked) -> Finding:
    role, topic = managed.cluster.postgres.user, Topic("nodes.rights", managed.cluster.name)
    if looked.lacking:
        rights = dict.fromkeys(right for node in looked.lacking.values() for right in node)
        hint = f"on the primary: psql -v role={role} -f config/grants.sql {managed.cluster.postgres.dbname}"
        return topic.fail(f"{role} lacks {', '.join(rights)}", hint)
    return topic.ok(f"{role} has all privileges that the handlers need")


def _who(managed: ManagedCluster, looked: Looked, decision: PrimaryDecision) -> Iterator[Finding]:
    name, silent = managed.cluster.name, set(looked.nodes) - set(looked.answers)
    said = (*HINTS, ReasonCode.SILENT, ReasonCode.REJECTS)
    notes = [note for note in decision.notes if note.code not in said]
    topic = Topic("nodes.primary", name)
    if notes or (decision.primary is None and not silent):
        what = "; ".join(map(str, notes)) or str(decision)
        yield topic.fail(what, f"repmgr-hooks status --cluster {name}")
    elif decision.primary is not None:
        yield topic.ok(str(decision).removeprefix("the primary is "))
    yield _registered(managed, looked, decision)
    if looked.readiness:
        yield from _failover(Topic("nodes.failover", name), looked.readiness)


def _failover(topic: Topic, readiness: Readiness) -> Iterator[Finding]:
    for obstacle in readiness.obstacles:
        if obstacle.code is Hindrance.INACTIVE:
            continue  # said already, under nodes.registered
        yield (topic.fail if obstacle.nobody else topic.warn)(str(obstacle), obstacle.hint)
    if readiness == NO_STANDBY:
        return  # who does not answer, or is a stale primary, has been said already
    if readiness.unknown:
        yield topic.warn(str(readiness), "upgrade repmgr to 4.4 or newer, if these functions are what is missing")
    elif not readiness.obstacles:
        yield topic.ok(str(readiness))


def _active_again(row: Registered, managed: ManagedCluster, decision: PrimaryDecision, conf: str) -> str:
    """Return what makes a node active; ``primary register`` would make a stale primary a primary of its own."""
    assert decision.primary is not None
    state = next(state for state in decision.states if state.node == row.node)
    if state.is_primary:
        return f"on node {row.node}: {managed.cluster.rejoin(decision.primary, program())}"
    repmgr = f"on node {row.node}: {program()} -f {conf}"
    if state.witness:
        host, port = managed.cluster.endpoint(decision.primary)
        return f"{repmgr} witness register --force -h {host} -p {port}"
    return f"{repmgr} standby register --force"


def _registered(managed: ManagedCluster, looked: Looked, decision: PrimaryDecision) -> Finding:
    topic = Topic("nodes.registered", managed.cluster.name)
    for note in decision.notes:
        if note.code in HINTS:
            node = looked.known.get(note.nodes[0], Identity("", "ADDRESS"))
            port = "" if node.port in (None, managed.cluster.postgres.port) else f", port: {node.port}"
            where = {"host": f"{node.host}{port}", "conf": node.conf, "repmgr": program()}
            hint = HINTS[note.code].format(cluster=managed.cluster.name, node=note.nodes[0], **where)
            return topic.fail(str(note), hint)
    rows = decision.primary_state.registered if decision.primary_state else ()
    for row in rows:
        if not row.active and row.node in looked.answers:
            what = f"node {row.node} answers, and is marked inactive in repmgr.nodes"
            conf = looked.known.get(row.node, Identity("", "")).conf
            return topic.warn(what, _active_again(row, managed, decision, conf))
    return topic.ok("repmgr.nodes and the configuration name the same nodes")
