"""``drill``: a switchover there and back, while a client writes; graded."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.checks.finding import Finding, bad, lines
from repmgr_hooks.cli import switchover
from repmgr_hooks.cli.configured import configured, world_of
from repmgr_hooks.cli.journals import journal_of
from repmgr_hooks.cli.logged import log, show_log_lines
from repmgr_hooks.cli.output import FAILED, OK, say, write_whole
from repmgr_hooks.config import Config
from repmgr_hooks.drill import client, look, page, report
from repmgr_hooks.drill.client import Client
from repmgr_hooks.drill.facts import Facts, Leg, Transaction
from repmgr_hooks.drill.grade import grade
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem, UsageError
from repmgr_hooks.journal.finder import primary_finder
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.log import Lines
from repmgr_hooks.switchover import facts as seen_before
from repmgr_hooks.switchover.phases import Plan
from repmgr_hooks.system.steps import Host

READY_LIMIT = 300.0
"""Seconds for the cluster to be as before: the old primary streams again, and so does Barman."""


def do_drill(arguments: argparse.Namespace) -> int:
    """Look whether it would work; then do it and grade it, or show what would be done."""
    log_lines = show_log_lines(sys.stdout, arguments.log)
    loaded = configured(arguments)
    managed = switchover.the_only(loaded, arguments.cluster)
    _writable(arguments.file)
    host = world_of(managed)
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(journal_of(loaded.state_dir))
        if not arguments.rehearse:
            stack.enter_context(switchover.alone(loaded, managed))
        seen, findings = switchover.examined(managed, arguments.to, journal, host)
        ways = client.ways(managed.cluster, seen.held, seen.pgbouncer.pgbouncers)
        findings += look.hinders(seen, ways, host)
        for line in lines(findings):
            log_lines.say(line)
        if bad(findings):
            return FAILED
        plan = switchover.planned(seen, journal, managed)
        if arguments.rehearse:
            for line in would_do(plan, [way.name for way in ways]):
                log_lines.say(line)
            return OK
        drill = Drill(loaded, managed, journal, host, log_lines, [Client(way) for way in ways])
        done = drill.carry_out(plan)
    grades = grade(done)
    say(report.lines(done, grades))
    if arguments.file:
        write_whole(arguments.file, page.render(done, grades))
    return FAILED if bad(grades) else OK


def would_do(plan: Plan, ways: Sequence[str]) -> Iterator[str]:
    """Say what would be done."""
    yield from switchover.would_do(plan)
    yield f"{plan.name}: then the same back: node {plan.source} would take the place of node {plan.target}"
    yield f"  meanwhile a client would write through {', '.join(ways)}; then Barman's newest WAL would be followed"


@dataclass
class Drill:
    """A drill that is under way; ``legs`` are the switchovers so far."""

    loaded: Config
    managed: ManagedCluster
    journal: Journal
    host: Host
    log_lines: Lines
    clients: Sequence[Client]
    begun: float = field(default_factory=clock.wall)
    legs: list[Leg] = field(default_factory=list)
    unsettled: tuple[Problem, ...] = ()
    interrupted: bool = False

    def carry_out(self, plan: Plan) -> Facts:
        """Go there and back, and see what was left. Between the two, an interruption ends it."""
        with switchover.undisturbed(), client.writing(self.clients):
            try:
                self._there_and_back(plan)
            except KeyboardInterrupt:
                self.interrupted = True
        return self._seen(plan.source)

    def _there_and_back(self, plan: Plan) -> None:
        self._switch(plan)
        if not self.legs[-1].good:
            return
        log.info("wait until node %d can take its place again", plan.source)
        hindrances = self._wait(plan.source)
        if isinstance(hindrances, Plan):
            self._switch(hindrances)
            self.unsettled = tuple(map(_problem, self._settled(plan.target)))
        else:
            self.legs.append(Leg(plan.target, plan.source, against=tuple(map(_problem, hindrances))))

    def _switch(self, plan: Plan) -> None:
        outcome, held = switchover.carry_out(self.loaded, plan, self.journal, self.host, self.log_lines)
        self.legs.append(Leg(plan.source, plan.target, outcome, held))
        self.interrupted = outcome.problem is not None and outcome.problem.code == "interrupted"

    def _wait(self, target: int) -> Plan | list[Finding]:
        """Wait until nothing hinders the way back; return it as a plan, or what hinders it still."""
        last: list[seen_before.Facts] = []

        def ready() -> list[Finding]:
            seen, findings = switchover.examined(self.managed, target, self.journal, self.host)
            last[:] = [seen]
            return findings

        hindrances = look.wait_until(ready, self.host, READY_LIMIT)
        return hindrances or switchover.planned(last[0], self.journal, self.managed)

    def _settled(self, target: int) -> list[Finding]:
        """Wait until the next switchover could begin; return what hinders it still."""
        log.info("wait until node %d is a standby again, and Barman streams", target)
        return look.wait_until(
            lambda: switchover.judged(self.managed, target, self.journal, self.host)[1], self.host, READY_LIMIT
        )

    def _seen(self, source: int) -> Facts:
        """Look at what was left; what cannot be looked at is a grade too."""
        name = self.managed.cluster.name
        did = tuple(one for each in self.clients for one in each.did)
        primary, lost = self._lost(did)
        ways, legs = tuple(each.way for each in self.clients), tuple(self.legs)
        made = Facts(name, self.begun, clock.wall(), source, primary, legs, ways, did, lost, self.unsettled)
        if self.interrupted:
            return replace(made, interrupted=True)
        log.info("follow Barman's newest WAL")
        try:
            return replace(
                made,
                wal=look.archived(self.managed.cluster, self.host, self.journal),
                sent=look.sent(self.journal, name, self.begun),
                steps=look.steps(self.journal, name, self.begun),
                ended=clock.wall(),
            )
        except OperationFailed as error:
            return replace(made, unsettled=(*made.unsettled, Problem.of(error)))

    def _lost(self, did: Sequence[Transaction]) -> tuple[int | None, tuple[Transaction, ...] | Problem]:
        """Return the primary, and the acknowledged transactions that it does not have, or why that is not known."""
        primary = None
        try:
            decision = primary_finder(self.managed.cluster, self.journal).decision(self.host)
            if (primary := decision.primary) is None:
                return None, decision.problem
            return primary, client.lost(did, primary, decision.timeline, self.host)
        except OperationFailed as error:
            return primary, Problem.of(error)


def _problem(finding: Finding) -> Problem:
    return Problem(finding.code, finding.message, finding.hint)


def _writable(file: Path | None) -> None:
    """Nobody does a drill again for a report that could not be written. Raises UsageError."""
    if file and not os.access(file.parent, os.W_OK | os.X_OK):
        raise UsageError(f"{file} cannot be written by the service's user", hint="name a file in /tmp, for one")
