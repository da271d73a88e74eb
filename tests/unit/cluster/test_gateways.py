"""What several gateways see of each other, and what follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.alerts.rules import of_gateways
from repmgr_hooks.cluster import gateways
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.event import Event
from repmgr_hooks.system.alert import Alert
from tests.fake import FakeHost
from tests.unit.engine.test_gateways import gateway, page
from tests.unit.engine.test_gateways import gateways as with_gateways

MAIN = with_gateways(config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"])
FIRST, SECOND = MAIN.cluster.gateway.hosts
ACTIVE, STANDBY = "repmgr_hooks gateway {} active", "repmgr_hooks gateway {} standby"
PROMOTED = Event(2, "standby_promote")


def host_of(own: str, has_address: bool, *others: tuple[str, float]) -> FakeHost:
    host = FakeHost()
    host.addresses = {own, *([host.gateway] if has_address else [])}
    host.other_gateways = list(others)
    return host


def said(host: FakeHost) -> list[str]:
    seen = gateways.look(MAIN.cluster, 1, host)
    return [problem.code for problem in gateways.problems(MAIN.cluster, seen)]


@pytest.mark.parametrize(
    ("has_address", "others", "expected"),
    [
        (True, [(STANDBY, 1.0)], []),
        (False, [(ACTIVE, 1.0)], []),
        (True, [(ACTIVE, 1.0)], ["address_twice"]),
        (False, [(STANDBY, 1.0)], ["address_nowhere"]),
        (True, [(STANDBY, 31.0)], ["gateway_silent"]),
        (True, [], ["gateway_silent"]),
        (False, [], ["address_nowhere", "gateway_silent"]),
        (True, [("repmgr_hooks gateway", 1.0), ("repmgr_hooks gateway x y z", 1.0)], ["gateway_silent"]),
    ],
)
def test_what_is_wrong(has_address: bool, others: Sequence[tuple[str, float]], expected: list[str]) -> None:
    host = host_of(FIRST, has_address, *((name.format(SECOND), age) for name, age in others))
    assert said(host) == expected


def test_a_host_that_is_none_of_them() -> None:
    assert said(host_of("10.0.0.99", False, (ACTIVE.format(FIRST), 1), (STANDBY.format(SECOND), 1))) == [
        "gateway_unnamed"
    ]


def test_one_gateway_asks_nobody() -> None:
    host = FakeHost()
    alone = replace(MAIN.cluster, gateway=replace(MAIN.cluster.gateway, hosts=()))
    assert gateways.look(alone, 1, host, announce=True) == ()
    assert host.announced == []


@pytest.mark.parametrize(("own", "acts"), [(FIRST, True), (SECOND, False)])
def test_of_two_that_have_the_address_the_first_works(own: str, acts: bool) -> None:
    """Each leads its ports, for clients come to both."""
    other = SECOND if own == FIRST else FIRST
    host = gateway(True)
    host.addresses = {own, host.gateway}
    host.other_gateways = [(ACTIVE.format(other), 2.0)]
    host.programs["/bin/page"] = lambda program: ""
    route = replace(MAIN.routes[0], do=(*MAIN.routes[0].do, page("/bin/page")))
    host.fail_over()
    handle(replace(MAIN, routes=(route,)), host, [PROMOTED])
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"
    assert host.connections == []
    assert ("create slot on 2" in host.what_changed()) is acts
    assert ("run /bin/page" in host.what_changed()) is acts


def test_an_alert_for_each() -> None:
    def alerts(host: FakeHost) -> list[Alert]:
        seen = gateways.look(MAIN.cluster, 1, host)
        return list(of_gateways(MAIN.cluster, list(gateways.problems(MAIN.cluster, seen))))

    (twice,) = alerts(host_of(FIRST, True, (ACTIVE.format(SECOND), 1)))
    assert (twice.condition, twice.severity) == ("gateways", "critical")
    assert twice.summary == "10.0.0.20 is on 10.0.0.21 and 10.0.0.22 at once"
    (silent,) = alerts(host_of(FIRST, True))
    assert (silent.severity, silent.summary) == ("warning", "the gateway 10.0.0.22 does not watch the cluster")
    assert alerts(host_of(FIRST, True, (STANDBY.format(SECOND), 1))) == []
