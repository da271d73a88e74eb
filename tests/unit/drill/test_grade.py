"""The grades of a drill, from what was seen in it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import pytest

from repmgr_hooks.barman.backup import Report
from repmgr_hooks.barman.deep import Proof
from repmgr_hooks.cluster.wal import Switchpoint, TimelineHistory
from repmgr_hooks.drill import page, report
from repmgr_hooks.drill.facts import Facts, Leg, Sent, Step, Transaction, Way, compared, missing
from repmgr_hooks.drill.grade import grade, in_flight, is_slow, way_back
from repmgr_hooks.errors import Problem
from repmgr_hooks.reports.wal_check import WalCheck
from repmgr_hooks.switchover.drive import Outcome
from repmgr_hooks.switchover.phases import PHASES, Ended

T = 1_800_000_000.0
HOLD = next(phase for phase in PHASES if phase.name == "hold")
PORT, POOLED = Way("port app", "dsn"), Way("PgBouncer 10.0.0.20:6432, database app", "dsn", pooled=True)


def leg(source: int, target: int, at: float, **changes: Any) -> Leg:
    outcome = Outcome(target, True, None, at, at + 3, (Ended(HOLD, at, 0.5),))
    return Leg(source, target, replace(outcome, **changes), 3.0)


def done(way: Way, at: float, error: str = "", took: float = 0.01) -> Transaction:
    return Transaction(way, T + at, T + at + took, 0 if error else int(100 + at), 0 if error else 1, 1000, error)


THERE, BACK = leg(1, 2, T + 10), leg(2, 1, T + 40)
GOOD = Facts(
    "main",
    T,
    T + 60,
    1,
    1,
    (THERE, BACK),
    (PORT, POOLED),
    (done(PORT, 1), done(PORT, 10, took=3.2), done(POOLED, 1), done(POOLED, 50)),
    wal=WalCheck(Report("main_backup", files=3), (Proof("deep", "3 files"),), 1, 3),
)


def wrong(facts: Facts) -> list[str]:
    return [each.code for each in grade(facts) if each.level == "FAIL"]


def test_a_good_drill_is_passed() -> None:
    assert {each.level for each in grade(GOOD)} == {"OK"}
    assert report.title(GOOD, grade(GOOD)) == "main: drill PASSED: node 1 is the primary"
    assert any("port app: 0 of 2 transactions failed" in each.message for each in grade(GOOD))
    assert any("longest 3.2 s" in each.message for each in grade(GOOD))


IN_FLIGHT = done(PORT, 10.2, "server closed the connection", took=1.0)
BROKEN = WalCheck(Report("main_backup", files=3), (Proof("deep", "", "error in WAL record at 0/3000060"),))
SAID = Problem("repmgr", "it is late", "wait")
FAILED = {
    "an acknowledged transaction is lost": (replace(GOOD, lost=GOOD.transactions[:1]), "drill.lost"),
    "it is not known whether any is": (replace(GOOD, lost=SAID), "drill.lost"),
    "nothing was written": (replace(GOOD, transactions=()), "drill.failed"),
    "one failed through PgBouncer": (
        replace(GOOD, transactions=(*GOOD.transactions, replace(IN_FLIGHT, way=POOLED))),
        "drill.failed",
    ),
    "one failed that came later": (
        replace(GOOD, transactions=(*GOOD.transactions, done(PORT, 10.6, "refused"))),
        "drill.failed",
    ),
    "one failed before": (replace(GOOD, transactions=(*GOOD.transactions, done(PORT, 5, "refused"))), "drill.failed"),
    "one way never worked": (
        replace(GOOD, transactions=(*GOOD.transactions[:2], done(POOLED, 1, "no such user"))),
        "drill.failed",
    ),
    "clients were held for too long": (replace(GOOD, legs=(THERE, replace(BACK, held=31.0))), "drill.held"),
    "the way back was hindered": (
        replace(GOOD, primary=2, legs=(THERE, Leg(2, 1, against=(SAID,)))),
        "drill.switchover",
    ),
    "the way there failed": (replace(GOOD, legs=(leg(1, 2, T, problem=SAID, primary=1),)), "drill.switchover"),
    "ports do not lead there": (replace(GOOD, legs=(THERE, leg(2, 1, T, served=False))), "drill.switchover"),
    "interrupted between the two": (replace(GOOD, primary=2, legs=(THERE,), interrupted=True), "drill.interrupted"),
    "interrupted at the very end": (replace(GOOD, interrupted=True), "drill.interrupted"),
    "it ended after the way there": (replace(GOOD, primary=2, legs=(THERE,)), "drill.back"),
    "the old primary is no standby": (replace(GOOD, unsettled=(SAID,)), "drill.settled"),
    "Barman's WAL is broken": (replace(GOOD, wal=BROKEN), "drill.wal"),
    "somebody was woken": (replace(GOOD, sent=(Sent("critical", "no primary", ("mail",)),)), "drill.alerts"),
}


@pytest.mark.parametrize(("facts", "code"), FAILED.values(), ids=FAILED)
def test_a_drill_fails_where(facts: Facts, code: str) -> None:
    assert code in wrong(facts)
    last = [*report.lines(facts, grade(facts))][-1]
    assert last.startswith(f"main: drill {'INTERRUPTED' if facts.interrupted else 'FAILED'}")


def test_without_a_backup_it_is_only_said() -> None:
    """A switchover does nothing about that."""
    lacking = Report("main_backup", files=3, no_backup=Problem("no_backup", "NO_BACKUP: none", "barman backup main"))
    found = grade(replace(GOOD, wal=WalCheck(lacking, (Proof("deep", "3 files"),), 1, 3)))
    (said,) = (each for each in found if each.code == "drill.wal")
    assert (said.level, said.message) == ("WARN", "Barman's WAL is whole, but NO_BACKUP: none")
    assert said.hint == "barman backup main"


def test_without_pgbouncer_what_was_in_flight_may_fail() -> None:
    assert wrong(replace(GOOD, transactions=(*GOOD.transactions, IN_FLIGHT))) == []
    assert in_flight(IN_FLIGHT, GOOD.legs)
    assert not in_flight(replace(IN_FLIGHT, began=T + 10.6), GOOD.legs), "all were held by then"
    assert not in_flight(IN_FLIGHT, (Leg(1, 2),))


def test_without_barman_its_wal_is_not_graded() -> None:
    assert {each.code for each in grade(GOOD)} - {each.code for each in grade(replace(GOOD, wal=None))} == {"drill.wal"}


@pytest.mark.parametrize(
    ("primary", "words"),
    [
        (1, "node 1 is the primary"),
        (2, "node 2 is the primary now; to reverse this: repmgr-hooks switchover --cluster main --to 1"),
        (None, "no node is known to be the primary: repmgr-hooks status"),
    ],
)
def test_the_way_back_is_named(primary: int | None, words: str) -> None:
    assert way_back(replace(GOOD, primary=primary)) == words


HISTORY = TimelineHistory(3, (Switchpoint(1, 1000), Switchpoint(2, 2000)))


@pytest.mark.parametrize(
    ("timeline", "lsn", "not_committed", "is_missing"),
    [
        (1, 1000, (), False),
        (1, 1001, (), True),
        (2, 1500, (), False),
        (2, 1500, (7,), True),
        (3, 99, (), False),
        (4, 99, (), True),
    ],
)
def test_an_acknowledged_transaction_is_missing(
    timeline: int, lsn: int, not_committed: tuple[int, ...], is_missing: bool
) -> None:
    """After its timeline was left the number may be another transaction's: that it is committed proves nothing."""
    one = Transaction(PORT, T, T, 7, timeline, lsn)
    assert missing([one], HISTORY, not_committed) == ((one,) if is_missing else ())


