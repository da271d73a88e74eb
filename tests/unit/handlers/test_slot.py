"""Barman's slot: what is seen of it, and the steps that are missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.observe import NodeState, Slot, WalSender, observe
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.handlers import slot
from repmgr_hooks.handlers.slot import Config
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.steps import Rows, Sql, Step
from tests.fake import FakeHost, FakeNode, FakeSlot

CLUSTER = Cluster(
    nodes={number: Node(f"10.0.0.1{number}") for number in (1, 2, 3)},
    gateway=Gateway("10.0.0.20", {"app": 54322}),
    barman=Barman("main_backup", "barman"),
)
STATE = ClusterState(
    CLUSTER,
    primary=2,
    timeline=2,
    states={
        1: NodeState(1, timeline=2),
        2: NodeState(2, in_recovery=False, timeline=2),
        3: NodeState(3, error="node 3: connection refused"),
    },
)
HEALTHY = Slot("barman", True, None, 0x500_0000, "reserved")
IN_USE = replace(HEALTHY, active_pid=4711)
LOST = replace(HEALTHY, restart_lsn=None, wal_status="lost")
OTHER = Slot("another", True, 99, 0x500_0000, "reserved")
ON_PRIMARY, ON_STANDBY = Config("primary"), Config("standbys", "absent")

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
        pytest.param({}, [CREATE], id="absent"),
        pytest.param({2: HEALTHY}, [], id="healthy, Barman away"),
        pytest.param({2: IN_USE}, [], id="healthy, Barman streaming"),
        pytest.param({2: replace(HEALTHY, wal_status="")}, [], id="healthy, before PostgreSQL 13"),
        pytest.param({2: replace(HEALTHY, wal_status="extended")}, [], id="beyond max_wal_size"),
        pytest.param({2: LOST}, [DROP_LOST, CREATE], id="lost"),
        pytest.param({2: replace(LOST, wal_status="")}, [DROP_LOST, CREATE], id="it never reserved any"),
        pytest.param({2: replace(HEALTHY, wal_status="lost")}, [DROP_LOST, CREATE], id="lost, restart_lsn still there"),
        pytest.param({2: replace(LOST, active_pid=7)}, [release(2), DROP_LOST, CREATE], id="lost and in use"),
    ],
)
def test_on_the_primary_the_slot_holds_wal(seen: dict[int, Slot], steps: list[tuple[str, Any, Any]]) -> None:
    assert essence(slot.plan(ON_PRIMARY, STATE, seen)) == steps


@pytest.mark.parametrize(
    ("seen", "steps"),
    [
        pytest.param({}, [], id="absent"),
        pytest.param({1: HEALTHY}, [drop(1)], id="left over"),
        pytest.param({1: LOST}, [drop(1)], id="left over and lost"),
        pytest.param({1: IN_USE}, [release(1), drop(1)], id="Barman still hangs on it"),
        pytest.param({1: HEALTHY, 3: IN_USE}, [drop(1), release(3), drop(3)], id="on two standbys"),
    ],
)
def test_on_standbys_the_slot_is_absent(seen: dict[int, Slot], steps: list[tuple[str, Any, Any]]) -> None:
    assert essence(slot.plan(ON_STANDBY, STATE, seen)) == steps


@pytest.mark.parametrize("config", [ON_PRIMARY, ON_STANDBY])
@pytest.mark.parametrize("found", [HEALTHY, IN_USE])
def test_a_logical_slot_of_that_name_is_not_touched(config: Config, found: Slot) -> None:
    node = 2 if config.on == "primary" else 1
    with pytest.raises(OperationFailed, match=f"node {node}: the slot 'barman' is logical, so it is not Barman's"):
        slot.plan(config, STATE, {node: replace(found, physical=False)})


@pytest.mark.parametrize(
    ("config", "slots", "seen"),
    [
        pytest.param(ON_PRIMARY, {}, {}, id="nowhere"),
        pytest.param(ON_PRIMARY, {1: (HEALTHY,)}, {}, id="only elsewhere"),
        pytest.param(ON_PRIMARY, {1: (HEALTHY,), 2: (OTHER, IN_USE)}, {2: IN_USE}, id="beside another"),
        pytest.param(ON_STANDBY, {}, {}, id="on no standby"),
        pytest.param(ON_STANDBY, {2: (IN_USE,)}, {}, id="only on the primary"),
        pytest.param(ON_STANDBY, {1: (OTHER, LOST), 2: (IN_USE,)}, {1: LOST}, id="left over"),
        pytest.param(ON_STANDBY, {1: (HEALTHY,), 3: (HEALTHY,)}, {1: HEALTHY}, id="what a silent node has is unknown"),
        pytest.param(
            ON_STANDBY, {4: (HEALTHY,), 5: (HEALTHY,)}, {}, id="a witness and a stale primary are no standbys"
        ),
    ],
)
def test_which_slots_are_looked_at(config: Config, slots: dict[int, tuple[Slot, ...]], seen: dict[int, Slot]) -> None:
    more = {4: NodeState(4, witness=True), 5: NodeState(5, in_recovery=False, timeline=1)}
    states = {node: replace(state, slots=slots.get(node, ())) for node, state in {**STATE.states, **more}.items()}
    assert slot.observe(config, replace(STATE, states=states), FakeHost()) == seen


# -- state: synced -----------------------------------------------------------------------------------------------------

TRACK = Config("standbys", "synced", max_retained_wal="100MB")
MB = 1024 * 1024
AT = 0x500_0000
CREATE_1 = (
    "create slot barman on standby 1",
    Sql(1, slot.CREATE_ON_STANDBY, ("0/5000000", "0/5000000", "barman")),
    None,
)
CREATE_1_AT_80 = (CREATE_1[0], Sql(1, slot.CREATE_ON_STANDBY, ("0/A000000", "0/A000000", "barman")), None)


def at(megabytes: int, **changes: Any) -> Slot:
    """A slot so many MB after the first position of the primary's."""
    return replace(HEALTHY, restart_lsn=AT + megabytes * MB, **changes)


