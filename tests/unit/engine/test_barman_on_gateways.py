"""Two gateways: a Barman on each, with a slot of its own, or one Barman on one of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import pytest

from repmgr_hooks.alerts.evaluator import AlertEvaluator
from repmgr_hooks.alerts.rules import conditions
from repmgr_hooks.checks.gateways import others
from repmgr_hooks.checks.nodes import _unused_slots
from repmgr_hooks.cluster import barmans, gateways
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder, cluster_state
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.drift import find_drift, warnings
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import place_of
from repmgr_hooks.errors import Problem
from repmgr_hooks.journal.heartbeat import Progress
from repmgr_hooks.journal.rows import Failed, RunRow
from repmgr_hooks.service.absence import Absence
from repmgr_hooks.service.gateway_watch import HELD_FOR, GatewayWatch
from repmgr_hooks.settings.barman import Barman, OnGateway
from repmgr_hooks.system.alert import Alert
from tests.fake import FakeHost, FakeSlot
from tests.unit.engine.test_gateways import HOSTS, MAIN, NODE_2, PROMOTED, gateway, ports

FIRST, SECOND = HOSTS
SLOTS = {FIRST: "barman_1", SECOND: "barman_2"}
BARMAN = Barman("main_backup", gateways={host: OnGateway(slot) for host, slot in SLOTS.items()})


def on(own: str, barman: Barman = BARMAN) -> ManagedCluster:
    """The cluster, as the gateway with this address has it."""
    return replace(MAIN, cluster=replace(MAIN.cluster, barman=barman.seen_from(own)))


def host_of(own: str, has_address: bool) -> FakeHost:
    """In service with both Barmans, each through its slot on node 1."""
    host = gateway(has_address)
    other = SECOND if own == FIRST else FIRST
    host.addresses = {own, *([host.gateway] if has_address else [])}
    host.barman_slot, host.other_barmans = SLOTS[own], (SLOTS[other],)
    host.nodes[1].slots = {SLOTS[own]: FakeSlot(active=True), SLOTS[other]: FakeSlot(active=True)}
    host.other_gateways = [(f"repmgr_hooks {other} {'standby' if has_address else 'active'}", 1.0)]
    return host


def finder(host: FakeHost, own: str) -> PrimaryFinder:
    primary = next(number for number, node in host.nodes.items() if not node.in_recovery)
    node = host.nodes[primary]
    return PrimaryFinder(on(own).cluster, LastKnownPrimary(primary, node.timeline, node.system_identifier))


@pytest.mark.parametrize("has_address", [True, False])
@pytest.mark.parametrize("own", HOSTS)
def test_each_gateway_moves_its_own_slot_and_stream(own: str, has_address: bool) -> None:
    """And its app port opens when its own Barman has what it needs; the other gateway may be dead."""
    host, other = host_of(own, has_address), host_of(own, has_address).other_barmans[0]
    host.fail_over()
    begun = host.now()
    run = handle(on(own), host, [PROMOTED])
    assert run.ok, run.message
    assert ports(host) == (NODE_2, NODE_2)
    assert host.now() - begun < 60, "no limit was waited for"
    assert host.nodes[2].slots[SLOTS[own]].active
    assert other not in host.nodes[2].slots, "it is the other gateway's to make"
    assert host.barman.streams_from == 2


@pytest.mark.parametrize("has_address", [True, False])
def test_a_gateway_drops_its_own_slot_on_a_standby_and_leaves_the_others(has_address: bool) -> None:
    host = host_of(SECOND, has_address)
    host.nodes[2].slots = {"barman_1": FakeSlot(), "barman_2": FakeSlot()}
    known = LastKnownPrimary(1, 1, host.nodes[1].system_identifier)
    assert [problem.message for problem in find_drift(on(SECOND), host, known, {}).pending] == [
        "drop slot barman_2 on standby 2"
    ]
    assert handle(on(SECOND), host, [], last_known=known).ok
    assert list(host.nodes[2].slots) == ["barman_1"]
    assert host.nodes[1].slots["barman_1"].active


def test_a_slot_is_made_again_without_the_address() -> None:
    host = host_of(SECOND, has_address=False)
    del host.nodes[1].slots["barman_2"]
    host.barman.streams_from = None
    known = LastKnownPrimary(1, 1, host.nodes[1].system_identifier)
    assert handle(on(SECOND), host, [], last_known=known).ok
    assert host.nodes[1].slots["barman_2"].active


def test_a_host_that_is_none_of_them_touches_no_slot() -> None:
    host = gateway(False)
    host.addresses = {"10.0.0.99"}
    host.fail_over()
    run = handle(on("10.0.0.99"), host, [PROMOTED])
    assert ports(host)[1] == NODE_2, "its port opens by the limit"
    assert set(host.what_changed()) == {"iptables-restore"}
    assert run.problem
    assert run.problem.code == "gateway_unnamed"


def said(host: FakeHost, own: str) -> list[Problem]:
    decision = finder(host, own).decision(host)
    assert decision.primary_state
    return list(barmans.problems(on(own).cluster, decision.primary_state))


def test_what_is_seen_of_the_other_gateways_barman() -> None:
    host = host_of(FIRST, has_address=True)
    decision = finder(host, FIRST).decision(host)
    seen, wrong = gateways.seen_and_wrong(on(FIRST).cluster, decision.primary_state, host)
    assert wrong == ()
    assert list(map(str, seen)) == [
        "gateway 10.0.0.21 (this one): has the address; its Barman streams (slot barman_1)",
        "gateway 10.0.0.22: watches; its Barman streams (slot barman_2)",
    ]
    host.nodes[1].slots["barman_2"].active = False
    assert list(map(str, said(host, FIRST))) == [
        "Barman on gateway 10.0.0.22 does not stream from node 1 (slot barman_2)"
    ]
    for host.nodes[1].slots["barman_2"] in (FakeSlot(reserved=False), FakeSlot(invalidated="wal_removed")):
        assert list(map(str, said(host, FIRST))) == [
            "node 1 keeps no WAL for Barman on gateway 10.0.0.22 (slot barman_2)"
        ]
    del host.nodes[1].slots["barman_2"]
    assert "keeps no WAL" in str(said(host, FIRST)[0])
    assert said(host, SECOND) == [], "what is wrong with its own is found by its routes"


def test_check_warns_of_it() -> None:
    host = host_of(FIRST, has_address=True)
    (found,) = others(on(FIRST).cluster, finder(host, FIRST).decision(host).primary_state, host)
    assert (found.level, found.code) == ("OK", "gateway.others")
    host.nodes[1].slots["barman_2"].active = False
    (found,) = others(on(FIRST).cluster, finder(host, FIRST).decision(host).primary_state, host)
    assert (found.level, found.code) == ("WARN", "gateway.others")


def test_the_holder_tells_of_it_when_it_lasts() -> None:
    host = host_of(FIRST, has_address=True)
    host.nodes[1].slots["barman_2"].active = False
    decision = finder(host, FIRST).decision(host)
    watch = GatewayWatch(on(FIRST).cluster, host, Absence(on(FIRST).cluster, host, Progress()))
    assert watch.look(decision) == ()
    host.sleep(HELD_FOR)
    found = watch.look(decision)
    (alert,) = conditions(on(FIRST), decision, found, None, 20)
    assert (alert.condition, alert.severity) == ("gateways", "warning")
    assert alert.summary == "Barman on gateway 10.0.0.22 does not stream from node 1 (slot barman_2)"


def test_a_gateway_that_is_away_for_long() -> None:
    """Its slot keeps WAL on the primary, and on the old one: an alert says so, and nothing is dropped."""
    host = host_of(FIRST, has_address=True)
    host.nodes[1].slots["barman_2"].active = False
    host.nodes[2].slots = {"barman_2": FakeSlot()}
    for node in host.nodes.values():
        node.segment += 700  # 11 GB
    found = finder(host, FIRST)
    decision = found.decision(host)
    told = [each for each in warnings(on(FIRST), cluster_state(decision, found), host) if "barman_2" in each.message]
    assert [each.message for each in told] == [
        f"slot barman_2 on node {number} holds more than 10GB of WAL for Barman on gateway 10.0.0.22"
        for number in (1, 2)
    ]
    assert "pg_drop_replication_slot('barman_2')" in told[0].hint
    assert any(alert.condition.startswith("warning: ") for alert in conditions(on(FIRST), decision, told, None, 20))
    handle(on(FIRST), host, [], last_known=found.last_known)
    assert set(host.nodes[1].slots) == {"barman_1", "barman_2"}
    assert set(host.nodes[2].slots) == {"barman_2"}
    assert not [each for each in _unused_slots(on(FIRST), decision) if "barman_2" in each.message], "nor is it foreign"


def test_the_slots_of_all_gateways_must_fit_on_a_node() -> None:
    assert on(FIRST).kept_slots == ("barman_1", "barman_2")
    assert MAIN.kept_slots == ("barman",)


def test_one_barman_on_one_of_the_gateways() -> None:
    """It is run directly there, and by ssh from the other; all else is as with one on a third host."""
    ssh = ("ssh", "-o", "BatchMode=yes", "barman@10.0.0.21", "barman")
    barman = Barman("main_backup", command=ssh, gateways={FIRST: OnGateway(command=("barman",))})
    assert barman.seen_from(FIRST).command == ("barman",)
    assert barman.seen_from(SECOND).command == barman.seen_from("10.0.0.99").command == ssh
    assert barman.seen_from(SECOND).slot_name == "barman"
    assert {a.name for a in MAIN.actions if a.shared_in(on(FIRST, barman).cluster)} == {"slot", "barman"}


class Listens:
    """Keeps what was noted last."""

    def __init__(self) -> None:
        self.noted: list[list[str]] = []

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        self.noted.append([alert.condition for alert in found])

    def leave(self, cluster: str, but: Collection[str]) -> None:
        """Nothing of it is kept here."""

    def tell(self, alert: Alert) -> None:
        raise AssertionError(alert)


def test_a_gateway_without_the_address_tells_what_it_alone_can_see() -> None:
    """Its own Barman's WAL, and that it is whole again; what concerns the cluster is the other gateway's to tell."""
    place = place_of(MAIN.routes[0].do[2])
    gap, other = (
        RunRow(1, "main", "event", 1, 0.0, 1.0, False, True, 2, 2, "FAILED", code, "", (Failed(place, code),))
        for code in ("stream_gap", "failed")
    )
    full = Problem("slot_holds_too_much", "slot barman_1 on node 1 holds more than 10GB of WAL")
    host, listener = host_of(SECOND, has_address=False), Listens()
    evaluator = AlertEvaluator(on(SECOND), host, 20, listener)
    evaluator.note([full], other)
    assert listener.noted == [[]]
    evaluator.note([full], gap)
    evaluator.note([full], other)
    assert listener.noted == [[], ["backup"], []]
    one_barman = AlertEvaluator(MAIN, host, 20, listener)
    one_barman.note([full], gap)
    assert listener.noted[3:] == [[]], "with one Barman, the other gateway tells it"
    host.addresses.add(host.gateway)
    evaluator.saw(finder(host, SECOND).decision(host))
    evaluator.note([full], gap)
    assert set(listener.noted[-1]) == {"backup", "gate", "warning: slot_holds_too_much"}