def test_a_phase_is_the_same_there_and_back() -> None:
    rows = [(f"switchover_{name}", str(node), "do it", T + at, 1.0, "") for at, node, name in PHASES_OF_BOTH]
    assert compared(rows, T) == (Step("switchover_hold", "", "do it", 1.0, 1.0),)


PHASES_OF_BOTH = [(-3, 1, "hold"), (-2, 2, "hold"), (-1, 1, "hold"), (1, 1, "hold"), (2, 2, "hold")]


def row(kind: str, at: float, seconds: float, error: str = "") -> tuple[str, str, str, float, float, str]:
    return kind, "app", f"{kind} it", T + at, seconds, error


def test_steps_are_compared_with_their_usual_time() -> None:
    rows = [
        *(row("open_port", -at, 0.1 * at) for at in (1, 2, 3)),
        row("open_port", -4, 90.0, "late"),
        row("slot", -1, 1),
    ]
    rows += [row("open_port", 1, 0.2), row("open_port", 2, 5.0), row("slot", 1, 9.0)]
    assert compared(rows, T) == (
        Step("open_port", "app", "open_port it", 5.0, pytest.approx(0.2)),
        Step("slot", "app", "slot it", 9.0, None),
    )


@pytest.mark.parametrize(
    ("took", "usual", "slow"), [(9.0, None, False), (0.9, 0.1, False), (3.0, 1.1, False), (3.5, 1.1, True)]
)
def test_a_slow_step(took: float, usual: float | None, slow: bool) -> None:
    step = Step("open_port", "app", "open it", took, usual)
    assert is_slow(step) is slow
    found = [each for each in grade(replace(GOOD, steps=(step,))) if each.code == "drill.steps"]
    assert [each.level for each in found] == ["WARN" if slow else "OK"]


def test_the_page_is_xml_and_repeats_nothing_as_markup() -> None:
    bad = replace(GOOD, sent=(Sent("warning", "<script>", ()),), steps=(Step("a", "b", "open <it>", 1.0, 0.1, ("&",)),))
    text = page.render(bad, grade(bad))
    said = "".join(ElementTree.fromstring(text.partition("\n")[2]).itertext())
    assert "main: drill PASSED" in said
    assert "<script>" in said
    assert "open <it>" in said
