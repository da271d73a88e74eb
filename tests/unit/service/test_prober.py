"""When a client is tried again, what counts as a failure that lasts, and what is written down of it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import pytest

from repmgr_hooks import clock, config
from repmgr_hooks.cluster.probe import Probe, ProbeCode
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import Observation
from repmgr_hooks.service.prober import PortResult, Prober, next_in, noted, told
from repmgr_hooks.service.turns import VisitRate
from repmgr_hooks.system.visit import Visit
from tests.fake import FakeHost

T = TypeVar("T")
MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]
GOOD = Probe("app", ProbeCode.WRITES, 1)
SILENT = Probe("app", ProbeCode.SILENT, None, message="no answer within 5 s")
FULL = Probe("app", ProbeCode.NO_CONNECTION_LEFT, None, message="too many connections")


def test_a_failure_goes_on_while_its_reason_changes() -> None:
    results: dict[str, PortResult] = {}
    for now, probe in enumerate([GOOD, SILENT, FULL, SILENT, GOOD, GOOD, FULL]):
        results = noted(results, [probe], float(now), 0.0)
        if now == 3:
            assert (results["port app"].since, results["port app"].times) == (1.0, 3)
    assert (results["port app"].since, results["port app"].times) == (6.0, 1)


@pytest.mark.parametrize(
    ("probe", "since", "interval", "seconds"),
    [
        (GOOD, 0.0, 30, 30.0),
        (GOOD, 0.0, 0, 3600.0),
        (SILENT, 95.0, 30, 1.0),
        (SILENT, 95.0, 0, 1.0),
        (SILENT, 10.0, 30, 5.0),
    ],
)
def test_when_it_is_tried_again(probe: Probe, since: float, interval: int, seconds: float) -> None:
    assert next_in({"port app": PortResult(probe, since, 1, 0.0)}, interval, 100.0) == seconds


def test_readers_that_come_to_another_standby_are_no_news() -> None:
    on_2, on_3 = (Probe("readers", ProbeCode.READS, node, reader=True) for node in (2, 3))
    away = Probe("readers", ProbeCode.READS_ON_PRIMARY, 1, message="it is the primary", reader=True)
    assert told(on_2) == told(on_3) != told(away)
    results = noted(noted({}, [on_2], 0.0, 0.0), [away], 5.0, 0.0)
    results = noted(results, [away], 9.0, 0.0)
    assert (results["port readers"].since, results["port readers"].times) == (5.0, 2)
    assert next_in(results, 30, 9.0) == 30.0, "nobody waits for an answer"


def written(journal: Journal) -> list[tuple[str, str, int | None]]:
    return [tuple(row) for row in journal.read("select port, code, node from probe order by id")]


def test_what_changes_is_written_down_and_nothing_else(journal: Journal) -> None:
    host = FakeHost()
    prober = Prober(MAIN, host, journal)
    assert prober.probe() == prober.probe() == 30.0
    assert written(journal) == [("port barman", "writes", 1), ("port app", "writes", 1)]
    assert prober.failing() == () or prober.failing() == []

    host.nodes[1].client = Visit("connect", 'FATAL:  too many connections for role "app"')
    assert prober.probe() == prober.probe() == 1.0
    assert written(journal)[2:] == [
        ("port barman", "no_connection_left", None),
        ("port app", "no_connection_left", None),
    ]
    assert [(item.probe.port, item.times) for item in prober.failing()] == [("barman", 2), ("app", 2)]

    host.fail_over()
    handle(MAIN, host, [])
    prober.probe()
    assert written(journal)[4:] == [("port barman", "writes", 2), ("port app", "writes", 2)]
    assert host.rests == 5, "it keeps no connection"


def test_while_somebody_works_on_the_cluster_nothing_is_tried(journal: Journal) -> None:
    host = FakeHost()
    host.nodes[1].client = Visit("connect", "FATAL:  the database system is shutting down")
    prober = Prober(MAIN, host, journal)
    prober.probe()
    prober.resting = True
    prober.probe()
    assert list(prober.failing()) == []


def test_who_writes_elsewhere_than_on_the_primary_is_not_served(journal: Journal) -> None:
    """A rule of others leads to a node that is out of recovery too."""
    prober = Prober(MAIN, FakeHost(), journal)
    prober.primary = 2
    assert prober.probe() == 1.0
    assert written(journal) == [("port barman", "elsewhere", 1), ("port app", "elsewhere", 1)]


class Counting(Journal):
    """A journal that counts how often it has waited for the disk."""

    changes = 0

    def change(self, do: Callable[[sqlite3.Connection], T]) -> T:
        self.changes += 1
        return super().change(do)


def test_what_is_new_of_all_ports_is_written_at_once(tmp_path: Path) -> None:
    """A hundred clusters of ten ports had the journal give up when the service began."""
    journal = Counting(tmp_path / "journal.db")
    Prober(MAIN, FakeHost(), journal).probe()
    assert len(written(journal)) == len(MAIN.opened_ports) == 2
    assert journal.changes == 1
    journal.close()


class Counted(FakeHost):
    """Notes through which ports clients come."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[list[str]] = []

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        self.came.append(list(dsns))
        return super().visit_each(dsns, limit)


