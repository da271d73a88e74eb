"""When somebody is told of what: the cases, their headlines, and the conditions that raise them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks import config
from repmgr_hooks.alerts.incident import AGAIN, HEADLINE, RETRY, SETTLED, Delivery, Incident, happened, raised
from repmgr_hooks.alerts.rules import conditions, open_gate
from repmgr_hooks.barman import wal_continuity
from repmgr_hooks.barman.wal_continuity import FAULTS, StreamPosition, StreamState
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.reasons import Reason, ReasonCode
from repmgr_hooks.engine.run import place_of
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.journal.rows import Failed, Place, RunRow
from repmgr_hooks.system.alert import Alert

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]
STALE_PRIMARY = Alert("main", "stale_primary", "critical", "SPLIT-BRAIN: node 1", "all of it", "rejoin it")
PROMOTED = Alert("main", "standby_promote of node 2", "warning", "the primary is node 2", momentary=True)
HOUR = 3600.0


class Us:
    """One target, which takes everything that is due, in the order in which it is due."""

    def __init__(self) -> None:
        self.incidents: dict[str, Incident] = {}
        self.said: list[tuple[float, str]] = []

    def find(self, now: float, *found: Alert) -> None:
        self.incidents |= raised(self.incidents, {alert.condition: alert for alert in found}, now)
        for condition, incident in self.incidents.items():
            if incident.wait("us", HOUR, now) == 0:
                self.said.append((now, incident.headline))
                self.incidents[condition] = replace(incident, deliveries={"us": Delivery(incident.headline, now, now)})


def test_it_is_told_once_again_every_hour_and_when_it_is_over() -> None:
    us = Us()
    for now in range(100, 8000, 5):
        us.find(now, *([STALE_PRIMARY] if now < 7500 else []))
    open_, over = "CRITICAL main: SPLIT-BRAIN: node 1", "OVER main: SPLIT-BRAIN: node 1"
    assert us.said == [(100, open_), (3700, open_), (7300, open_), (7500 + SETTLED, over)]


def test_what_changes_is_told_after_a_minute() -> None:
    us, more = Us(), replace(STALE_PRIMARY, summary="SPLIT-BRAIN: node 1 and node 3")
    us.find(100, STALE_PRIMARY)
    us.find(105, more)
    us.find(159, more)
    us.find(160, more)
    us.find(220, replace(more, details="other details only"))
    assert [now for now, _ in us.said] == [100, 160]


def test_what_stays_away_for_a_moment_only_is_not_over() -> None:
    us = Us()
    for now, found in ((100, [STALE_PRIMARY]), (105, []), (110, [STALE_PRIMARY]), (115, []), (115 + SETTLED, [])):
        us.find(now, *found)
    assert [line.split()[0] for _, line in us.said] == ["CRITICAL", "OVER"]


@pytest.mark.parametrize("period", [10, 70, 130, 600, 1500])
def test_what_goes_to_and_fro_makes_no_storm(period: int) -> None:
    us = Us()
    for now in range(0, 6 * 3600, 5):
        us.find(now, *([STALE_PRIMARY] if now // period % 2 == 0 else []))
    # Once and over, and then once an hour.
    assert len(us.said) <= 2 + 2 + 6


def test_what_is_over_before_it_could_be_told_is_told_as_over() -> None:
    incident = Incident(STALE_PRIMARY, 100.0, 130.0, deliveries={"us": Delivery(tried=120.0, failures=3)})
    assert incident.wait("us", HOUR, 130.0) == SETTLED
    assert incident.wait("us", HOUR, 190.0) == 0
    assert incident.headline.startswith("OVER ")


@pytest.mark.parametrize(
    ("failures", "ended", "wait"), [(1, None, 5), (2, None, 10), (19, None, 300), (20, None, HOUR), (20, 500.0, None)]
)
def test_a_receiver_that_does_not_answer_is_tried_less_and_less_often(
    failures: int, ended: float | None, wait: float | None
) -> None:
    incident = Incident(STALE_PRIMARY, 500.0, ended, deliveries={"us": Delivery(tried=1000.0, failures=failures)})
    assert incident.wait("us", HOUR, 1000.0) == wait


def test_an_event_is_told_once_and_the_same_not_again_within_an_hour() -> None:
    incident = happened(None, PROMOTED, 100.0)
    assert incident
    assert (incident.state, incident.headline, incident.wait("us", HOUR, 100.0)) == (
        "event",
        "WARNING main: the primary is node 2",
        0,
    )
    sent = replace(incident, deliveries={"us": Delivery(incident.headline, 100.0, 100.0)})
    assert sent.wait("us", HOUR, 9999.0) is None
    assert happened(sent, PROMOTED, 100.0 + AGAIN - 1) is None
    assert happened(sent, PROMOTED, 100.0 + AGAIN) == Incident(PROMOTED, 100 + AGAIN, 100 + AGAIN)
    assert happened(sent, replace(PROMOTED, summary="another"), 101.0)
    failed = replace(incident, deliveries={"us": Delivery(failures=RETRY.max_attempts, tried=100.0)})
    assert failed.wait("us", HOUR, 101.0) is None


def test_a_clock_that_was_set_back_keeps_nothing_back() -> None:
    incident = Incident(
        STALE_PRIMARY, 1e9, None, deliveries={"us": Delivery("CRITICAL main: SPLIT-BRAIN: node 1", 1e9, 1e9)}
    )
    assert incident.wait("us", HOUR, 1000.0) == 0


@given(st.text(), st.text())
def test_a_headline_is_one_short_line(cluster: str, summary: str) -> None:
    line = Incident(Alert(cluster, "x", "critical", summary), 0.0).headline
    assert len(line) <= HEADLINE
    assert line.isprintable()


# -- which conditions --------------------------------------------------------------------------------------------------

KNOWN = PrimaryDecision(2, 2, Reason(ReasonCode.ONLY))
UNKNOWN = PrimaryDecision(None, 0, Reason(ReasonCode.NOBODY))
BARMAN, SWITCH_WAL, APP = (place_of(MAIN.routes[0].do[index]) for index in (2, 3, 4))


def run(*left: Place, message: str = "FAILED after 1.0 s", attempt: int = 1, code: str = "failed") -> RunRow:
    failed = tuple(Failed(place, "not_reached" if number else code) for number, place in enumerate(left))
    return RunRow(1, "main", "event", attempt, 0.0, 1.0, False, True, 2, 2, message, code, "", failed)


def found(
    decision: PrimaryDecision = KNOWN, warnings: tuple[Problem, ...] = (), failed: RunRow | None = None
) -> dict[str, Alert]:
    return {alert.condition: alert for alert in conditions(MAIN, decision, warnings, failed, 20)}


def test_nothing_is_wrong() -> None:
    assert found() == {}


def test_a_primary_is_unknown() -> None:
    alert = found(UNKNOWN)["primary"]
    assert (alert.severity, alert.hint) == (
        "critical",
        "promote one; see repmgr-hooks status --cluster main",
    )
    assert alert.summary.startswith("primary unknown: no node is out of recovery")


@pytest.mark.parametrize("why", [ReasonCode.STALE_PRIMARY, ReasonCode.BESIDE])
def test_a_stale_primary_comes_with_what_to_type(why: ReasonCode) -> None:
    alert = found(replace(KNOWN, notes=(Reason(ReasonCode.SILENT, (3,)), Reason(why, (1,), 2, 1))))["stale_primary"]
    assert alert.severity == "critical"
    assert alert.summary == str(Reason(why, (1,), 2, 1))
    assert (
        "on node 1: stop PostgreSQL, then as postgres: repmgr -f REPMGR_CONF node rejoin -d 'host=10.0.0.12 port=5432"
        in alert.hint
    )
    assert list(found(replace(UNKNOWN, notes=(Reason(why, (1,)),)))) == ["stale_primary", "primary"]


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        (run(BARMAN, SWITCH_WAL, APP), {"run": "warning"}),
        (run(BARMAN, SWITCH_WAL, APP, attempt=20), {"run": "critical"}),
        (run(SWITCH_WAL), {"gate": "critical"}),
        (run(BARMAN, SWITCH_WAL, attempt=20), {"gate": "critical", "run": "critical"}),
        (
            run(BARMAN, SWITCH_WAL, APP, code="stream_gap"),
            {"backup": "critical"},
        ),
        (run(SWITCH_WAL, code="archive_gap"), {"backup": "critical", "gate": "critical"}),
        (run(BARMAN, SWITCH_WAL, APP, message="FAILED: STREAM_GAP: Barman still lacks WAL; more"), {"run": "warning"}),
        (run(), {}),
    ],
)
def test_a_run_that_failed(failed: RunRow, expected: dict[str, str]) -> None:
    alerts = found(failed=failed)
    assert {name: alert.severity for name, alert in alerts.items()} == expected
    assert all(alert.hint.startswith("repmgr-hooks ") for alert in alerts.values())


def test_one_action_at_two_places_is_two_actions() -> None:
    """The second route asks for the same port; that the first was not reached opens no gate there."""
    route = MAIN.routes[0]
    again = tuple(replace(action, path=action.path.replace("[0]", "[1]", 1)) for action in route.do)
    twice = replace(MAIN, routes=(route, replace(route, do=again)))
    left = [Failed(place, "failed") for place in (BARMAN, SWITCH_WAL, APP)]
    assert open_gate(twice, left) is None
    assert open_gate(twice, [Failed(place_of(again[3]), "failed")]) is again[4]


def test_what_a_gate_says() -> None:
    """No word of the limit: Barman may have failed beside a port that was open all the time."""
    summary = found(failed=run(SWITCH_WAL))["gate"].summary
    assert summary == "firewall {open: app, fail_open_after: 120} is in effect although an earlier action failed"


def test_what_a_handler_warns_of() -> None:
    given = (
        Problem("x", "slot barman holds more", "look"),
        Problem("x", "and another"),
        Problem("y", "something else"),
    )
    alerts = found(warnings=given)
    assert alerts["warning: y"].summary == "something else", "which was hidden by the first one"
    alert = alerts["warning: x"]
    assert (alert.severity, alert.summary, alert.details) == (
        "warning",
        "slot barman holds more",
        "slot barman holds more\nHINT: look\nand another",
    )


@pytest.mark.parametrize("position", [place for place in StreamPosition if place is not StreamPosition.OK])
def test_wherever_barmans_stream_stands_it_is_known_by_its_code(position: StreamPosition) -> None:
    assert MAIN.cluster.barman
    stream_state = StreamState(position, "0" * 24, missing=("000000010000000000000004",), directory="/x", node=2)
    error = wal_continuity.stream_gap(stream_state, MAIN.cluster.barman, [])
    assert FAULTS[error.code] == f"{position.name}: Barman {position.value}"


def test_so_is_a_gap_in_the_archive_and_nothing_else() -> None:
    assert MAIN.cluster.barman
    error = wal_continuity.archive_gap(("000000010000000000000004",), MAIN.cluster.barman)
    assert FAULTS[error.code] == "ARCHIVE_GAP: Barman lacks WAL that a restore needs"
    assert OperationFailed("barman cron: exit code 7: ARCHIVE_GAP: Barman lacks disks").code not in FAULTS
