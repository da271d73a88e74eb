"""Ports that are held: new connections wait, and are let go on by the change that leads the port elsewhere."""

from __future__ import annotations

import dataclasses

import pytest

from repmgr_hooks.netfilter import backends
from repmgr_hooks.netfilter.our_rules import OurRules
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node

CLUSTER = Cluster(
    {1: Node("10.0.0.11"), 2: Node("10.0.0.12")}, Gateway("10.0.0.20", {"barman": 54321, "app": 54322}), name="main"
)
BACKENDS = ["iptables", "nftables"]


class Kernel:
    """What a back end would print after our changes."""

    def __init__(self, backend: str) -> None:
        gateway = dataclasses.replace(CLUSTER.gateway, backend=backend)  # type: ignore[arg-type]
        self.cluster = dataclasses.replace(CLUSTER, gateway=gateway)
        self.printed = ""

    @property
    def ours(self) -> OurRules:
        return backends.chosen(self.cluster).parse(self.printed, self.cluster)

    def lead(self, ports: list[str], node: int) -> str:
        return self._made(backends.lead(self.cluster, self.ours, ports, node, True))

    def hold(self, *ports: str) -> str:
        return self._made(backends.hold(self.cluster, self.ours, ports))

    def _made(self, change: str) -> str:
        if change:
            self.printed = backends.chosen(self.cluster).after(self.printed, change)
        return change

    @property
    def held(self) -> tuple[str, ...]:
        return backends.held(self.cluster, self.ours)

    @property
    def leads(self) -> dict[str, int | None]:
        return backends.leads_to(self.cluster, self.ours)

    def first(self, port: str) -> str:
        """Where the first rule for a port leads; empty: nowhere."""
        number = self.cluster.gateway.ports[port]
        to = next(rule.to for rule in self.ours.rules if rule.port == number)
        return to.host if to else ""


@pytest.fixture(params=BACKENDS)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    made = Kernel(request.param)
    made.lead(["barman", "app"], 1)
    return made


def test_the_rule_that_holds_stands_before_the_one_that_leads(kernel: Kernel) -> None:
    assert kernel.held == ()
    assert kernel.hold("app")
    assert (kernel.held, kernel.first("app"), kernel.first("barman")) == (("app",), "", "10.0.0.11")
    assert kernel.leads == {"barman": 1, "app": 1}
    assert kernel.hold("app") == "", "it is held"


def test_a_port_that_leads_to_the_same_node_stays_held(kernel: Kernel) -> None:
    kernel.hold("app")
    assert kernel.lead(["barman", "app"], 1) == "", "nothing is missing"
    assert kernel.held == ("app",)


def test_leading_another_port_to_the_new_node_keeps_it_held(kernel: Kernel) -> None:
    """The app port is opened last: until then its clients wait, and are not refused."""
    kernel.hold("app")
    assert kernel.lead(["barman"], 2)
    assert (kernel.held, kernel.leads) == (("app",), {"barman": 2, "app": None})
    assert kernel.lead(["barman", "app"], 2)
    assert (kernel.held, kernel.leads) == ((), {"barman": 2, "app": 2})


def test_release(kernel: Kernel) -> None:
    before = sorted(rule.form for rule in kernel.ours.rules)
    kernel.hold("app", "barman")
    assert set(kernel.held) == {"app", "barman"}
    assert kernel.hold()
    assert sorted(rule.form for rule in kernel.ours.rules) == before
    assert kernel.hold() == ""


def test_a_held_port_that_is_closed_stays_held(kernel: Kernel) -> None:
    kernel.hold("app")
    change = backends.close(kernel.cluster, kernel.ours, [54322])
    kernel._made(change)
    assert (kernel.held, kernel.leads["app"]) == (("app",), None)
