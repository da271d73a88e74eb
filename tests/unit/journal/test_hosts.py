"""Events that database hosts hand over: each is taken once, and is as old as it was there."""

from __future__ import annotations

import pytest

from repmgr_hooks import clock
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.event import Event, Origin, Report
from repmgr_hooks.journal import hosts
from repmgr_hooks.journal.journal import Journal

PROMOTED = Event(2, "standby_promote")


def handed_over(number: int, ahead: float = 0.0, host: str = "db2") -> Report:
    return Report("main", PROMOTED, Origin(host, f"{number * 10**9:020d}-7", ahead))


def test_an_event_that_is_handed_over_twice_is_one(journal: Journal) -> None:
    """A gateway that takes an event and dies before it can say so gets it again, with another file."""
    journal.add_events([(handed_over(100), 101.0, "01-1"), (handed_over(100), 101.5, "02-1")])
    journal.add_events([(handed_over(100), 102.0, "03-1")])
    journal.add_events([(handed_over(100, host="db3"), 102.0, "04-1"), (handed_over(101), 103.0, "05-1")])
    assert len(journal.waiting("main")) == 3


def test_an_event_that_was_handed_over_is_as_old_as_it_is_there(journal: Journal) -> None:
    journal.add_events([(handed_over(100, ahead=-20.0), 500.0, "01-1")])
    assert journal.last_event("main") == (120.0, PROMOTED)
    journal.add_events([(handed_over(900), 501.0, "02-1")])
    assert journal.last_event("main") == (501.0, PROMOTED), "never later than now"


def test_a_promotion_that_is_handed_over_late_is_no_claim_of_today(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "wall", lambda: 1000.0)
    journal.remember("main", LastKnownPrimary(3, 7, "1"))
    journal.add_events([(handed_over(900), 1001.0, "01-1")])
    assert journal.last_known("main").promoted == frozenset()
    journal.add_events([(handed_over(1002), 1003.0, "02-1")])
    assert journal.last_known("main").promoted == {2}


def test_hosts_and_their_clocks(journal: Journal) -> None:
    journal.add_events([(handed_over(100, 50.0), 101.0, "01-1"), (handed_over(102, -90.0, "db3"), 103.0, "02-1")])
    run = journal.begin_run("main", "event", 1, [item.id for item in journal.waiting("main")])
    assert [found.host for found in hosts.origins(journal, run).values()] == ["db2", "db3"]
    assert hosts.origins(journal, run)[1] == Origin("db2", "00000000100000000000-7", 50.0)
    heard = hosts.last_heard(journal, "main")
    assert [(row.host, row.ahead) for row in heard] == [("db2", 50.0), ("db3", -90.0)]
    assert [str(problem) for problem in hosts.clocks_off(heard)] == [
        "the clock of db2 is 50 s ahead of this host's",
        "the clock of db3 is 90 s behind this host's",
    ]
    journal.add_events([(handed_over(200), 200.0, "03-1"), (handed_over(201, host="db3"), 201.0, "04-1")])
    assert list(hosts.clocks_off(hosts.last_heard(journal, "main"))) == []
