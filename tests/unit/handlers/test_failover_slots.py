"""Logical failover slots: what is seen of them, and the steps that are missing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks.cluster import failover_slots as sync
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.failover_slots import ASK, Conninfo, conninfo
from repmgr_hooks.cluster.observe import NodeState, Slot, WalReceiver, observe
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.handlers import failover_slots
from repmgr_hooks.handlers.failover_slots import Config
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.steps import Sql, Step
from tests.fake import FakeHost, FakeNode, FakeSlot

CLUSTER = Cluster(
    nodes={number: Node(f"10.0.0.1{number}") for number in (1, 2, 3)}, gateway=Gateway("10.0.0.20", {"app": 54322})
)
FROM_2 = WalReceiver("10.0.0.12", 2, True, 2)
STATE = ClusterState(
    CLUSTER,
    primary=2,
    timeline=2,
    states={
        1: NodeState(1, timeline=2, receiver=FROM_2),
        2: NodeState(2, in_recovery=False, timeline=2),
        3: NodeState(3, error="node 3: connection refused"),
    },
)
ON_PRIMARY = Slot("sub", False, 77, 0x500_0000, "reserved", failover=True)
LEFT = replace(ON_PRIMARY, active_pid=None)
SYNCED = replace(LEFT, synced=True)
NAMES = "alter system set primary_conninfo = E'"
DROP = "drop logical slot sub on standby 1: it is left over, and keeps the primary's from being synced"


def with_slots(on_1: tuple[Slot, ...] = (), on_2: tuple[Slot, ...] = (ON_PRIMARY,), **changes: Any) -> ClusterState:
    one = replace(STATE.states[1], slots=on_1, **changes)
    return replace(STATE, states={**STATE.states, 1: one, 2: replace(STATE.states[2], slots=on_2)})


def promoted() -> FakeHost:
    """Node 1 follows node 2."""
    host = FakeHost()
    host.nodes = {
        1: FakeNode("10.0.0.11", timeline=2, upstream=2),
        2: FakeNode("10.0.0.12", in_recovery=False, timeline=2),
    }
    return host


def steps(state: ClusterState, seen: dict[int, Conninfo] | None = None) -> list[Step]:
    return failover_slots.plan(Config(), state, seen or {})


@pytest.mark.parametrize(
    ("state", "said"),
    [
        pytest.param(with_slots((LEFT,)), [DROP], id="left by a former primary"),
        pytest.param(with_slots((replace(LEFT, wal_status="lost", restart_lsn=None),)), [DROP], id="and lost"),
        pytest.param(with_slots((SYNCED,)), [], id="synced"),
        pytest.param(with_slots(()), [], id="not there yet"),
        pytest.param(with_slots((replace(SYNCED, temporary=True),)), [], id="waits until it can be"),
        pytest.param(with_slots((replace(LEFT, temporary=True),)), [], id="temporary"),
        pytest.param(with_slots((replace(LEFT, failover=False),)), [], id="without failover"),
        pytest.param(with_slots((replace(LEFT, active_pid=5),)), [], id="with a consumer"),
        pytest.param(with_slots((LEFT,), ()), [], id="no namesake"),
        pytest.param(
            with_slots((LEFT,), (replace(ON_PRIMARY, failover=False),)), [], id="the namesake is no failover slot"
        ),
        pytest.param(with_slots((LEFT,), (replace(ON_PRIMARY, physical=True),)), [], id="the namesake is physical"),
        pytest.param(with_slots((LEFT,), (replace(ON_PRIMARY, wal_status="lost"),)), [], id="the namesake is lost"),
        pytest.param(
            with_slots((LEFT,), (replace(ON_PRIMARY, invalidation_reason="wal_removed"),)), [], id="it is invalidated"
        ),
        pytest.param(with_slots((), (LEFT,)), [], id="on the primary"),
        pytest.param(with_slots((LEFT,), receiver=None), [], id="it follows nobody"),
        pytest.param(with_slots((LEFT,), receiver=replace(FROM_2, streaming=False)), [], id="it does not stream"),
        pytest.param(with_slots((LEFT,), receiver=replace(FROM_2, upstream=3)), [], id="it follows another standby"),
        pytest.param(with_slots((LEFT,), in_recovery=False, receiver=None), [], id="a stale primary"),
        pytest.param(with_slots((replace(LEFT, name="other"), LEFT)), [DROP], id="beside another"),
    ],
)
def test_what_is_dropped(state: ClusterState, said: list[str]) -> None:
    found = steps(state)
    assert [step.what for step in found] == said
    assert all(step.helper and step.node == 1 and step.do == Sql(1, failover_slots.DROP, ("sub",)) for step in found)


@pytest.mark.parametrize(
    ("text", "syncs", "written"),
    [
        ("host=10.0.0.12 user=repmgr", "on", True),
        ("host=10.0.0.12 user=repmgr", "off", True),
        ("host=10.0.0.12 user=repmgr", None, False),
        ("postgresql://repmgr@10.0.0.12:5432", "on", True),
        ("host=10.0.0.12 dbname=app", "on", False),
        ("host=10.0.0.12 dbname=''", "on", True),
        ("host=10.0.0.12 password=hunter2", "on", False),
        ("postgresql://repmgr:hunter2@10.0.0.12", "on", False),
        ("host=10.0.0.12 sslpassword=hunter2", "on", False),
        ("host=10.0.0.12 no_such_option=1", "on", False),
        ("host=10.0.0.12 application_name='a\nb'", "on", False),
        (f"host=10.0.0.12 application_name={'x' * 5000}", "on", False),
        ("", "on", False),
        (None, "on", False),
        (5, "on", False),
    ],
)
def test_which_conninfo_is_written_again(text: Any, syncs: str | None, written: bool) -> None:
    host = promoted()
    host.nodes[1].primary_conninfo, host.nodes[1].syncs = text, syncs
    seen = failover_slots.observe(Config(), STATE, host)
    assert list(seen) == [1] * written
    found = steps(STATE, dict(seen))
    assert len(found) == 2 * written
    assert "hunter2" not in f"{seen}{found}"
    for step in found:
        apply(step, host)
    if written:
        assert conninfo(host.nodes[1].primary_conninfo).dbname == "repmgr"
        assert failover_slots.observe(Config(), STATE, host) == {}


@pytest.mark.parametrize("value", ["it's", r"C:\x", "100%s", "a b", "'", "\\", "%", "''", r"\'"])
def test_whatever_a_conninfo_holds_stays(value: str) -> None:
    before = sync.make_conninfo(host="10.0.0.12", application_name=value)
    host = promoted()
    host.nodes[1].primary_conninfo = before
    for step in steps(STATE, dict(failover_slots.observe(Config(), STATE, host))):
        apply(step, host)
    words = sync.conninfo_to_dict(host.nodes[1].primary_conninfo)
    assert words == {"host": "10.0.0.12", "application_name": value, "dbname": "repmgr"}


def test_only_those_that_stream_from_the_primary_are_asked() -> None:
    class Counting(FakeHost):
        asked: list[int] = []

        def fetch_each(self, queries: Any, limit: float) -> Any:
            queries = list(queries)
            self.asked += [sql.node for sql in queries if sql.statement == ASK]
            return super().fetch_each(queries, limit)

    host = Counting()
    failover_slots.observe(Config(), STATE, host)
    failover_slots.observe(Config(), with_slots(receiver=None), host)
    assert host.asked == [1]


def test_a_node_that_does_not_answer_delays_no_other() -> None:
    host = FakeHost()
    host.lose(1)
    assert failover_slots.observe(Config(), STATE, host) == {}


def test_a_standby_that_was_promoted_meanwhile_keeps_its_slot() -> None:
    host = promoted()
    host.nodes[1].slots = {"sub": FakeSlot(physical=False, failover=True)}
    (step,) = steps(with_slots((LEFT,)))
    host.nodes[1].in_recovery = False
    with pytest.raises(OperationFailed, match="not seen"):
        apply(step, host)
    assert "sub" in host.nodes[1].slots


def test_the_steps_lead_there() -> None:
    """What the nodes say is read, planned, done, and then there is nothing left to do."""
    host = promoted()
    host.nodes[1].slots = {"sub": FakeSlot(physical=False, failover=True), "other": FakeSlot()}
    host.nodes[2].slots = {"sub": FakeSlot(physical=False, failover=True, active=True)}
    two = replace(CLUSTER, nodes={n: CLUSTER.nodes[n] for n in (1, 2)})

    def state() -> ClusterState:
        return ClusterState(two, 2, 2, {seen.node: seen for seen in observe(two, host)})

    def missing() -> list[Step]:
        return failover_slots.plan(Config(), state(), failover_slots.observe(Config(), state(), host))

    assert [step.kind for step in missing()] == ["set_primary_conninfo", "reload", "drop_slot"]
    for step in missing():
        apply(step, host)
    assert missing() == []
    assert list(host.nodes[1].slots) == ["other"]
    assert list(host.nodes[2].slots) == ["sub"]


@pytest.mark.parametrize(
    ("state", "codes"),
    [
        (with_slots((SYNCED,)), []),
        (with_slots((SYNCED,), ()), []),
        (with_slots(), ["slot_not_synced"]),
        (with_slots((replace(SYNCED, temporary=True),)), ["slot_not_synced"]),
        (with_slots((replace(SYNCED, invalidation_reason="wal_removed"),)), ["slot_not_synced"]),
        (with_slots((LEFT,)), ["slot_not_synced"]),
        (with_slots((LEFT,), ()), ["slot_left_over"]),
        (with_slots((), (replace(ON_PRIMARY, wal_status="lost"),)), ["logical_slot_lost"]),
        (with_slots((), (replace(ON_PRIMARY, failover=False),)), []),
        (with_slots(receiver=None), []),
    ],
)
def test_what_cannot_be_mended_is_said(state: ClusterState, codes: list[str]) -> None:
    found = list(failover_slots.warnings(Config(), state))
    assert [problem.code for problem in found] == codes
    assert all(problem.hint for problem in found)


SOME_SLOT = st.builds(
    FakeSlot,
    **{name: st.booleans() for name in ("physical", "active", "reserved", "failover", "synced", "temporary")},
    invalidated=st.sampled_from(["", "wal_removed"]),
)
SOME_SLOTS = st.dictionaries(st.sampled_from(["a", "b", "c"]), SOME_SLOT, max_size=3)


@given(on_1=SOME_SLOTS, on_2=SOME_SLOTS, streams=st.booleans())
def test_whatever_slots_there_are(on_1: dict[str, FakeSlot], on_2: dict[str, FakeSlot], streams: bool) -> None:
    """Nothing is lost but what a former primary has left of a slot that lives on."""
    host = promoted()
    host.nodes[1].slots, host.nodes[2].slots = dict(on_1), dict(on_2)
    host.nodes[1].upstream = 2 if streams else None
    two = replace(CLUSTER, nodes={number: CLUSTER.nodes[number] for number in (1, 2)})
    state = ClusterState(two, 2, 2, {seen.node: seen for seen in observe(two, host)})
    for step in failover_slots.plan(Config(), state, failover_slots.observe(Config(), state, host)):
        apply(step, host)
    assert host.nodes[2].slots == on_2
    for name in on_1.keys() - host.nodes[1].slots.keys():
        gone, lives = on_1[name], on_2[name]
        assert streams
        assert not (gone.physical or gone.active or gone.synced or gone.temporary)
        assert not (lives.physical or lives.temporary or lives.invalidated)
        assert gone.failover and lives.failover and lives.reserved
    assert all(host.nodes[1].slots[name] == on_1[name] for name in host.nodes[1].slots)


def test_what_was_read_is_written_before_anything_that_takes_time() -> None:
    three = replace(STATE.states[1], node=3, slots=(LEFT,))
    state = with_slots((LEFT,))
    state = replace(state, states={**state.states, 3: three})
    seen = {node: conninfo(f"host=10.0.0.12 application_name=db{node}") for node in (1, 3)}
    kinds = [(step.kind, step.node) for step in steps(state, seen)]
    assert kinds[:2] == [("set_primary_conninfo", 1), ("set_primary_conninfo", 3)]
    assert sorted(kinds[2:]) == [("drop_slot", 1), ("drop_slot", 3), ("reload", 1), ("reload", 3)]
