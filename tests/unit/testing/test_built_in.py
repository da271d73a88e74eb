"""Our own handlers pass the kit too, in the world of ``tests/fake.py``.

Not ``barman`` and ``pgbouncer``: they read what is remembered, from a file.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.observe import observe
from repmgr_hooks.handlers import command, failover_slots, firewall, notify, slot
from tests.fake import FakeHost

pytest_plugins = ["repmgr_hooks.testing.plugin"]


class Gateway(FakeHost):
    """A cluster that is as the handler is told that it is."""

    def enter(self, state: ClusterState) -> None:
        super().enter(state)
        for number, node in self.nodes.items():
            node.reachable = state.states[number].reachable
            node.in_recovery, node.timeline = number != state.primary, state.timeline
            node.slots.update({name: replace(slot, active=False) for name, slot in node.slots.items()})

    def confirmed(self, state: ClusterState) -> ClusterState:
        return replace(state, states={each.node: each for each in observe(state.cluster, self)})


class Routed(Gateway):
    def wrong(self) -> str:
        assert self.state
        leads = self.leads_to(self.app_port)
        return "" if leads == f"{self.state.primary_host}:5432" else f"the app port leads to {leads}"


class Reserved(Gateway):
    def wrong(self) -> str:
        assert self.state
        return "" if self.nodes[self.state.primary].slots["barman"].reserved else "the slot reserves nothing"


class Absent(Gateway):
    def wrong(self) -> str:
        left = [n for n, node in self.nodes.items() if node.in_recovery and node.reachable and node.slots]
        return f"nodes {left} have slots" if left else ""


class InSync(Gateway):
    """Each standby that answers streams from the primary."""

    def enter(self, state: ClusterState) -> None:
        super().enter(state)
        for number, node in self.nodes.items():
            node.upstream = state.primary if number != state.primary else None

    def wrong(self) -> str:
        standbys = [node for node in self.nodes.values() if node.in_recovery and node.reachable]
        return "" if all("dbname=" in node.primary_conninfo for node in standbys) else "a database is not named"


@pytest.mark.parametrize(
    ("handler", "options", "world"),
    [
        (firewall, {"open": "app"}, Routed),
        (slot, {"on": "primary"}, Reserved),
        (slot, {"on": "standbys", "state": "absent"}, Absent),
        (failover_slots, {}, InSync),
        (command, {"run": ["/bin/true"]}, Gateway),
        (notify, {}, Gateway),
    ],
    ids=["firewall", "slot", "no slot", "failover slots", "command", "notify"],
)
def test_built_in(handler_check: Any, handler: Any, options: dict[str, Any], world: type[Gateway]) -> None:
    handler_check(handler, options, world)