def tracking(leader: Slot | None, found: Slot | None, written: int = 0) -> ClusterState:
    """Node 2 leads, node 1 follows; the primary, and the standby with it, has written so many MB."""
    slots = {1: (found,) if found else (), 2: (OTHER, leader) if leader else ()}
    states = {
        node: replace(state, slots=slots.get(node, ()), lsn=AT + written * MB) for node, state in STATE.states.items()
    }
    return replace(STATE, states=states)


@pytest.mark.parametrize(
    ("state", "steps"),
    [
        pytest.param(tracking(at(0), None), [CREATE_1], id="absent"),
        pytest.param(tracking(at(0), at(0)), [], id="as far as the primary's"),
        pytest.param(tracking(at(50), at(0), 50), [], id="behind it: that is small work"),
        pytest.param(tracking(at(0), at(50), 50), [], id="before it: nothing can fix that"),
        pytest.param(tracking(None, None), [], id="the primary has none yet"),
        pytest.param(tracking(LOST, None), [], id="the primary's says nothing"),
        pytest.param(tracking(at(0), LOST), [drop(1), CREATE_1], id="lost"),
        pytest.param(tracking(at(0), at(0, xmin=True)), [drop(1), CREATE_1], id="it keeps dead rows"),
        pytest.param(tracking(at(0), at(1)), [drop(1), CREATE_1], id="beyond all that the standby has"),
        pytest.param(tracking(at(0), replace(LOST, active_pid=7)), [release(1), drop(1), CREATE_1], id="in use"),
        pytest.param(tracking(at(0), None, 101), [], id="it would hold too much"),
        pytest.param(tracking(at(0), at(0), 100), [], id="just not too much"),
        pytest.param(
            tracking(at(80), at(0), 101), [drop(1), CREATE_1_AT_80], id="too much, and the primary's does not"
        ),
    ],
)
def test_on_standbys_the_slot_is_there_and_whole(state: ClusterState, steps: list[tuple[str, Any, Any]]) -> None:
    assert essence(slot.plan(TRACK, state, slot.observe(TRACK, state, FakeHost()))) == steps


