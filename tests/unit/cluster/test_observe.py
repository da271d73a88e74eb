"""What the nodes say: rows as PostgreSQL 15 gives them, as older ones do, and as a role without rights sees them."""

from __future__ import annotations

from typing import Any

import pytest

from repmgr_hooks.cluster.observe import LOOK, NodeState, Registered, Slot, WalReceiver, WalSender, observe
from repmgr_hooks.cluster.wal import position
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.system.steps import Rows, Sql
from tests.fake import FakeHost

MAIN = Cluster(
    nodes={1: Node("10.0.0.11"), 2: Node("10.0.0.12"), 9: Node("10.0.0.19", witness=True)},
    gateway=Gateway("10.0.0.20", {"app": 54322}),
)
SYSTEM = "7300000000000000001"

SLOT = {
    "slot_name": "barman",
    "plugin": None,
    "slot_type": "physical",
    "datoid": None,
    "database": None,
    "temporary": False,
    "active": True,
    "active_pid": 4711,
    "xmin": None,
    "catalog_xmin": None,
    "restart_lsn": "0/5000148",
    "confirmed_flush_lsn": None,
    "wal_status": "reserved",
    "safe_wal_size": None,
    "two_phase": False,
}
SENDER = {
    "pid": 4711,
    "usesysid": 16384,
    "usename": "streaming_barman",
    "application_name": "barman_receive_wal",
    "client_addr": "10.0.0.20",
    "client_hostname": None,
    "client_port": 52110,
    "backend_start": "2026-11-20T03:00:00.123456+00:00",
    "backend_xmin": None,
    "state": "streaming",
    "sent_lsn": "0/5000148",
    "write_lsn": "0/5000148",
    "flush_lsn": "0/5000000",
    "replay_lsn": None,
    "age": 12.5,
    "sync_state": "async",
    "reply_time": "2026-11-20T03:00:01.123456+00:00",
}
RECEIVER = {
    "pid": 812,
    "status": "streaming",
    "receive_start_lsn": "0/3000000",
    "receive_start_tli": 1,
    "written_lsn": "0/5000148",
    "flushed_lsn": "0/5000148",
    "received_tli": 2,
    "latest_end_lsn": "0/5000148",
    "slot_name": "repmgr_slot_2",
    "sender_host": "10.0.0.11",
    "sender_port": 5432,
    "conninfo": "user=repmgr passfile=/var/lib/postgresql/.pgpass host=10.0.0.11",
}
SEGMENT = 16 * 1024 * 1024
NODES = [[1, "primary", True, None, 100, "default"], [2, "standby", True, 1, 100, "default"]]


class Answers(FakeHost):
    """A world whose nodes answer a look with these rows."""

    def __init__(self, rows: dict[int, tuple[Any, ...]]) -> None:
        super().__init__()
        self.rows = rows

    def fetch_each(self, queries: Any, limit: float) -> dict[int, Rows | OperationFailed]:
        asked: list[Sql] = list(queries)
        assert {sql.statement for sql in asked} == {LOOK}
        assert limit == MAIN.postgres.timeout
        silent = OperationFailed("node 9: connection refused")
        return {sql.node: [self.rows[sql.node]] if sql.node in self.rows else silent for sql in asked}


def primary(**changes: Any) -> tuple[Any, ...]:
    """The row of a primary."""
    row = {"recovery": False, "timeline": 2, "system": SYSTEM, "lsn": "0/5000148", "receiver": None}
    row |= {"slots": [SLOT], "senders": [SENDER], "nodes": NODES, "segment": SEGMENT}
    row |= {"replayed": None, "paused": False} | changes
    return tuple(row.values())


def standby(**changes: Any) -> tuple[Any, ...]:
    """The row of a standby."""
    row = {"recovery": True, "receiver": RECEIVER, "slots": None, "senders": None, "replayed": "0/5000100"}
    return primary(**{**row, **changes})


def seen(*rows: tuple[Any, ...]) -> dict[int, NodeState]:
    """What is seen of nodes 1, 2, 9 when they answer so."""
    return {state.node: state for state in observe(MAIN, Answers(dict(zip((1, 2, 9), rows, strict=False))))}


