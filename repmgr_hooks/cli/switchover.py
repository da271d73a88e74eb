"""``switchover``: a planned change of the primary, during which clients wait instead of failing."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace

from repmgr_hooks.checks import clients, foreign_rules
from repmgr_hooks.checks.files import AS_ROOT
from repmgr_hooks.checks.finding import Finding, bad, lines
from repmgr_hooks.cli import act
from repmgr_hooks.cli.configured import choose, configured, world_of
from repmgr_hooks.cli.journals import journal_of
from repmgr_hooks.cli.logged import log, show_log_lines
from repmgr_hooks.cli.output import FAILED, OK
from repmgr_hooks.cluster.primary import cluster_state
from repmgr_hooks.config import Config
from repmgr_hooks.engine.hold import holdable
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, UsageError, hint_lines
from repmgr_hooks.journal.finder import primary_finder
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.lock import exclusive
from repmgr_hooks.log import Lines
from repmgr_hooks.reports import wal_check
from repmgr_hooks.reports.wal_check import WalCheck
from repmgr_hooks.switchover import drive, facts, journalled, preflight
from repmgr_hooks.switchover.drive import Outcome
from repmgr_hooks.switchover.facts import Facts
from repmgr_hooks.switchover.phases import PHASES, Phase, Plan, Work
from repmgr_hooks.switchover.preflight import Judgement
from repmgr_hooks.switchover.record import lock_name
from repmgr_hooks.system.host import LOGINS
from repmgr_hooks.system.steps import Host

LOCK_WAIT = 1.0
NO_WAY_BACK = "hold"
"""From this phase on only its own end ends it: half a switchover serves nobody."""
UNDISTURBED = (signal.SIGINT, signal.SIGTSTP, signal.SIGTTOU)


def do_switchover(arguments: argparse.Namespace) -> int:
    """Look whether it would work; then do it, or show what would be done."""
    log_lines = show_log_lines(sys.stdout, arguments.log)
    loaded = configured(arguments)
    managed = the_only(loaded, arguments.cluster)
    host = world_of(managed, LOGINS)
    with contextlib.ExitStack() as stack:
        journal = stack.enter_context(journal_of(loaded.state_dir))
        if not arguments.dry_run:
            stack.enter_context(alone(loaded, managed))
        seen, findings = examined(managed, arguments.to, journal, host)
        for line in lines(findings):
            log_lines.say(line)
        if bad(findings):
            return FAILED
        plan = planned(seen, journal, managed)
        if arguments.dry_run:
            for line in would_do(plan):
                log_lines.say(line)
            return OK
        outcome, _ = carry_out(loaded, plan, journal, host, log_lines)
        return OK if outcome.good(plan) else FAILED


def the_only(loaded: Config, name: str | None) -> ManagedCluster:
    """Return the cluster that is meant. Raises UsageError."""
    chosen = choose(loaded, name, None)
    if len(chosen) != 1:
        raise UsageError(f"{loaded.path} has several clusters", hint="name one: --cluster NAME")
    return chosen[0]


def alone(loaded: Config, managed: ManagedCluster) -> contextlib.AbstractContextManager[None]:
    """Lock out every other switchover of this cluster."""
    return exclusive(loaded.state_dir / lock_name(managed.cluster.name), LOCK_WAIT)


def carry_out(
    loaded: Config, plan: Plan, journal: Journal, host: Host, log_lines: Lines
) -> tuple[Outcome, float | None]:
    """Do it, and say how it ended; return that, and for how many seconds clients were held."""
    managed = plan.managed
    with undisturbed():
        work = Work(plan, host, lambda: primary_finder(managed.cluster, journal))
        outcome = drive.carry_out(work, begins)
        if not outcome.served:
            log.warning("the service has not led the ports; doing it now")
            act.carry_out(loaded, managed, [], "reconcile", journal, log_lines)
            outcome = replace(outcome, primary=work.primary(), served=work.is_led(work.primary()))
    return outcome, told(outcome, plan, journal, log_lines)


def examined(managed: ManagedCluster, wanted: int | None, journal: Journal, host: Host) -> tuple[Facts, list[Finding]]:
    """Look at all that matters, repmgr's own rehearsal last: it takes seconds."""
    seen, found = judged(managed, wanted, journal, host)
    if not bad(found):
        found += _kept_out(managed, seen, host)
    if not bad(found):
        seen = facts.rehearse(seen, host)
        found.append(_finding(preflight.judge_rehearsal(seen), managed))
    return seen, found


