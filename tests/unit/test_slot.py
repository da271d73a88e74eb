"""Barman's slot: what is seen of it, and the steps that are missing."""

from __future__ import annotations

from typing import Any

import pytest

from repmgr_hooks.cluster import Barman, Cluster, Gateway, Node
from repmgr_hooks.decide import Decided
from repmgr_hooks.observe import NodeState, Slot
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.handlers import slot
from repmgr_hooks.handlers.slot import Config
from repmgr_hooks.steps import Sql, Step, apply
from tests.fake import FakeNode, FakeSlot, FakeWorld

CLUSTER = Cluster(
    nodes={number: Node(f"10.0.0.1{number}") for number in (1, 2, 3)},
    gateway=Gateway("10.0.0.20", {"app": 54322}),
    barman=Barman("main_backup", "barman"),
)
DECIDED = Decided(
    CLUSTER,
    primary=2,
    timeline=2,
    states={
        1: NodeState(1, timeline=2),
        2: NodeState(2, in_recovery=False, timeline=2),
        3: NodeState(3, error="node 3: connection refused"),
    },
)
ON_PRIMARY, ON_STANDBY = Config("primary"), Config("standby", "drop")

CREATE = ("create slot barman on node 2", Sql(2, slot.CREATE, ("barman",)), None)
DROP_LOST = (
    "drop slot barman on node 2: it holds no WAL",
    Sql(2, slot.DROP_LOST, ("barman",)),
    Sql(2, slot.ABSENT, ("barman",)),
)


def release(node: int) -> tuple[str, Sql, Sql]:
    return (
        f"end Barman's connection to slot barman on node {node}",
        Sql(node, slot.RELEASE, ("barman", "barman_receive_wal")),
        Sql(node, slot.INACTIVE, ("barman",)),
    )


def drop(node: int) -> tuple[str, Sql, Sql]:
    return (
        f"drop slot barman on standby {node}",
        Sql(node, slot.DROP_ON_STANDBY, ("barman",)),
        Sql(node, slot.ABSENT, ("barman",)),
    )


def essence(steps: list[Step]) -> list[tuple[str, Any, Any]]:
    """What each step says, does, and waits for."""
    assert all(0 < step.limit <= 10 for step in steps)
    return [(step.what, step.do, step.until) for step in steps]


@pytest.mark.parametrize(
    ("seen", "steps"),
    [
        pytest.param([], [CREATE], id="absent"),
        pytest.param([Seen(2, True, False, True)], [], id="healthy, Barman away"),
        pytest.param([Seen(2, True, True, True)], [], id="healthy, Barman streaming"),
        pytest.param([Seen(2, True, False, False)], [DROP_LOST, CREATE], id="lost, or restart_lsn is null"),
        pytest.param([Seen(2, True, True, False)], [release(2), DROP_LOST, CREATE], id="lost and in use"),
    ],
)
def test_on_the_primary_the_slot_holds_wal(seen: list[Seen], steps: list[tuple[str, Any, Any]]) -> None:
    assert essence(slot.plan(ON_PRIMARY, DECIDED, tuple(seen))) == steps


@pytest.mark.parametrize(
    ("seen", "steps"),
    [
        pytest.param([], [], id="absent"),
        pytest.param([Seen(1, True, False, True)], [drop(1)], id="left over"),
        pytest.param([Seen(1, True, False, False)], [drop(1)], id="left over and lost"),
        pytest.param([Seen(1, True, True, True)], [release(1), drop(1)], id="Barman still hangs on it"),
        pytest.param(
            [Seen(1, True, False, True), Seen(3, True, True, True)],
            [drop(1), release(3), drop(3)],
            id="on two standbys",
        ),
    ],
)
def test_on_standbys_the_slot_is_absent(seen: list[Seen], steps: list[tuple[str, Any, Any]]) -> None:
    assert essence(slot.plan(ON_STANDBY, DECIDED, tuple(seen))) == steps


@pytest.mark.parametrize("config", [ON_PRIMARY, ON_STANDBY])
@pytest.mark.parametrize("active", [True, False])
def test_a_logical_slot_of_that_name_is_not_touched(config: Config, active: bool) -> None:
    node = 2 if config.on == "primary" else 1
    with pytest.raises(StepFailed, match=f"node {node}: the slot 'barman' is logical, so it is not Barman's"):
        slot.plan(config, DECIDED, (Seen(node, False, active, True),))


