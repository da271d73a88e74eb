"""Since when a client that cannot write is an alert: not in a failover, not once, not while a gate may be closed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.alerts.rules import conditions, overdue
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.obstacles import Hindrance, Obstacle
from repmgr_hooks.cluster.probe import Probe, ProbeCode
from repmgr_hooks.cluster.reasons import Reason, ReasonCode
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.settings.cluster import Readers

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]


@dataclass
class Unserved:
    probe: Probe
    since: float
    times: int


def late(code: ProbeCode, since: float, times: int, known_since: float, now: float) -> bool:
    return bool(overdue(MAIN, [Unserved(Probe("app", code, message="x"), since, times)], known_since, now))


@pytest.mark.parametrize(
    ("code", "since", "times", "known_since", "now", "said"),
    [
        (ProbeCode.SILENT, 0, 2, 0, 15, True),
        (ProbeCode.SILENT, 0, 2, 0, 14, False),
        (ProbeCode.SILENT, 0, 1, 0, 1000, False),
        (ProbeCode.SILENT, 0, 99, 100, 110, False),  # a new primary, or the same after a restart
        (ProbeCode.SILENT, 0, 99, 100, 115, True),
        (ProbeCode.CLOSED, 0, 99, 0, 134, False),  # fail_open_after: 120
        (ProbeCode.CLOSED, 0, 99, 0, 135, True),
        (ProbeCode.NO_CONNECTION_LEFT, 10, 3, 0, 25, True),
    ],
)
def test_how_long_it_must_last(
    code: ProbeCode, since: float, times: int, known_since: float, now: float, said: bool
) -> None:
    assert late(code, since, times, known_since, now) is said


@pytest.mark.parametrize(
    ("code", "after", "severity"),
    [
        (ProbeCode.READS_ON_PRIMARY, 60, "warning"),
        (ProbeCode.CLOSED, 15, "critical"),
        (ProbeCode.SILENT, 15, "critical"),
    ],
)
def test_readers_that_are_refused_or_on_the_primary(code: ProbeCode, after: int, severity: str) -> None:
    cluster = replace(MAIN.cluster, readers={"readers": Readers(1)})
    managed = ManagedCluster(cluster, MAIN.routes)
    seen = [Unserved(Probe("readers", code, 1, message="why", hint="what to do", reader=True), 0, 2)]
    assert overdue(managed, seen, 0, after - 1) == []
    decision = PrimaryDecision(1, 1, Reason(ReasonCode.ONLY))
    found = conditions(managed, decision, (), None, 20, overdue(managed, seen, 0, after))
    assert [(alert.condition, alert.severity, alert.hint) for alert in found] == [("readers", severity, "what to do")]


def alerts(managed: ManagedCluster, primary: int | None) -> list[tuple[str, str, str]]:
    decision = PrimaryDecision(primary, 1, Reason(ReasonCode.ONLY if primary else ReasonCode.NOBODY))
    probes = [Probe(port, ProbeCode.SILENT, message="no answer", hint="look") for port in ("barman", "app")]
    found = conditions(managed, decision, (), None, 20, probes)
    return [(alert.condition, alert.severity, alert.hint) for alert in found]


def test_one_alert_for_all_ports_and_none_beside_that_of_an_unknown_primary() -> None:
    assert alerts(MAIN, 1) == [("client", "critical", "look")]
    assert [condition for condition, *_ in alerts(MAIN, None)] == ["primary"]


@pytest.mark.parametrize(("nobody", "severity"), [(True, "critical"), (False, "warning")])
def test_what_stands_against_a_failover_is_one_alert_with_what_to_do(nobody: bool, severity: str) -> None:
    decision = PrimaryDecision(1, 1, Reason(ReasonCode.ONLY))
    obstacles = [Obstacle(kind, (2,), nobody) for kind in (Hindrance.PAUSED, Hindrance.SILENT)]
    (alert,) = conditions(MAIN, decision, (), None, 20, obstacles=obstacles)
    assert (alert.condition, alert.severity, alert.hint) == ("failover", severity, obstacles[0].hint)
    assert [item.problem.code for item in obstacles] == ["paused", "silent"]
    assert alert.details.splitlines()[1::2] == [f"HINT: {item.hint}" for item in obstacles]
