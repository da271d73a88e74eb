"""What ``check`` says of logical slots: what PostgreSQL wants on each node before it keeps them in sync."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks import failover_slots as checks
from repmgr_hooks.checks import node_settings
from repmgr_hooks.checks.node_settings import Examined
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.engine.routes import Action, Route
from repmgr_hooks.handlers import failover_slots
from tests.fake import FakeHost, FakeSlot

FILE = Path(__file__).resolve().parents[3] / "config/config.yaml"
MAIN = config.load(FILE).clusters["main"]
ACTION = Action("failover_slots", failover_slots, failover_slots.Config(), "failover_slots {}")
HANDLED = replace(MAIN, routes=(*MAIN.routes, Route(frozenset({"node_rejoin"}), (ACTION,))))
SUB = FakeSlot(physical=False, failover=True, active=True)
Change = Callable[[FakeHost], object]


def subscribed() -> FakeHost:
    """Node 1 has a subscriber, and node 2 keeps its slot in sync."""
    host = FakeHost()
    host.nodes[2].upstream = 1
    host.nodes[1].slots |= {"sub": SUB, "repmgr_slot_2": FakeSlot(active=True)}
    host.nodes[2].slots = {"sub": FakeSlot(physical=False, failover=True, synced=True)}
    host.nodes[1].waited_for, host.nodes[1].primary_slot = "repmgr_slot_2", ""
    host.nodes[2].waited_for, host.nodes[2].primary_conninfo = "repmgr_slot_1", "host=10.0.0.11 dbname=repmgr"
    return host


def node(number: int, **said: object) -> Change:
    return lambda host: [setattr(host.nodes[number], name, value) for name, value in said.items()]


def without(slot: str) -> Change:
    return lambda host: host.nodes[1].slots.pop(slot)


def with_slot(name: str, slot: FakeSlot) -> Change:
    return lambda host: host.nodes[1].slots.update({name: slot})


def found(host: FakeHost, managed: config.ManagedCluster = HANDLED) -> list[tuple[str, str, str]]:
    """What is not well: its code, where, and what is said."""
    decision = PrimaryFinder(managed.cluster, LastKnownPrimary()).decision(host)
    said = list(checks.look(managed, decision, host))
    assert all(each.hint for each in said if each.level != "OK")
    return [(each.code, each.where, f"{each.level} {each.message}") for each in said if each.level != "OK"]


@pytest.mark.parametrize(
    ("change", "code", "where", "said"),
    [
        (node(2, syncs=None), "logical.sync", "main node 2", "FAIL PostgreSQL 17 and newer"),
        (
            node(1, syncs="off"),
            "logical.sync",
            "main node 1",
            "WARN as a standby it keeps no logical slot in sync: sync_",
        ),
        (node(2, feedback="off"), "logical.sync", "main node 2", "hot_standby_feedback is not on"),
        (node(2, wal_level="replica"), "logical.sync", "main node 2", "wal_level is not logical"),
        (node(2, primary_slot=""), "logical.sync", "main node 2", "streams without a slot"),
        (
            node(2, primary_conninfo="host=x"),
            "logical.sync",
            "main node 2",
            "primary_conninfo names no database, which",
        ),
        (node(2, primary_conninfo="password=x"), "logical.sync", "main node 2", "has a password"),
        (node(2, primary_conninfo="new_in_19=x"), "logical.sync", "main node 2", "cannot be read here"),
        (node(2, waited_for=""), "logical.waits", "main node 2", "WARN a subscriber may get what no standby has"),
        (
            *(node(2, waited_for="repmgr_slot_1, repmgr_slot_2"), "logical.waits", "main node 2"),
            "FAIL once promoted, logical replication waits for its own slot repmgr_slot_2",
        ),
        (
            without("repmgr_slot_2"),
            "logical.waits",
            "main node 1",
            "FAIL logical replication waits for the slot repmgr_slo",
        ),
        (
            *(with_slot("repmgr_slot_2", FakeSlot()), "logical.waits", "main node 1"),
            "WARN logical replication waits for the slot repmgr_slot_2, which nobody uses",
        ),
        (
            *(with_slot("repmgr_slot_2", FakeSlot(physical=False, failover=True)), "logical.waits", "main node 1"),
            "FAIL logical replication waits for the slot repmgr_slot_2, which is not there",
        ),
        (
            node(2, may_alter=(False, True)),
            "logical.rights",
            "main node 2",
            "FAIL allow_alter_system is off",
        ),
        (
            node(1, may_alter=(True, False)),
            "logical.rights",
            "main node 1",
            "FAIL repmgr may not write primary_conninfo",
        ),
        (
            with_slot("cdc", FakeSlot(physical=False)),
            "logical.slots",
            "main",
            "WARN no failover slot, and lost with node 1",
        ),
    ],
)
def test_what_is_missing(change: Change, code: str, where: str, said: str) -> None:
    host = subscribed()
    change(host)
    ((code_found, where_found, text),) = found(host)
    assert (code_found, where_found) == (code, where)
    assert said in text


def test_nothing_is_missing() -> None:
    assert found(subscribed()) == []


def test_a_silent_node_is_left_out() -> None:
    host = subscribed()
    host.lose(2)
    assert found(host) == []


def test_whoever_has_no_logical_slot_is_asked_nothing_more() -> None:
    host = FakeHost()
    host.nodes[2].slots = {"x": FakeSlot()}
    assert found(host, MAIN) == []
    assert {code for code, _, _ in found(subscribed(), MAIN)} == {"logical.route"}
    host.nodes[1].slots["tmp"] = replace(SUB, temporary=True)
    assert found(host, MAIN) == []


@pytest.mark.parametrize("waited_for", ['"a""b", repmgr_slot_2', "repmgr_slot_2,\nx", "Ä, repmgr_slot_2"])
def test_strange_names_break_nothing(waited_for: str) -> None:
    host = subscribed()
    host.nodes[1].waited_for = waited_for
    assert {code for code, _, _ in found(host)} <= {"logical.waits"}


@pytest.mark.parametrize(("slots", "codes"), [(("barman",), ["nodes.idle_slots"]), ((), [])])
def test_slots_that_are_kept_in_sync_are_never_idle(slots: tuple[str, ...], codes: list[str]) -> None:
    """PostgreSQL 18 spares them (slot.c, CanInvalidateIdleSlot); physical ones it does not."""
    node = Examined(0.0, 10, 10, "50GB", (), "5.5", idle_timeout="1h")
    said = node_settings.findings("main node 2", node, slots, None)
    assert [each.code for each in said if each.level != "OK"] == codes