def test_a_slot_that_holds_too_much_is_given_up_loudly() -> None:
    state = tracking(at(0), at(0), 101)
    (step,) = slot.plan(TRACK, state, slot.observe(TRACK, state, FakeHost()))
    assert step.what == ("GIVE UP slot barman on standby 1: it holds more than 100MB: drop slot barman on standby 1")
    assert (step.do, step.until) == drop(1)[1:]


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (tracking(at(0), at(0)), []),
        (tracking(at(0), None), []),
        (tracking(at(50), at(0), 50), []),
        (tracking(at(0), at(15), 15), []),
        (tracking(None, None), []),
        (
            tracking(at(15), at(17), 17),  # in the next file already: that of Barman may go
            [
                "slot barman on standby 1 begins after what Barman still lacks; "
                "it is whole again when Barman has caught up"
            ],
        ),
        (
            tracking(at(0), at(16), 16),
            [
                "slot barman on standby 1 begins after what Barman still lacks; "
                "it is whole again when Barman has caught up"
            ],
        ),
        (
            tracking(at(0), None, 101),
            ["slot barman on standby 1 is given up until Barman is less than 100MB behind"],
        ),
    ],
)
def test_what_no_step_can_fix(state: ClusterState, said: list[str]) -> None:
    assert list(map(str, slot.warnings(TRACK, state))) == said
    assert list(slot.warnings(ON_STANDBY, state)) == list(slot.warnings(ON_PRIMARY, state)) == []


def sized(state: ClusterState, megabytes: int) -> ClusterState:
    """The same with another size of WAL files."""
    states = {node: replace(seen, segment_size=megabytes * MB) for node, seen in state.states.items()}
    return replace(state, states=states)


@pytest.mark.parametrize(
    ("segment", "standby", "warns"), [(1, 2, True), (16, 2, False), (16, 16, True), (64, 16, False), (64, 64, True)]
)
def test_a_wal_file_has_the_size_that_the_cluster_gave_it(segment: int, standby: int, warns: bool) -> None:
    state = sized(tracking(at(0), at(standby), standby), segment)
    assert bool(list(slot.warnings(TRACK, state))) is warns
    host = Asked()
    slot.housekeep(TRACK, sized(tracking(at(standby), at(0), standby), segment), host)
    assert bool(host.asked) is warns, "a whole file is let go"