def _kept_out(managed: ManagedCluster, seen: Facts, host: Host) -> list[Finding]:
    """Return what `check` says would, or might, keep clients from the new primary."""
    assert seen.target is not None
    if not managed.opened_ports:
        return []  # others lead the clients
    cluster, target = managed.cluster, [seen.target.node]
    looks = (
        foreign_rules.look(cluster, host, seen.target.node),
        clients.ways_back(cluster, host, target),
        clients.logins(managed, host, target),
    )
    found = (finding for finding in itertools.chain(*looks) if finding.level != "OK")
    # Root has become the service's user by now.
    return [replace(each, hint="sudo repmgr-hooks check") if each.hint == AS_ROOT else each for each in found]


def judged(managed: ManagedCluster, wanted: int | None, journal: Journal, host: Host) -> tuple[Facts, list[Finding]]:
    """Look at all but repmgr's own rehearsal."""
    cluster = managed.cluster
    finder = primary_finder(cluster, journal)
    seen = facts.gather(cluster, managed.opened_ports, wanted, finder, host, holdable(managed, host))
    found = [_finding(item, managed) for item in preflight.judge(seen, journal.due(cluster.name))]
    if cluster.barman and seen.decision.primary is not None:
        found.append(_whole(wal_check.compared(cluster, host, journal), cluster.name))
    return seen, found


def _whole(found: WalCheck, cluster: str) -> Finding:
    """Judge whether Barman lacks WAL: a gap would keep the gate shut, and clients out, until ``fail_open_after``."""
    if found.healthy:
        return Finding("OK", "no WAL is missing in Barman", "", "switchover.wal", cluster)
    if found.report.whole and (lacking := found.report.no_backup):
        return Finding("WARN", str(lacking), lacking.hint, "switchover.wal", cluster)
    said, hint = "; ".join(found.lines(cluster)), f"repmgr-hooks check-wal --cluster {cluster}"
    return Finding("FAIL", f"Barman's WAL: {said}", hint, "switchover.wal", cluster)


def _finding(item: Judgement, managed: ManagedCluster) -> Finding:
    return Finding(item.level, item.message, item.hint, item.code, managed.cluster.name)


def planned(seen: Facts, journal: Journal, managed: ManagedCluster) -> Plan:
    """Return what is to be done, given that nothing stands against it."""
    assert seen.target is not None and seen.repmgr is not None
    state = cluster_state(seen.decision, primary_finder(managed.cluster, journal))
    running = tuple(node for node, paused in seen.paused.items() if paused is False)
    pgbouncers = seen.pgbouncer.pgbouncers
    return Plan(state, seen.target.node, seen.repmgr, seen.held, running, managed, pgbouncers, seen.old_repmgr)


def would_do(plan: Plan) -> Iterator[str]:
    """Say what would be done."""
    yield f"{plan.name}: node {plan.target} would take the place of node {plan.source}:"
    for phase in PHASES:
        yield f"  would {phase.what} (within {phase.limit:.0f} s)"
    ports = [f"port {' and '.join(plan.ports)}"] if plan.ports else []
    pools = [f"the clients of {' and '.join(plan.pgbouncers)}"] if plan.pgbouncers else []
    held = ", ".join([*ports, *pools]) or "NO CLIENT, for no port is led to the primary for clients alone"
    yield f"  held meanwhile: {held}; repmgrd paused on node {', '.join(map(str, plan.pause))}"


def begins(phase: Phase) -> None:
    """Say which phase begins; from one on, nobody interrupts it."""
    log.info("%s", phase.what)
    if phase.name == NO_WAY_BACK:
        for number in UNDISTURBED:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """A terminal that is gone ends nothing."""
    before = {number: signal.getsignal(number) for number in (*UNDISTURBED, signal.SIGHUP)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def told(outcome: Outcome, plan: Plan, journal: Journal, log_lines: Lines) -> float | None:
    """Say who serves now, write it down, and return for how many seconds clients were held."""
    seconds = None
    with contextlib.suppress(OperationFailed):
        seconds = journalled.held_for(outcome, plan, journal)
    said = f"{plan.name}: {sentence(outcome, seconds)}"
    try:
        journalled.write_down(journal, plan, outcome, seconds, said)
    except OperationFailed as error:
        log.error("%s", error)
    if outcome.problem:
        for line in (f"{plan.name}: FAILED: {outcome.problem}", *hint_lines(outcome.problem.hint)):
            log_lines.say(line)
    log_lines.say(said)
    return seconds


def sentence(outcome: Outcome, seconds: float | None) -> str:
    """Return who is the primary now, whether clients reach it, and for how long they were held."""
    who = "no node is known to be the primary" if outcome.primary is None else f"node {outcome.primary} is the primary"
    served = "and the ports lead there" if outcome.served else "and not every port leads there"
    return f"{who}, {served}" + ("" if seconds is None else f"; clients were held for {seconds:.1f} s")
