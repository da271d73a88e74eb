"""Whether a switchover would work, judged from what was seen. Pure: nothing is asked here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.errors import Problem
from repmgr_hooks.journal.rows import Due
from repmgr_hooks.switchover.facts import Facts
from repmgr_hooks.switchover.on_node import NOEXEC, Ran

MOST_LAG = 16 * 2**20
"""Bytes: until the standby, and Barman, have received everything, a primary does not end (walsender.c)."""
UNPAUSE = "repmgr -f {conf} service unpause"


@dataclass(frozen=True)
class Judgement:
    """One thing that was looked at; ``level`` OK, WARN, or FAIL: then nothing is begun."""

    level: Literal["OK", "WARN", "FAIL"]
    code: str
    message: str
    hint: str = ""

    @property
    def problem(self) -> Problem:
        """The same as an error has it."""
        return Problem(self.code, self.message, self.hint)


def judge(facts: Facts, due: Due) -> Iterator[Judgement]:
    """Judge what can be known without repmgr's own rehearsal (``judge_rehearsal``)."""
    yield from _service(facts, due)
    primary = facts.decision.primary_state
    if primary is None:
        yield Judgement("FAIL", "switchover.primary", str(facts.decision), facts.decision.hint)
        return
    yield Judgement("OK", "switchover.primary", f"node {primary.node} is the primary: {facts.decision.reason}")
    yield _target(facts, primary)
    if facts.target and facts.target.node != primary.node:
        yield from _of_target(facts, primary, facts.target)
    limit = facts.cluster.flap_limit
    if facts.changes >= limit.changes:
        what = f"the primary has changed {facts.changes} times in {limit.window} s: the service would not follow"
        yield Judgement("FAIL", "switchover.flap_limit", what, f"wait {limit.window} s, or raise flap_limit")
    yield from _silent(facts, primary)
    yield from _repmgrd(facts)
    yield from (_of(problem) for problem in facts.pgbouncer.problems)
    if facts.cluster.barman:
        yield _barman(facts, primary)


def judge_rehearsal(facts: Facts) -> Judgement:
    """Judge how repmgr's own dry run ended."""
    said, code = facts.rehearsal, "switchover.repmgr"
    if isinstance(said, Ran) and said.code == 0:
        return Judgement("OK", code, "repmgr itself says that it would work ('standby switchover --dry-run')")
    if isinstance(said, Ran):
        return Judgement("FAIL", code, f"repmgr refuses: {said.why}", "; ".join(said.lines("HINT")))
    hint = "on that node: mount -o remount,exec /tmp" if NOEXEC in str(said) else "see nodes.N.shell in config.yaml"
    return Judgement("FAIL", code, f"repmgr cannot be run there: {said}", hint)


def _service(facts: Facts, due: Due) -> Iterator[Judgement]:
    name = facts.cluster.name
    if not facts.listens:
        yield Judgement(
            "FAIL", "switchover.service", "the service does not run", "systemctl enable --now repmgr-hooks.service"
        )
    if not facts.serves:
        what = f"another gateway has {facts.cluster.gateway.address}: its clients would not be held"
        yield Judgement("FAIL", "switchover.gateway", what, "run it on the gateway that 'repmgr-hooks status' names")
    if facts.running:
        what = f"another one, to node {facts.running.target}, is under way or was left (phase {facts.running.phase})"
        yield Judgement("FAIL", "switchover.running", what, "wait until 'repmgr-hooks status' shows none")
    if due.pause:
        yield Judgement("FAIL", "switchover.paused", "the service is paused", f"repmgr-hooks resume --cluster {name}")
    if due.waiting:
        yield Judgement("FAIL", "switchover.pending", f"{len(due.waiting)} event(s) wait for a run", "try again")
    if due.last and due.last.ok is None:
        yield Judgement("FAIL", "switchover.pending", "a run has not ended", "try again")
    if due.last and due.last.ok is False:
        what = f"the last run failed: {due.last.message}"
        yield Judgement("FAIL", "switchover.failed", what, f"repmgr-hooks reconcile --cluster {name}")