def world(**slots: FakeSlot) -> FakeWorld:
    """Node 2 is the primary, node 1 a standby, node 3 does not answer; ``slots`` by node: ``on_1``, ``on_2``."""
    made = FakeWorld()
    made.nodes[3] = FakeNode("10.0.0.13", reachable=False)
    made.nodes[1].in_recovery, made.nodes[2].in_recovery = True, False
    for number, node in made.nodes.items():
        node.slots = {"barman": found} if (found := slots.get(f"on_{number}")) else {}
        node.slots["another"] = FakeSlot(active=True)
    made.barman.streams_from = next(
        (n for n, node in made.nodes.items() if node.slots.get("barman", FakeSlot()).active), None
    )
    return made


@pytest.mark.parametrize(
    ("config", "slots", "seen"),
    [
        (ON_PRIMARY, {}, ()),
        (ON_PRIMARY, {"on_1": FakeSlot()}, ()),
        (ON_PRIMARY, {"on_2": FakeSlot(active=True)}, (Seen(2, True, True, True),)),
        (ON_PRIMARY, {"on_2": FakeSlot(reserved=False)}, (Seen(2, True, False, False),)),
        (ON_PRIMARY, {"on_2": FakeSlot(physical=False)}, (Seen(2, False, False, True),)),
        (ON_STANDBY, {}, ()),
        (ON_STANDBY, {"on_2": FakeSlot(active=True)}, ()),
        (ON_STANDBY, {"on_1": FakeSlot()}, (Seen(1, True, False, True),)),
        (ON_STANDBY, {"on_1": FakeSlot(), "on_3": FakeSlot()}, (Seen(1, True, False, True),)),
    ],
)
def test_what_is_seen(config: Config, slots: dict[str, FakeSlot], seen: tuple[Seen, ...]) -> None:
    assert slot.observe(config, DECIDED, world(**slots)) == seen


@pytest.mark.parametrize("config", [ON_PRIMARY, ON_STANDBY])
def test_a_node_that_stops_answering_is_no_absent_slot(config: Config) -> None:
    silent = world()
    silent.nodes[1].reachable = silent.nodes[2].reachable = False
    with pytest.raises(StepFailed, match="connection timeout expired"):
        slot.observe(config, DECIDED, silent)


@pytest.mark.parametrize("slots", [{}, {"on_2": FakeSlot(reserved=False)}, {"on_2": FakeSlot(True, True, False)}])
def test_the_steps_on_the_primary_lead_there(slots: dict[str, FakeSlot]) -> None:
    there = world(**slots)
    for step in slot.plan(ON_PRIMARY, DECIDED, slot.observe(ON_PRIMARY, DECIDED, there)):
        apply(step, there)
    assert there.nodes[2].slots["barman"] == FakeSlot(physical=True, active=False, reserved=True)
    assert slot.plan(ON_PRIMARY, DECIDED, slot.observe(ON_PRIMARY, DECIDED, there)) == []


@pytest.mark.parametrize("slots", [{"on_1": FakeSlot()}, {"on_1": FakeSlot(active=True), "on_2": FakeSlot()}])
def test_the_steps_on_standbys_lead_there(slots: dict[str, FakeSlot]) -> None:
    there = world(**slots)
    for step in slot.plan(ON_STANDBY, DECIDED, slot.observe(ON_STANDBY, DECIDED, there)):
        apply(step, there)
    assert list(there.nodes[1].slots) == ["another"]
    assert ("barman" in there.nodes[2].slots) == ("on_2" in slots)
    assert slot.plan(ON_STANDBY, DECIDED, slot.observe(ON_STANDBY, DECIDED, there)) == []


def test_a_standby_that_was_promoted_meanwhile_keeps_its_slot() -> None:
    there = world(on_1=FakeSlot())
    (step,) = slot.plan(ON_STANDBY, DECIDED, slot.observe(ON_STANDBY, DECIDED, there))
    there.nodes[1].in_recovery = False
    with pytest.raises(StepFailed, match="drop slot barman on standby 1: not seen"):
        apply(step, there)
    assert "barman" in there.nodes[1].slots


def test_it_needs_barman() -> None:
    without = Cluster(nodes=CLUSTER.nodes, gateway=CLUSTER.gateway)
    assert list(slot.problems(ON_PRIMARY, without)) == ["needs the section 'barman' of the cluster"]
    assert list(slot.problems(ON_PRIMARY, CLUSTER)) == []