class Asked(FakeHost):
    """A world that notes what is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Sql] = []

    def fetch(self, sql: Sql, limit: float) -> Rows:
        self.asked.append(sql)
        return []


@pytest.mark.parametrize(
    ("config", "state", "advanced"),
    [
        (TRACK, tracking(at(16), at(0)), True),
        (TRACK, tracking(at(15), at(0)), False),
        (TRACK, tracking(at(0), at(16)), False),
        (TRACK, tracking(at(16), None), False),
        (TRACK, tracking(at(16), replace(at(0), wal_status="lost", invalidation_reason="idle_timeout")), False),
        (TRACK, tracking(at(16), LOST), False),
        (TRACK, tracking(None, at(0)), False),
        (ON_STANDBY, tracking(at(16), at(0)), False),
        (ON_PRIMARY, tracking(at(16), at(0)), False),
    ],
)
def test_the_slot_follows_the_primarys_a_wal_file_at_a_time_and_never_beyond(
    config: Config, state: ClusterState, advanced: bool
) -> None:
    host = Asked()
    slot.housekeep(config, state, host)
    assert host.asked == ([Sql(1, slot.ADVANCE, ("0/6000000", "barman", "0/6000000"))] if advanced else [])


# -- the steps lead there ----------------------------------------------------------------------------------------------


def host(**slots: FakeSlot) -> FakeHost:
    """Node 2 is the primary, node 1 a standby, node 3 does not answer; ``slots`` by node: ``on_1``, ``on_2``."""
    made = FakeHost()
    made.nodes[3] = FakeNode("10.0.0.13", reachable=False)
    made.nodes[1].in_recovery, made.nodes[2].in_recovery = True, False
    for number, node in made.nodes.items():
        node.slots = {"barman": found} if (found := slots.get(f"on_{number}")) else {}
        node.slots["another"] = FakeSlot(active=True)
    made.barman.streams_from = next(
        (n for n, node in made.nodes.items() if node.slots.get("barman", FakeSlot()).active), None
    )
    return made


def planned(config: Config, there: FakeHost) -> list[Step]:
    """What is missing, as the nodes are now."""
    state = replace(STATE, states={seen.node: seen for seen in observe(CLUSTER, there)})
    return slot.plan(config, state, slot.observe(config, state, there))


@pytest.mark.parametrize("slots", [{}, {"on_2": FakeSlot(reserved=False)}, {"on_2": FakeSlot(True, True, False)}])
def test_the_steps_on_the_primary_lead_there(slots: dict[str, FakeSlot]) -> None:
    there = host(**slots)
    for step in planned(ON_PRIMARY, there):
        apply(step, there)
    assert there.nodes[2].slots["barman"] == FakeSlot(physical=True, active=False, reserved=True)
    assert planned(ON_PRIMARY, there) == []


@pytest.mark.parametrize("slots", [{"on_1": FakeSlot()}, {"on_1": FakeSlot(active=True), "on_2": FakeSlot()}])
def test_the_steps_on_standbys_lead_there(slots: dict[str, FakeSlot]) -> None:
    there = host(**slots)
    for step in planned(ON_STANDBY, there):
        apply(step, there)
    assert list(there.nodes[1].slots) == ["another"]
    assert ("barman" in there.nodes[2].slots) == ("on_2" in slots)
    assert planned(ON_STANDBY, there) == []


def test_a_standby_that_was_promoted_meanwhile_keeps_its_slot() -> None:
    there = host(on_1=FakeSlot())
    (step,) = planned(ON_STANDBY, there)
    there.nodes[1].in_recovery = False
    with pytest.raises(OperationFailed, match="drop slot barman on standby 1: not seen"):
        apply(step, there)
    assert "barman" in there.nodes[1].slots


def test_it_needs_barman() -> None:
    without = Cluster(nodes=CLUSTER.nodes, gateway=CLUSTER.gateway)
    assert list(map(str, slot.validate(ON_PRIMARY, without))) == [
        "needs the section 'barman' of the cluster, or 'name'"
    ]
    assert list(slot.validate(ON_PRIMARY, CLUSTER)) == []


# -- slots that are not Barman's ---------------------------------------------------------------------------------------

NAMED = {on: replace(config, name="second") for on, config in (("primary", ON_PRIMARY), ("standbys", ON_STANDBY))}
FOLLOWS = replace(TRACK, name="second")
WITHOUT_BARMAN = replace(STATE, cluster=Cluster(nodes=CLUSTER.nodes, gateway=CLUSTER.gateway))


def second(**changes: Any) -> Slot:
    return replace(HEALTHY, name="second", **changes)


def with_slots(state: ClusterState, slots: dict[int, tuple[Slot, ...]]) -> ClusterState:
    return replace(state, states={n: replace(each, slots=slots.get(n, ())) for n, each in state.states.items()})


@pytest.mark.parametrize("state", [STATE, WITHOUT_BARMAN], ids=["beside Barman's", "without Barman"])
@pytest.mark.parametrize(
    ("on", "slots", "said"),
    [
        ("primary", {}, ["create slot second on node 2"]),
        ("primary", {2: (IN_USE,)}, ["create slot second on node 2"]),
        ("primary", {2: (second(),)}, []),
        (
            *("primary", {2: (second(wal_status="lost"),)}),
            ["drop slot second on node 2: it holds no WAL", "create slot second on node 2"],
        ),
        ("primary", {2: (second(wal_status="lost", active_pid=7),)}, []),
        ("standbys", {1: (HEALTHY, OTHER), 2: (second(),)}, []),
        ("standbys", {1: (HEALTHY, second())}, ["drop slot second on standby 1"]),
        ("standbys", {1: (second(active_pid=7),)}, []),
    ],
)
def test_a_slot_of_another_program(
    state: ClusterState, on: str, slots: dict[int, tuple[Slot, ...]], said: list[str]
) -> None:
    """Nobody's connection to it is ended, and it stays while it is in use."""
    state = with_slots(state, slots)
    steps = slot.plan(NAMED[on], state, slot.observe(NAMED[on], state, FakeHost()))
    assert [step.what for step in steps] == said
    assert {step.target for step in steps} <= {"second"}
    assert not any("barman" in str(step.do) for step in steps)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((), ["create slot second on standby 1"]),
        ((second(restart_lsn=0),), []),
        ((second(wal_status="lost"),), ["drop slot second on standby 1", "create slot second on standby 1"]),
        ((second(wal_status="lost", active_pid=7),), []),
    ],
)
def test_a_slot_of_another_program_follows_the_primarys(found: tuple[Slot, ...], said: list[str]) -> None:
    state = with_slots(STATE, {1: found, 2: (second(),)})
    steps = slot.plan(FOLLOWS, state, slot.observe(FOLLOWS, state, FakeHost()))
    assert [step.what for step in steps] == said