def test_a_primary_and_its_standby() -> None:
    states = seen(primary(), standby())
    registered = (
        Registered(1, "primary", True, None, 100, "default"),
        Registered(2, "standby", True, 1, 100, "default"),
    )
    assert states[1] == NodeState(
        1,
        in_recovery=False,
        timeline=2,
        system_identifier=SYSTEM,
        lsn=0x5000148,
        slots=(Slot("barman", True, 4711, 0x5000148, "reserved"),),
        senders=(WalSender(4711, "barman_receive_wal", "10.0.0.20", "streaming", 0x5000000, 12.5),),
        registered=registered,
    )
    assert states[2] == NodeState(
        2,
        timeline=2,
        system_identifier=SYSTEM,
        lsn=0x5000148,
        receiver=WalReceiver("10.0.0.11", 1, True, 2),
        registered=registered,
        replayed=0x5000100,
    )
    assert (states[1].made_by_repmgr, states[2].made_by_repmgr) == (True, False)
    assert states[1].sender("barman") == states[1].senders[0]


def test_a_node_that_does_not_answer() -> None:
    state = seen(primary(), standby())[9]
    assert state == NodeState(9, error="node 9: connection refused", witness=True)
    assert (state.reachable, state.is_primary, str(state)) == (False, False, "node 9: connection refused")


def test_the_nodes_come_in_the_order_of_their_numbers() -> None:
    turned = Cluster(dict(reversed(MAIN.nodes.items())), MAIN.gateway)
    assert [state.node for state in observe(turned, Answers({}))] == [1, 2, 9]


def test_what_a_role_without_pg_monitor_sees() -> None:
    """PostgreSQL's views show it who is there, and null for the rest."""
    receiver = dict.fromkeys(RECEIVER) | {"pid": 812}
    kept = ("pid", "usesysid", "usename", "application_name")
    sender = dict.fromkeys(SENDER) | {name: SENDER[name] for name in kept}
    states = seen(primary(senders=[sender]), standby(receiver=receiver))
    assert states[1].senders == (WalSender(4711, "barman_receive_wal", "", "", None),)
    assert states[2].receiver is None


def test_postgresql_12_has_no_wal_status() -> None:
    slot = {name: value for name, value in SLOT.items() if name not in ("wal_status", "safe_wal_size", "two_phase")}
    (found,) = seen(primary(slots=[slot]))[1].slots
    assert (found.wal_status, found.reserved) == ("", True)


def test_postgresql_18_says_why_it_has_invalidated_a_slot() -> None:
    """As recorded; restart_lsn stays, other than for WAL that is removed."""
    new = {"two_phase_at": None, "inactive_since": "2026-11-26T07:49:50.728948+00:00", "conflicting": None}
    slot = {**SLOT, **new, "active_pid": None, "wal_status": "lost", "invalidation_reason": "idle_timeout"}
    (found,) = seen(primary(slots=[slot | {"failover": False, "synced": False}]))[1].slots
    assert (found.invalidation_reason, found.reserved) == ("idle_timeout", False)


@pytest.mark.parametrize("odd", [{}, {"synced": None}, {"synced": "yes"}, {"synced": 1}])
def test_logical_slots_that_standbys_keep_in_sync(odd: dict[str, object]) -> None:
    """PostgreSQL 17 and newer; what others say of it keeps no node from being the primary."""
    logical = SLOT | {"slot_type": "logical", "failover": True, "synced": True}
    (found,) = seen(primary(slots=[logical]))[1].slots
    assert (found.failover, found.synced, found.temporary) == (True, True, False)
    older = {name: value for name, value in logical.items() if name not in ("failover", "synced")}
    (found,) = seen(primary(slots=[older | odd]))[1].slots
    assert (found.failover, found.synced, found.temporary) == (False, False, False)


def test_postgresql_10_does_not_say_who_sends() -> None:
    receiver = {name: value for name, value in RECEIVER.items() if not name.startswith("sender_")}
    assert seen(primary(), standby(receiver=receiver))[2].receiver == WalReceiver("", 1, True, 2), "repmgr.nodes does"


@pytest.mark.parametrize(
    ("changes", "receiver"),
    [
        ({"status": "waiting"}, WalReceiver("10.0.0.11", 1, False, 2)),
        ({"sender_host": "10.0.0.99"}, WalReceiver("10.0.0.99", 1, True, 2)),
        ({"sender_host": "/run/postgresql"}, WalReceiver("/run/postgresql", 1, True, 2)),
    ],
)
def test_who_sends(changes: dict[str, Any], receiver: WalReceiver) -> None:
    """A sender that we know under another address is the one that repmgr has registered."""
    assert seen(primary(), standby(receiver=RECEIVER | changes))[2].receiver == receiver


