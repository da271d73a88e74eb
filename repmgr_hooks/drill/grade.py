"""Grades a drill. Pure: nothing is asked here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from repmgr_hooks.checks.finding import Finding, Level
from repmgr_hooks.drill.facts import Facts, Leg, Step, Transaction, Way
from repmgr_hooks.errors import Problem

MOST_HELD = 30.0
"""Seconds: then common pools of connections give up a client (HikariCP's connectionTimeout, for one)."""
SLOWER, SLOWER_BY = 3.0, 1.0
"""A step is slow that took so many times its usual time, and so many seconds more."""
NAMED = 3


def grade(facts: Facts) -> list[Finding]:
    """Return the grades; the drill is passed without a FAIL."""
    return [*_grades(facts)]


def _grades(facts: Facts) -> Iterator[Finding]:
    for leg in facts.legs:
        yield from _leg(facts, leg)
    if facts.interrupted:
        yield _grade("FAIL", "interrupted", "it was interrupted, and not all was looked at")
    elif not all(leg.good for leg in facts.legs) or len(facts.legs) < 2:
        yield _grade("FAIL", "back", "it was not done there and back")
    for problem in facts.unsettled:
        yield _grade("FAIL", "settled", f"at the end: {problem.message}", problem.hint)
    yield _lost(facts)
    for way in facts.ways:
        yield _failed(way, [one for one in facts.transactions if one.way == way], facts.legs)
    if facts.wal:
        yield _wal(facts)
    yield from _sent(facts)
    yield from _steps(facts.steps)


def way_back(facts: Facts) -> str:
    """Return who is the primary now, and how to reverse that if it is another one than before."""
    if facts.primary is None:
        return "no node is known to be the primary: repmgr-hooks status"
    if facts.primary == facts.source:
        return f"node {facts.primary} is the primary"
    back = f"repmgr-hooks switchover --cluster {facts.cluster} --to {facts.source}"
    return f"node {facts.primary} is the primary now; to reverse this: {back}"


def _grade(level: Level, code: str, message: str, hint: str = "") -> Finding:
    return Finding(level, message, hint, f"drill.{code}")


def _leg(facts: Facts, leg: Leg) -> Iterator[Finding]:
    what = f"node {leg.target} takes the place of node {leg.source}"
    if leg.outcome is None:
        for problem in leg.against:
            yield _grade("FAIL", "switchover", f"{what}: not begun: {problem.message}", problem.hint)
        return
    if leg.good:
        yield _grade("OK", "switchover", f"{what}: done, and the ports lead there")
    else:
        problem = leg.why or Problem("served", "it has not come to its end")
        yield _grade("FAIL", "switchover", f"{what}: {problem}", problem.hint)
    if leg.held is not None:
        level: Level = "OK" if leg.held <= MOST_HELD else "FAIL"
        hint = "" if level == "OK" else f"repmgr-hooks history --cluster {facts.cluster} --failover last"
        yield _grade(level, "held", f"clients were held for {leg.held:.1f} s (limit {MOST_HELD:.0f} s)", hint)


def _lost(facts: Facts) -> Finding:
    if isinstance(facts.lost, Problem):
        what = f"whether acknowledged transactions are lost is not known: {facts.lost}"
        return _grade("FAIL", "lost", what, facts.lost.hint)
    count = sum(not one.error for one in facts.transactions)
    what = f"{len(facts.lost)} of {count} acknowledged transactions are lost (limit 0)"
    if facts.lost or not count:
        return _grade("FAIL", "lost", what, "do not switch over; find out where they were written" * bool(facts.lost))
    return _grade("OK", "lost", what)


def _failed(way: Way, tried: Sequence[Transaction], legs: Sequence[Leg]) -> Finding:
    """Through PgBouncer none may fail; without it, those may that were under way when the clients were held."""
    failed = [one for one in tried if one.error]
    wrong = [one for one in failed if way.pooled or not in_flight(one, legs)]
    longest = max((one.ended - one.began for one in tried if not one.error), default=0.0)
    limit = "limit 0" if way.pooled else "limit: those in flight when clients were held"
    what = f"{way.name}: {len(failed)} of {len(tried)} transactions failed ({limit}); longest {longest:.1f} s"
    if len(failed) == len(tried):
        why = f": {failed[0].error}" if failed else ""
        return _grade("FAIL", "failed", f"{way.name}: none of {len(tried)} transactions was acknowledged{why}")
    if wrong:
        return _grade("FAIL", "failed", f"{what}; {'; '.join(dict.fromkeys(one.error for one in wrong[:NAMED]))}")
    return _grade("OK", "failed", what)


def in_flight(one: Transaction, legs: Sequence[Leg]) -> bool:
    """True if a transaction had begun when all clients were held, and was not over."""
    return any(leg.closed is not None and one.began <= leg.closed <= one.ended for leg in legs)


def _wal(facts: Facts) -> Finding:
    assert facts.wal is not None
    if facts.wal.healthy:
        (*_, last) = facts.wal.lines(facts.cluster)
        return _grade("OK", "wal", f"Barman's WAL is whole: {last.removeprefix(f'{facts.cluster}: ')}")
    if facts.wal.whole and (lacking := facts.wal.report.no_backup):
        return _grade("WARN", "wal", f"Barman's WAL is whole, but {lacking}", lacking.hint)
    wrong = "; ".join(line.strip() for line in facts.wal.lines(facts.cluster) if line.strip())
    return _grade("FAIL", "wal", f"Barman's WAL: {wrong}", f"repmgr-hooks check-wal --deep --cluster {facts.cluster}")


def _sent(facts: Facts) -> Iterator[Finding]:
    """A planned switchover wakes nobody."""
    for alert in facts.sent:
        to = f", sent to {', '.join(alert.receivers)}" if alert.receivers else ", to no receiver"
        level: Level = "FAIL" if alert.severity == "critical" else "WARN"
        yield _grade(level, "alerts", f"{alert.severity} alert meanwhile: {alert.summary}{to}")
    if not facts.sent:
        yield _grade("OK", "alerts", "no alert meanwhile")


def _steps(steps: Sequence[Step]) -> Iterator[Finding]:
    for step in steps:
        if step.errors:
            yield _grade("WARN", "steps", f"{step.what}: failed at first: {step.errors[0]}")
        elif is_slow(step):
            yield _grade("WARN", "steps", f"{step.what}: {step.took:.1f} s, usually {step.usual:.1f} s")
    known = sum(step.usual is not None for step in steps)
    if not any(step.errors or is_slow(step) for step in steps):
        yield _grade("OK", "steps", f"{len(steps)} kinds of steps, none slow; {known} of them have a usual time")


def is_slow(step: Step) -> bool:
    """True if a step took far longer than it usually does."""
    return step.usual is not None and step.took > SLOWER * step.usual and step.took - step.usual > SLOWER_BY
