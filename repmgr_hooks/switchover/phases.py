"""The phases of a switchover, in order, each with its limit.

Nobody but repmgr stops or promotes a node here, and nobody but the service's run leads a port.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NoReturn

from repmgr_hooks import clock
from repmgr_hooks.barman import archive, receive_wal
from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.engine import hold as holding
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.hook import wake
from repmgr_hooks.journal.holds import Hold
from repmgr_hooks.log import hint
from repmgr_hooks.switchover import record, take_back
from repmgr_hooks.switchover.on_node import PROMOTING, Ran, Repmgr, RepmgrState
from repmgr_hooks.switchover.record import MARGIN
from repmgr_hooks.system import held_ports, pgbouncer
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.steps import POLL, Host, Sql
from repmgr_hooks.text import one_line

log = logging.getLogger(__name__)

PATIENCE = "set statement_timeout = '{:.0f}s'"
"""Sessions of ours have a shorter limit, and a question is one statement: two in one, the server refuses."""
BACKUP_TIMEOUT = 60
ASK_EVERY, ASK_LIMIT = 2.0, 10.0
HOLD_LIMIT = 60.0
"""Seconds after which the service lets the clients go on, whatever has become of the switchover."""


@dataclass(frozen=True)
class Plan:
    """What is to be done: node ``target`` takes the place of ``state.primary``.

    ``ports`` and ``pgbouncers``: whose clients are held; ``pause``: the nodes whose repmgrd is to be paused meanwhile.
    """

    state: ClusterState
    target: int
    repmgr: Repmgr
    ports: tuple[str, ...]
    pause: tuple[int, ...]
    managed: ManagedCluster
    pgbouncers: dict[str, tuple[str, ...]]
    old_repmgr: Repmgr | None = None
    """repmgr of the primary so far, if its node has a ``shell``."""

    @property
    def source(self) -> int:
        """The primary so far."""
        return self.state.primary

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.state.cluster.name


class Work:
    """A switchover that is under way."""

    def __init__(self, plan: Plan, host: Host, finder: Callable[[], PrimaryFinder]) -> None:
        self.plan, self.host, self.finder = plan, host, finder
        repmgrs = {plan.target: plan.repmgr, plan.source: plan.old_repmgr}
        self.record = replace(
            record.begun(plan.source, plan.target, MARGIN),
            timeline=plan.state.timeline,
            repmgrs=tuple((node, each.directory, each.conf) for node, each in repmgrs.items() if each),
        )
        self.hold: Hold | None = None
        self.phases: list[Ended] = []
        self.waits = False
        """True while repmgr waits for a word to stop the primary."""

    def note(self, **changes: object) -> None:
        """Write down what is about to be done. Raises OperationFailed."""
        self.record = replace(self.record, **changes)  # type: ignore[arg-type]
        record.keep(self.plan.managed.cluster, self.record)

    def take(self, phase: Phase) -> None:
        """Do a phase, and note how it went. Raises OperationFailed."""
        started, begun, problem = clock.wall(), self.host.now(), None
        try:
            phase.do(self, phase.limit)
        except OperationFailed as error:
            problem = Problem.of(error)
            raise
        finally:
            self.phases.append(Ended(phase, started, self.host.now() - begun, problem))

    def primary(self) -> int | None:
        """Return which node is the primary now; None if that is not known."""
        decision = self.decision()
        return decision.primary if decision else None

    def decision(self) -> PrimaryDecision | None:
        """Return which node is the primary now, and what each node says; None if that cannot be looked at."""
        try:
            return self.finder().decision(self.host)
        except OperationFailed as error:
            log.warning("%s", error)
            return None

    def is_led(self, primary: int | None) -> bool:
        """True if each port leads to the primary and none is held; False if that cannot be seen."""
        cluster = self.plan.managed.cluster
        try:
            return primary is not None and held_ports.lead_to(cluster, self.plan.ports, primary, self.host)
        except OperationFailed as error:
            log.warning("%s", error)
            return False

    def wait(self, true: Callable[[], bool], limit: float) -> bool:
        """Wait until something is true, and return whether it is."""
        end = self.host.now() + limit
        while not (found := true()) and self.host.now() < end:
            self.host.sleep(POLL)
        return found


@dataclass(frozen=True)
class Phase:
    """A part of a switchover: ``what`` for people, ``do`` within ``limit`` seconds."""

    name: str
    what: str
    limit: float
    do: Callable[[Work, float], None]


@dataclass(frozen=True)
class Ended:
    """A phase that is over: when it began (seconds since the epoch), how long it took, what went wrong."""

    phase: Phase
    started: float
    seconds: float
    problem: Problem | None = None


def checkpoint(work: Work, limit: float) -> None:
    """What is written now is not to be written while clients wait. A role that may not leaves it to repmgr."""
    try:
        work.host.fetch(Sql(work.plan.source, PATIENCE.format(limit)), limit)
        work.host.fetch(Sql(work.plan.source, "checkpoint"), limit)
    except OperationFailed as error:
        log.warning("no checkpoint beforehand: %s; going on", error, extra=hint("grant pg_checkpoint to our role"))
    finally:
        work.host.close_idle()  # with its patience


def back_up(work: Work, limit: float) -> None:
    """Barman is to have nothing to catch up with while clients wait."""
    state = work.plan.state
    if state.cluster.barman:
        primary = archive.look_at_primary(state.primary, state.timeline, work.host)
        written = archive.look_for(primary.open_file, state.barman, work.host)
        apply(receive_wal.switch_wal(state, written, BACKUP_TIMEOUT), work.host)


def pause_repmgrd(work: Work, limit: float) -> None:
    """Wherever it runs: a repmgrd that sees the primary stop would promote a node of its own choice."""
    nodes = work.plan.pause
    work.note(paused=nodes)
    take_back.set_paused(nodes, True, work.host, limit)


def begin(work: Work, limit: float) -> None:
    """Its checks take seconds, in which nobody need wait: it is started before the clients are held."""
    ran = work.plan.repmgr.start(work.host, limit)
    if ran is not None:
        work.note(promoting=PROMOTING in ran.said)  # it was not to stop the primary without a word from us
        refused(ran)
    work.waits = True


def hold(work: Work, limit: float) -> None:
    """From now on clients wait: those of PgBouncer between two transactions, new ones at the port."""
    plan, state = work.plan, work.plan.state
    means = [*(["pgbouncer"] if plan.pgbouncers else []), *(["netfilter"] if plan.ports else [])]
    work.hold = holding.begin(
        plan.managed,
        plan.source,
        state.timeline,
        limit=HOLD_LIMIT,
        means=means,
        why=f"switchover to node {plan.target}",
        pgbouncers=plan.pgbouncers,
        ports=plan.ports,
    )
    for error in pgbouncer.pause(plan.pgbouncers, work.host, limit).values() if plan.pgbouncers else ():
        raise error
    held_ports.hold(plan.managed.cluster, plan.ports, work.host)
    holding.confirm(plan.managed, work.hold)


def switch(work: Work, limit: float) -> None:
    """Have repmgr do it. If we lose sight of it, what counts is what becomes of the cluster."""
    holding.confirm(work.plan.managed, work.hold)
    work.note(repmgr=True, place=work.plan.repmgr.place, promoting=True)
    wake(f"{work.plan.managed.cluster.state_dir}/spool")
    work.waits = False
    try:
        ran = work.plan.repmgr.go_on(work.host, limit)
    except OperationFailed as error:
        log.error("%s", error)
        if not _promoted(work, limit):
            raise
        return
    work.note(repmgr=False, promoting=PROMOTING in ran.said)
    for line in ran.said.splitlines():
        log.info("repmgr: %s", one_line(line, 300))
    if ran.code:
        refused(ran)


def _promoted(work: Work, limit: float) -> bool:
    """Wait, without a word from repmgr, until its node is the primary; False once it has ended without that."""
    ask_at = work.host.now()

    def known() -> bool:
        nonlocal ask_at
        if work.primary() == work.plan.target:
            return True
        if work.host.now() < ask_at:
            return False
        ask_at = work.host.now() + ASK_EVERY
        with contextlib.suppress(OperationFailed):
            if (state := work.plan.repmgr.look(work.host, ASK_LIMIT)) is not RepmgrState.AT_WORK:
                work.note(repmgr=False, promoting=state is not RepmgrState.UNPROMOTED)
        return not work.record.repmgr

    return work.wait(known, limit) and work.primary() == work.plan.target


def refused(ran: Ran) -> NoReturn:
    """Raises OperationFailed with what repmgr said."""
    raise OperationFailed(f"repmgr: {ran.why}", code="repmgr", hint="; ".join(ran.lines("HINT")))


def follow(work: Work, limit: float) -> None:
    """Wait until the service's run has led the ports to the new primary, which lets the clients go on."""
    if not work.wait(lambda: work.is_led(work.primary()), limit):
        what = f"the ports do not lead to the new primary after {limit:.0f} s"
        raise OperationFailed(what, code="not_led", hint="repmgr-hooks status")


PHASES = (
    Phase("checkpoint", "have the primary write a checkpoint, so that it stops quickly", 900, checkpoint),
    Phase("backup", "see all WAL so far on Barman's disk", BACKUP_TIMEOUT + 60, back_up),
    Phase("pause", "pause repmgrd", 10, pause_repmgrd),
    Phase("begin", "have repmgr check all again, until it is about to stop the primary", 60, begin),
    Phase("hold", "hold the clients", 15, hold),
    Phase("switch", "repmgr standby switchover", 240, switch),
    Phase("follow", "wait for the service to lead the ports", 180, follow),
)
