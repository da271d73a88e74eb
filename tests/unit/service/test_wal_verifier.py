"""When the records around a switchpoint are followed, and what becomes of the result."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.alerts.rules import conditions
from repmgr_hooks.barman.backup import Report
from repmgr_hooks.barman.deep import Proof
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.config import Config
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.wal_checks import WalCheckRow, keep, keep_backup, last_checks
from repmgr_hooks.reports.wal_check import WalCheck
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.wal_verifier import AGAIN, SETTLED, WalVerifier
from repmgr_hooks.settings.barman import Barman, OnGateway
from repmgr_hooks.system.answers import BUSY
from repmgr_hooks.system.steps import Program
from repmgr_hooks.text import MOST
from tests.fake import FakeHost
from tests.unit.service.test_monitor import ticks

LOADED = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml")
MAIN = LOADED.clusters["main"]
GOOD = WalCheckRow("all", 1.0, 1, 1, "", "", "the records of 9 files follow each other")
BAD = replace(GOOD, problem="error in WAL record at 0/5000028")
NO_BACKUP = WalCheckRow("no_backup", 1.0, 1, 1, "NO_BACKUP: Barman has no complete backup", "", "")
UNABLE = replace(GOOD, unable="there is no pg_waldump of PostgreSQL 15")


def checks_in(host: FakeHost) -> list[str]:
    """How the program was started."""
    return [" ".join(program.argv) for program in host.ran if "check-wal" in program.argv]


@pytest.mark.slow
def test_each_timeline_is_looked_at_once(loaded: Config, journal: Journal, host: FakeHost) -> None:
    queue = ClusterController(MAIN, journal, host, loaded)
    ticks(queue, host, 3)
    assert checks_in(host) == [], "those who wait for the failover come first"
    ticks(queue, host, 10)
    (started,) = checks_in(host)
    assert started == (
        f"nice -n 19 /usr/local/bin/repmgr-hooks --config {loaded.path} check-wal --deep --newest 1GB --within 15m "
        "--cluster main"
    )
    keep(journal, "main", replace(GOOD, part="newest"))
    ticks(queue, host, int(2 * AGAIN / loaded.service.monitor_interval))
    assert len(checks_in(host)) == 1

    host.fail_over()
    ticks(queue, host, 30)
    assert len(checks_in(host)) == 2


class Busy(FakeHost):
    """A host on which others of its kind run already."""

    busy = True

    def run(self, program: Program, limit: float) -> str:
        said = super().run(program, limit)
        if program.heavy and self.busy:
            raise OperationFailed("others of its kind run already", code=BUSY)
        return said


def test_while_others_are_at_it_each_look_tries_again(journal: Journal) -> None:
    host = Busy()
    verifier, decision = WalVerifier(MAIN, journal, host, LOADED), PrimaryDecision(1, 1, GOOD, ())  # type: ignore[arg-type]
    verifier.look(decision, True)
    host.sleep(SETTLED)
    for times in range(1, 4):
        verifier.look(decision, True)
        assert len(checks_in(host)) == times
    host.busy = False
    for _ in range(3):
        verifier.look(decision, True)
    assert len(checks_in(host)) == 4


def test_what_could_not_be_looked_at_is_tried_again(journal: Journal, host: FakeHost) -> None:
    verifier = WalVerifier(MAIN, journal, host, LOADED)
    decision = PrimaryDecision(1, 1, GOOD, ())  # type: ignore[arg-type]
    verifier.look(decision, True)
    for seconds, times in ((SETTLED, 1), (AGAIN - 1, 1), (1, 2)):
        host.sleep(seconds)
        verifier.look(decision, True)
        assert len(checks_in(host)) == times
        keep(journal, "main", UNABLE)
    host.sleep(AGAIN)
    verifier.look(decision, False)
    verifier.look(decision, True)
    assert len(checks_in(host)) == 2, "not while something is missing, nor right after"


def test_a_backup_that_is_lacking_is_asked_for_again(journal: Journal, host: FakeHost) -> None:
    keep(journal, "main", GOOD)
    keep_backup(journal, "main", NO_BACKUP)
    verifier, decision = WalVerifier(MAIN, journal, host, LOADED), PrimaryDecision(1, 1, GOOD, ())  # type: ignore[arg-type]
    verifier.look(decision, True)
    for seconds, times in ((SETTLED, 1), (AGAIN - 1, 1), (1, 2)):
        host.sleep(seconds)
        verifier.look(decision, True)
        assert len(checks_in(host)) == times
    assert checks_in(host)[-1].endswith(" check-wal --cluster main"), "the records were followed"
    keep_backup(journal, "main", None)
    host.sleep(AGAIN)
    verifier.look(decision, True)
    assert len(checks_in(host)) == 2


def test_it_can_be_switched_off_and_needs_barman(journal: Journal, host: FakeHost) -> None:
    assert MAIN.cluster.barman
    off = replace(MAIN.cluster.barman, check_after_failover=False)
    for barman in (off, None):
        verifier = WalVerifier(ManagedCluster(replace(MAIN.cluster, barman=barman), MAIN.routes), journal, host, LOADED)
        for _ in range(3):
            verifier.look(PrimaryDecision(1, 1, GOOD, ()), True)  # type: ignore[arg-type]
            host.sleep(SETTLED)
    assert checks_in(host) == []


class NoJournal:
    def read(self, *words: object) -> None:
        raise OperationFailed("the disk is gone")


@pytest.mark.parametrize(("gateways", "times"), [({}, 0), ({"10.0.0.22": OnGateway("second")}, 1)])
def test_a_gateway_without_the_address_looks_at_its_own_barman(
    journal: Journal, host: FakeHost, gateways: dict[str, OnGateway], times: int
) -> None:
    host.addresses = {"10.0.0.22"}
    gateway = replace(MAIN.cluster.gateway, hosts=("10.0.0.21", "10.0.0.22"))
    barman = Barman("main_backup", gateways=gateways).seen_from("10.0.0.22")
    managed = replace(MAIN, cluster=replace(MAIN.cluster, gateway=gateway, barman=barman))
    verifier = WalVerifier(managed, journal, host, LOADED)
    decision = PrimaryDecision(1, 1, GOOD, ())  # type: ignore[arg-type]
    verifier.look(decision, True)
    host.sleep(SETTLED)
    verifier.look(decision, True)
    assert len(checks_in(host)) == times


def test_what_was_shown_stays_known_without_a_journal(journal: Journal, host: FakeHost) -> None:
    keep(journal, "main", BAD)
    verifier = WalVerifier(MAIN, journal, host, LOADED)
    verifier.look(None, False)
    verifier._journal = NoJournal()  # type: ignore[assignment]
    verifier.look(None, False)
    assert verifier.found == (BAD,)


@pytest.mark.parametrize(
    ("shown", "left"),
    [
        ([GOOD], [GOOD]),
        ([BAD, UNABLE], [BAD]),
        ([BAD, replace(GOOD, part="newest")], [BAD, replace(GOOD, part="newest")]),
        ([replace(BAD, part="newest"), GOOD], [GOOD]),
        ([replace(BAD, part="newest"), UNABLE], [UNABLE, replace(BAD, part="newest")]),
        ([replace(BAD, part="newest"), replace(GOOD, part="newest")], [replace(GOOD, part="newest")]),
        ([BAD, replace(GOOD, at=2.0)], [replace(GOOD, at=2.0)]),
        ([GOOD, BAD], [BAD]),
    ],
)
def test_what_was_wrong_stays_until_as_much_was_looked_at(
    journal: Journal, shown: list[WalCheckRow], left: list[WalCheckRow]
) -> None:
    for row in shown:
        keep(journal, "main", row)
    keep(journal, "other", GOOD)
    assert last_checks(journal, "main") == left


NONE = Problem("no_backup", "NO_BACKUP: Barman has no complete backup", "barman backup x")
BEYOND = Problem("backup_beyond", "BACKUP_BEYOND: the newest backup ...", "barman backup x")


@pytest.mark.parametrize(
    ("reports", "left"),
    [
        ([Report("x", files=1, no_backup=NONE)], [("no_backup", NONE.message)]),
        ([Report("x", files=1, no_backup=NONE), Report("x", code="no_wal")], [("no_backup", NONE.message)]),
        ([Report("x", files=1, no_backup=NONE), Report("x", files=1)], []),
        ([Report("x", files=1, no_backup=NONE), Report("x", files=1, missing=("y",), no_backup=BEYOND)], [BEYOND[:2]]),
    ],
    ids=["none", "then unknown", "then one", "then another branch's"],
)
def test_what_is_wrong_with_the_newest_backup_is_kept_until_another_look(
    journal: Journal, reports: list[Report], left: list[tuple[str, str]]
) -> None:
    for at, report in enumerate(reports):
        WalCheck(report, (), 1, 1).keep(journal, "main", "all", float(at))
        WalCheck(report, (), 1, 1).keep(journal, "other", "all", float(at))
    keep(journal, "main", GOOD)
    assert [(row.part, row.problem) for row in last_checks(journal, "main") if row.of_backup] == left


def test_what_a_program_has_said_is_kept_short_and_printable() -> None:
    said = "error\n\x1b[2J" * 1000
    row = WalCheck(Report("x"), (Proof("deep", "followed", said),), 1, 1).row("all", 1.0)
    assert row
    assert len(row.problem) <= MOST
    assert row.problem.isprintable()
    assert WalCheck(Report("x"), (Proof("restore", "up to here"),), 1, 1).row("all", 1.0) is None


def test_only_what_is_wrong_is_an_alert(loaded: Config, host: FakeHost, journal: Journal) -> None:
    queue = ClusterController(MAIN, journal, host, loaded)
    ticks(queue, host, 2)
    decision = queue._monitor.decision
    assert decision
    assert conditions(MAIN, decision, (), None, 3, wal=[GOOD, UNABLE]) == []
    (alert,) = conditions(MAIN, decision, (), None, 3, wal=[GOOD, BAD])
    assert (alert.condition, alert.severity) == ("wal_check", "critical")
    assert alert.summary == "a restore from Barman would fail: error in WAL record at 0/5000028"
    assert alert.hint.endswith("repmgr-hooks check-wal --cluster main --deep")
    broken, lacking = conditions(MAIN, decision, (), None, 3, wal=[BAD, NO_BACKUP, replace(BAD, part="newest")])
    assert broken == replace(alert, details=f"{BAD.text} (all); {BAD.text} (newest)")
    assert (lacking.condition, lacking.severity, lacking.summary) == ("no_backup", "warning", NO_BACKUP.problem)
    assert lacking.hint == "barman backup main_backup; and then: repmgr-hooks check-wal --cluster main"