@pytest.mark.parametrize(
    ("changes", "reserved"),
    [
        ({}, True),
        ({"wal_status": "extended"}, True),
        ({"wal_status": "unreserved"}, True),
        ({"restart_lsn": None, "wal_status": None}, False),
        ({"restart_lsn": None, "wal_status": "lost"}, False),
        ({"wal_status": "lost"}, False),
    ],
)
def test_whether_a_slot_holds_wal(changes: dict[str, Any], reserved: bool) -> None:
    found = seen(primary(slots=[SLOT | changes]))[1].slot("barman")
    assert found and found.reserved is reserved


@pytest.mark.parametrize(("xmin", "keeps"), [(None, False), ("745", True)])
def test_a_slot_that_keeps_dead_rows(xmin: str | None, keeps: bool) -> None:
    (found,) = seen(primary(slots=[SLOT | {"xmin": xmin}]))[1].slots
    assert found.xmin is keeps


def test_logical_slots_beside_barmans_and_who_uses_which() -> None:
    logical = SLOT | {"slot_name": "audit", "slot_type": "logical", "plugin": "pgoutput", "active_pid": 9}
    other = SENDER | {"pid": 9, "application_name": "audit", "client_addr": None}
    state = seen(primary(slots=[logical, SLOT], senders=[other, SENDER]))[1]
    assert [(slot.name, slot.physical) for slot in state.slots] == [("audit", False), ("barman", True)]
    assert [sender.client for sender in state.senders] == ["", "10.0.0.20"]
    barman, audit = state.sender("barman"), state.sender("audit")
    assert barman and audit and (barman.pid, audit.pid) == (4711, 9)
    assert state.slot("missing") is state.sender("missing") is None


def test_a_slot_that_nobody_uses_has_no_sender() -> None:
    """Nor one whose user says nothing of itself."""
    state = seen(primary(slots=[SLOT | {"active": False, "active_pid": None}], senders=[SENDER | {"pid": 5}]))[1]
    assert state.sender("barman") is None


def test_a_node_that_was_just_cloned_knows_little() -> None:
    state = seen(primary(), standby(lsn=None, receiver=None, nodes=None))[2]
    assert (state.lsn, state.receiver, state.registered, state.registered_primaries) == (0, None, (), ())


@pytest.mark.parametrize(
    ("node", "rows", "witness"),
    [
        (1, NODES, False),
        (1, [[1, "witness", True, 2, 100, "default"], [2, "primary", True, None, 100, "default"]], True),
        (1, [[1, "primary", True, None, 100, "default"], [2, "witness", True, 1, 100, "default"]], False),
        (9, NODES, True),
    ],
    ids=["none", "as repmgr.nodes says", "another one", "as the configuration says"],
)
def test_who_is_a_witness(node: int, rows: list[list[Any]], witness: bool) -> None:
    state = seen(*[primary(nodes=rows)] * 3)[node]
    assert state.witness is witness
    assert state.is_primary is not witness
    assert str(state) == f"node {node}: " + ("witness" if witness else "primary, timeline 2")


@pytest.mark.parametrize(
    ("rows", "primaries", "made_by_repmgr"),
    [
        (NODES, (1,), True),
        ([[1, "primary", False, None, 100, "default"], [2, "primary", True, None, 100, "default"]], (2,), False),
        ([[1, "primary", True, None, 100, "default"], [2, "primary", True, None, 100, "default"]], (1, 2), False),
        ([[1, "standby", True, 2, 100, "default"]], (), False),
        ([], (), False),
    ],
)
def test_whom_the_metadata_names(rows: list[list[Any]], primaries: tuple[int, ...], made_by_repmgr: bool) -> None:
    state = seen(primary(nodes=rows))[1]
    assert (state.registered_primaries, state.made_by_repmgr) == (primaries, made_by_repmgr)


@pytest.mark.parametrize(
    ("lsn", "bytes_"), [(None, None), ("0/0", 0), ("0/5000148", 83886408), ("FFFFFFFF/FFFFFFFF", 2**64 - 1)]
)
def test_positions(lsn: str | None, bytes_: int | None) -> None:
    assert position(lsn) == bytes_