def _target(facts: Facts, primary: NodeState) -> Judgement:
    code, wanted = "switchover.target", facts.wanted
    if facts.target:
        return Judgement("OK", code, f"node {facts.target.node} is to be promoted")
    if wanted is None:
        standbys = ", ".join(str(state.node) for state in facts.candidates)
        hint = "name one: --to NODE" if standbys else "start a standby"
        return Judgement("FAIL", code, f"which node to promote is not clear: {standbys or 'no standby answers'}", hint)
    if wanted == primary.node:
        return Judgement("FAIL", code, f"node {wanted} is the primary already", "name a standby")
    state = next((state for state in facts.decision.states if state.node == wanted), None)
    return Judgement("FAIL", code, f"node {wanted} is no standby: {state or 'it is not configured'}", "name a standby")


def _of_target(facts: Facts, primary: NodeState, target: NodeState) -> Iterator[Judgement]:
    node, receiver = target.node, target.receiver
    if receiver is None or not receiver.streaming or receiver.upstream != primary.node:
        what = f"node {node} does not stream from node {primary.node}"
        yield Judgement("FAIL", "switchover.stream", what, f"see PostgreSQL's log on node {node}")
    lag = primary.lsn - target.lsn
    what = f"node {node} lacks {max(lag, 0)} bytes of WAL"
    if lag > MOST_LAG:
        yield Judgement("FAIL", "switchover.lag", what, "wait until it has caught up")
    else:
        yield Judgement("OK", "switchover.lag", what)
    if not facts.cluster.nodes[node].shell:
        hint = f"nodes: {{{node}: {{host: ..., shell: [ssh, -o, BatchMode=yes, postgres@...]}}}} in config.yaml"
        yield Judgement("FAIL", "switchover.shell", f"node {node} has no 'shell', so repmgr cannot be run there", hint)


def _of(problem: Problem) -> Judgement:
    return Judgement("FAIL", "switchover.pgbouncer", problem.message, problem.hint or "repmgr-hooks check")


def _silent(facts: Facts, primary: NodeState) -> Iterator[Judgement]:
    """What we do not reach may be alive: repmgr pauses no repmgrd here, and one that runs on may promote its node."""
    others = {row.node for row in primary.registered if row.active} - {facts.wanted}
    for state in facts.decision.states:
        if not state.reachable and not state.witness and state.node in others:
            what = f"node {state.node} does not answer: its repmgrd cannot be paused, and could promote it meanwhile"
            hint = "make it reachable, or unregister it"
            yield Judgement("FAIL", "switchover.silent", what, hint)


def _repmgrd(facts: Facts) -> Iterator[Judgement]:
    for node, paused in facts.paused.items():
        if isinstance(paused, str):
            yield Judgement("WARN", "switchover.repmgrd", f"whether repmgrd of node {node} is paused: {paused}")
        elif paused:
            what = f"repmgrd of node {node} is paused, and stays so afterwards"
            yield Judgement("WARN", "switchover.repmgrd", what, UNPAUSE.format(conf="/etc/repmgr.conf"))
    for obstacle in facts.readiness.obstacles if facts.readiness else ():
        if obstacle.nobody:
            yield Judgement("WARN", "switchover.failover", str(obstacle), obstacle.hint)


def _barman(facts: Facts, primary: NodeState) -> Judgement:
    barman, code = facts.cluster.barman, "switchover.barman"
    assert barman is not None
    if facts.barman_fails:
        return Judgement("FAIL", code, f"Barman cannot be asked: {facts.barman_fails}", "repmgr-hooks status")
    slot, sender = primary.slot(barman.slot_name), primary.sender(barman.slot_name)
    if slot is None or not slot.reserved:
        what = f"the slot {barman.slot_name!r} is not on node {primary.node}, or reserves no WAL"
        return Judgement("FAIL", code, what, f"repmgr-hooks reconcile --cluster {facts.cluster.name}")
    if sender is None or sender.state != "streaming":
        return Judgement("FAIL", code, f"Barman does not stream from node {primary.node}", "repmgr-hooks status")
    lag = primary.lsn - (sender.flushed or sender.written or primary.lsn)
    if lag > MOST_LAG + primary.segment_size:
        return Judgement("FAIL", code, f"Barman lacks {lag} bytes of WAL", "wait until it has caught up")
    return Judgement("OK", code, "Barman streams, and has all but what is being written")