def test_of_very_many_ports_each_is_visited_in_its_turn(journal: Journal) -> None:
    """960 ports every 30 s were 32 logins a second, two thirds of all that a quiet service did."""
    host = Counted()
    prober = Prober(MAIN, host, journal, everywhere=32.0)
    assert [prober.probe(everywhere=False) for _ in range(4)] == [120.0] * 4
    assert host.came == [["barman", "app"], ["barman"], ["app"], ["barman"]]
    assert len(prober.visits()) == 2, "what was not due is known from before"
    assert prober.period == 240.0

    prober.probe()
    assert host.came[-1] == ["barman", "app"], "after a run all are visited at once"
    host.nodes[1].client = Visit("connect", "FATAL:  the database system is shutting down")
    assert prober.probe(everywhere=False) == 1.0
    prober.probe(everywhere=False)
    assert host.came[-1] == ["barman", "app"], "while one fails, too"


def test_what_visits_a_thousand_closed_ports_waits_for_a_turn(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a boot 1,000 visits a second were due, which left little time to open them."""
    rate = VisitRate(40)
    monkeypatch.setattr("repmgr_hooks.service.prober.VISITS", rate)
    monkeypatch.setattr("repmgr_hooks.service.turns.LONGEST_BACKLOG", 600.0)
    for _ in range(5):
        rate.until_free(10_000, clock.monotonic())
    host = Counted()
    prober = Prober(MAIN, host, journal)
    prober.start()
    prober.join(0.5)
    assert prober.is_alive() and host.came == []
    prober.kick()
    end = clock.monotonic() + 30
    while not host.came and clock.monotonic() < end:
        prober.join(0.05)
    assert host.came == [["barman", "app"]], "what has happened is looked at at once"
    prober.stop()
    prober.join(30)
    assert not prober.is_alive() and len(host.came) == 1, "who is stopped waits no longer"


def test_few_ports_are_visited_every_interval(journal: Journal) -> None:
    host = Counted()
    prober = Prober(MAIN, host, journal, everywhere=120 / 30)
    assert [prober.probe(everywhere=False) for _ in range(2)] == [30.0, 30.0]
    assert host.came == [["barman", "app"]] * 2


@pytest.mark.parametrize(
    ("before", "remembered", "kicked"), [(None, True, False), (None, False, True), (99.0, True, True)]
)
def test_a_service_that_begins_visits_in_turn_unless_something_has_changed(
    journal: Journal, before: float | None, remembered: bool, kicked: bool
) -> None:
    prober = Prober(MAIN, FakeHost(), journal)
    prober.heard(Observation(100.0, before, 2, 3, "", "", ""), remembered)
    assert (prober._kicked.is_set(), prober.primary) == (kicked, 2)


def test_a_visit_before_it_was_known_where_clients_should_end_is_made_again(journal: Journal) -> None:
    """A cluster alone is visited and looked at at the same moment: whom a rule of others leads was seen 30 s later."""
    prober = Prober(MAIN, FakeHost(), journal)
    prober.probe()
    assert not prober.failing(), "nobody knows yet that node 2 is the primary"
    prober.heard(Observation(100.0, None, 2, 3, "", "", ""), remembered=True)
    assert prober._kicked.is_set()


@pytest.mark.parametrize("fails", [True, False])
def test_where_a_client_failed_before_the_service_began_it_is_tried_at_once(journal: Journal, fails: bool) -> None:
    """Of 140 clusters the first visit came after 60 s: the alert was told to be over, and then raised again."""
    host = Counted()
    if fails:
        host.nodes[1].client = Visit("connect", "FATAL:  the database system is shutting down")
    Prober(MAIN, host, journal).probe()
    host.came.clear()
    prober = Prober(MAIN, host, journal, first=600.0)
    prober.start()
    end = time.monotonic() + (60 if fails else 0.5)
    while not host.came and time.monotonic() < end:
        time.sleep(0.01)
    prober.stop()
    prober.join(60)
    assert bool(host.came) == fails