def test_who_uses_a_slot_that_stays_is_named() -> None:
    sender = WalSender(7, "pg_receivewal", "10.0.0.40", "streaming", 0)
    state = with_slots(STATE, {1: (second(active_pid=7),)})
    state = replace(state, states={**state.states, 1: replace(state.states[1], senders=(sender,))})
    (found,) = slot.warnings(NAMED["standbys"], state)
    assert found.code == "slot_in_use"
    assert "slot second on standby 1 is in use by 'pg_receivewal' from 10.0.0.40" in str(found)
    assert list(slot.warnings(NAMED["primary"], state)) == []
    assert list(slot.warnings(ON_STANDBY, with_slots(STATE, {1: (IN_USE,)}))) == [], "Barman's connection is ended"


def test_of_a_slot_that_is_not_barmans_nothing_is_said_of_barman() -> None:
    state = with_slots(STATE, {2: (second(restart_lsn=0),)})
    state = replace(state, states={**state.states, 2: replace(state.states[2], lsn=20 << 30)})
    said = [
        f"{problem} {problem.hint}"
        for config in (NAMED["primary"], FOLLOWS)
        for problem in slot.warnings(config, state)
    ]
    assert len(said) == 2
    assert not any("arman" in line for line in said)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Config("primary", name="second"), ""),
        (Config("primary", "present", name="second"), ""),
        (Config("standbys", "synced", name="second"), ""),
        (Config("primary", "absent", name="second"), "'state: absent' goes with 'on: standbys'"),
        (Config("standbys", "present", name="second"), "'state: present' goes with 'on: primary'"),
        (Config("standbys", "absent", name="repmgr_slot_2"), "slot repmgr_slot_2 is repmgr's"),
        (Config("primary", name="repmgr_slot_13"), "slot repmgr_slot_13 is repmgr's"),
        (Config("primary", name="repmgr_slot_mine"), ""),
    ],
)
def test_which_slots_may_be_named(config: Config, said: str) -> None:
    problems = list(map(str, slot.validate(config, WITHOUT_BARMAN.cluster)))
    assert len(problems) == bool(said)
    assert all(said in problem for problem in problems)


def test_its_steps_lead_there_and_touch_no_other_slot() -> None:
    there = host(on_1=FakeSlot())
    there.nodes[1].slots["second"] = FakeSlot()
    state = replace(STATE, states={seen.node: seen for seen in observe(CLUSTER, there)})
    for config in NAMED.values():
        for step in slot.plan(config, state, slot.observe(config, state, there)):
            apply(step, there)
    assert sorted(there.nodes[1].slots) == ["another", "barman"]
    assert "second" in there.nodes[2].slots
