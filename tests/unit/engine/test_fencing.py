"""While no primary is known: who is led away from a node that does not answer, and how soon."""

from __future__ import annotations

import pytest

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.drift import find_drift
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import firewall
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Readers
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost, FakeNode

READ, APP = 54323, 54322
MAIN = Cluster(
    nodes={1: Node("10.0.0.11"), 2: Node("10.0.0.12"), 3: Node("10.0.0.13")},
    gateway=Gateway("10.0.0.20", {"app": APP, "readers": READ}),
    name="main",
    readers={"readers": Readers(64 * 1024 * 1024)},
)
PROMOTED = Event(2, "standby_promote")


def opens(port: str, to: str, place: int) -> Action:
    config = firewall.Config(port, to=to)  # type: ignore[arg-type]
    return Action("firewall", firewall, config, f"firewall {{open: {port}}}", f"[0].do[{place}]")


MANAGED = ManagedCluster(
    MAIN, (Route(frozenset({PROMOTED.name}), (opens("app", "primary", 0), opens("readers", "standbys", 1))),)
)


@pytest.fixture
def host() -> FakeHost:
    """Both ports lead where they should; then a rack is lost, with the primary and with a standby."""
    host = FakeHost()
    host.nodes[3] = FakeNode("10.0.0.13")
    for number in (2, 3):
        host.nodes[number].upstream = 1
    assert handle(MANAGED, host, []).ok
    assert host.nat.spread("10.0.0.20", READ) == [("10.0.0.12:5432", 2), ("10.0.0.13:5432", 1)]
    for number in (1, 3):
        host.nodes[number].reachable = False
        host.nodes[number].upstream = None
    host.nodes[2].upstream = None
    host.changes.clear()
    return host


@pytest.mark.parametrize("events", [[PROMOTED], []], ids=str)
def test_readers_are_led_away_from_a_silent_node_before_a_primary_is_waited_for(
    host: FakeHost, events: list[Event]
) -> None:
    lost = host.now()
    run = handle(MANAGED, host, events)
    assert run.decision and run.decision.primary is None
    assert [step.what for done in run.done for step in done.steps] == [
        "take nodes that do not answer out of port readers"
    ]
    assert host.changes[0][0] - lost < 5
    assert host.nat.spread("10.0.0.20", READ) == [("10.0.0.12:5432", 1)]
    assert host.leads_to(APP) == "10.0.0.11:5432"


def test_the_promotion_that_is_waited_for_then_leads_both_ports(host: FakeHost) -> None:
    host.at(host.now() + 7, lambda: host.promote(2))
    run = handle(MANAGED, host, [PROMOTED])
    assert run.ok
    assert host.leads_to(APP) == "10.0.0.12:5432"


def test_a_dry_run_changes_nothing(host: FakeHost) -> None:
    run = handle(MANAGED, host, [], dry_run=True)
    assert [len(done.steps) for done in run.done] == [1]
    assert host.changes == []


def test_looks_read_no_rules_while_nobody_changes_one(host: FakeHost) -> None:
    """They come ten times a second."""
    known, fingerprints = LastKnownPrimary(1, 1), dict[str, object]()
    before = host.nat.chains["repmgr_dnat"]
    handle(MANAGED, host, [], last_known=known)
    read: list[Program] = []

    def save(program: Program) -> str:
        read.append(program)
        return host.nat.save()

    host.programs["iptables-save"] = save
    for _ in range(3):
        assert find_drift(MANAGED, host, known, fingerprints).pending == ()
    assert len(read) == 1
    host.nat.chains["repmgr_dnat"], host.nat.generation = before, host.nat.generation + 1
    assert len(find_drift(MANAGED, host, known, fingerprints).pending) == 1


def test_a_look_finds_it_missing_once(host: FakeHost) -> None:
    known = LastKnownPrimary(1, 1)
    assert len(find_drift(MANAGED, host, known, {}).pending) == 1
    handle(MANAGED, host, [], last_known=known)
    assert find_drift(MANAGED, host, known, {}).pending == ()
