"""What stands against a switchover: what was seen, and the judgement on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from repmgr_hooks.cluster.decide import decide
from repmgr_hooks.cluster.observe import NodeState, Registered, Slot, WalReceiver, WalSender
from repmgr_hooks.cluster.readiness import Readiness
from repmgr_hooks.event import Event
from repmgr_hooks.journal.holds import Holder
from repmgr_hooks.journal.maintenance import Pause
from repmgr_hooks.journal.rows import Due, RunRow, Waiting
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Readers
from repmgr_hooks.switchover import facts as module
from repmgr_hooks.switchover.facts import Facts
from repmgr_hooks.switchover.on_node import Ran
from repmgr_hooks.switchover.preflight import MOST_LAG, judge, judge_rehearsal
from repmgr_hooks.switchover.record import Record

SHELL = ("ssh", "db")
NODES = {number: Node(f"10.0.0.1{number}", shell=SHELL) for number in (1, 2, 3)}
CLUSTER = Cluster(NODES, Gateway("10.0.0.20", {"barman": 54321, "app": 54322}), Barman("main"), name="main")
NOTHING_DUE = Due()
END = 5 * 2**30
ROWS = tuple(Registered(number, "primary" if number == 1 else "standby", True, None) for number in NODES)
PRIMARY = NodeState(
    1,
    in_recovery=False,
    timeline=3,
    system_identifier="7000000000000000001",
    lsn=END,
    slots=(Slot("barman", True, 77, END, "reserved"),),
    senders=(WalSender(77, "barman_receive_wal", "10.0.0.20", "streaming", END),),
    registered=ROWS,
)


def standby(node: int, **changes: Any) -> NodeState:
    receiver = WalReceiver("10.0.0.11", 1, True, 3)
    state = NodeState(node, timeline=3, system_identifier=PRIMARY.system_identifier, lsn=END, receiver=receiver)
    return replace(state, **changes)


def facts(*states: NodeState, **changes: Any) -> Facts:
    decision = decide(states or (PRIMARY, standby(2), standby(3)))
    made = Facts(CLUSTER, decision, ports=("barman", "app"), readiness=Readiness((2,)), paused={1: False, 2: False})
    return replace(made, **changes)


def failures(seen: Facts, due: Due = NOTHING_DUE) -> set[str]:
    return {item.code for item in judge(seen, due) if item.level == "FAIL"}


def run(ok: bool | None) -> RunRow:
    return RunRow(1, "main", "event", 1, 0.0, 1.0, ok, False, 1, 3, "said")


def test_all_is_well() -> None:
    seen = facts()
    assert failures(seen) == set()
    assert seen.target is not None
    assert seen.target.node == 2, "the one that repmgr would promote"


def test_barmans_port_is_not_held() -> None:
    assert facts(barmans_ports=("barman",)).held == ("app",)


def test_readers_are_not_held() -> None:
    cluster = replace(CLUSTER, readers={"app": Readers(1)})
    assert facts(barmans_ports=("barman",), cluster=cluster).held == ()


UNSEEN = Record(Holder(1, 1, "boot"), 1, 2, 0.0, 0.0, "switch")
AGAINST = {
    "no primary": (facts(standby(1), standby(2)), Due(), "switchover.primary"),
    "the primary itself": (facts(wanted=1), Due(), "switchover.target"),
    "a node that is not there": (facts(wanted=9), Due(), "switchover.target"),
    "a witness": (facts(PRIMARY, standby(2), standby(3, witness=True), wanted=3), Due(), "switchover.target"),
    "several, and none was named": (facts(readiness=Readiness((2, 3))), Due(), "switchover.target"),
    "a standby that is down": (facts(PRIMARY, NodeState(2, "gone"), wanted=2), Due(), "switchover.target"),
    "a standby that receives nothing": (facts(PRIMARY, standby(2, receiver=None)), Due(), "switchover.stream"),
    "a standby of a standby": (
        facts(PRIMARY, standby(2, receiver=WalReceiver("10.0.0.13", 3, True, 3)), wanted=2),
        Due(),
        "switchover.stream",
    ),
    "a standby that is late": (facts(PRIMARY, standby(2, lsn=END - MOST_LAG - 1)), Due(), "switchover.lag"),
    "no way to the standby": (
        facts(cluster=replace(CLUSTER, nodes={**NODES, 2: Node("10.0.0.12")})),
        Due(),
        "switchover.shell",
    ),
    "Barman does not stream": (facts(replace(PRIMARY, senders=()), standby(2)), Due(), "switchover.barman"),
    "Barman is late": (
        facts(replace(PRIMARY, senders=(replace(PRIMARY.senders[0], flushed=END - 2**30),)), standby(2)),
        Due(),
        "switchover.barman",
    ),
    "Barman's slot is gone": (facts(replace(PRIMARY, slots=()), standby(2)), Due(), "switchover.barman"),
    "Barman does not answer": (facts(barman_fails="no such program"), Due(), "switchover.barman"),
    "the service does not run": (facts(listens=False), Due(), "switchover.service"),
    "another gateway has the address": (facts(serves=False), Due(), "switchover.gateway"),
    "another switchover": (facts(running=UNSEEN), Due(), "switchover.running"),
    "maintenance": (facts(), Due(pause=Pause(None, "", 0.0)), "switchover.paused"),
    "a run that failed": (facts(), Due(last=run(False)), "switchover.failed"),
    "a run that goes on": (facts(), Due(last=run(None)), "switchover.pending"),
    "an event that waits": (facts(), Due(waiting=(Waiting(1, Event(2, "standby_follow")),)), "switchover.pending"),
    "too many changes lately": (facts(changes=CLUSTER.flap_limit.changes), Due(), "switchover.flap_limit"),
}


@pytest.mark.parametrize("case", AGAINST)
def test_what_stands_against_it(case: str) -> None:
    seen, due, code = AGAINST[case]
    assert failures(seen, due) == {code}
    assert all(item.message for item in judge(seen, due))
    assert all(item.hint for item in judge(seen, due) if item.level == "FAIL")


def test_a_node_that_does_not_answer_could_be_promoted_meanwhile() -> None:
    """Its repmgrd may be alive, and cannot be paused: two primaries on one timeline."""
    silent = NodeState(3, "timeout expired")
    assert failures(facts(PRIMARY, standby(2), silent)) == {"switchover.silent"}
    inactive = replace(PRIMARY, registered=(*ROWS[:2], replace(ROWS[2], active=False)))
    assert failures(facts(inactive, standby(2), silent)) == set(), "a primary that has failed"
    assert failures(facts(PRIMARY, standby(2), replace(silent, witness=True))) == set()


def test_repmgrd_that_is_paused_is_named_and_hinders_nothing() -> None:
    seen = facts(paused={1: False, 2: True, 3: "node 3: no answer"})
    assert failures(seen) == set()
    assert [item.level for item in judge(seen, Due()) if item.code == "switchover.repmgrd"] == ["WARN", "WARN"]


REFUSAL = "NOTICE: checking\nERROR: number of pending archive files is critical\nDETAIL: 300 pending\nHINT: wait\n"


@pytest.mark.parametrize(
    ("said", "level", "message", "hint"),
    [
        (Ran(0, "INFO: prerequisites are met"), "OK", "repmgr itself says", ""),
        (Ran(12, REFUSAL), "FAIL", "number of pending archive files is critical; 300 pending", "wait"),
        (Ran(127, "sh: 1: repmgr: not found"), "FAIL", "repmgr: not found", ""),
        ("ssh: no route to host", "FAIL", "no route to host", "shell"),
    ],
)
def test_what_repmgr_itself_says(said: Ran | str, level: str, message: str, hint: str) -> None:
    judged = judge_rehearsal(facts(rehearsal=said))
    assert judged.level == level
    assert message in judged.message
    assert hint in judged.hint


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("host=10.0.0.20 port=54321 user=barman", {"54321"}),
        ("postgresql://barman@gateway:54321/postgres", {"54321"}),
        ("host=10.0.0.20", {"5432"}),
        ("host=10.0.0.20,10.0.0.21 port=54321", {"54321"}),
        ("host=10.0.0.11,10.0.0.20 port=5432,54321", {"54321"}),
        ("host=10.0.0.11 port=5432 user=barman", set()),
        ("host=db1 hostaddr=10.0.0.11 port=5432", set()),
        ("host=FD00:0::14 port=5432", set()),
        ("port=5432", set()),
        ("service=barman", set()),
        ("no conninfo", set()),
    ],
)
def test_through_which_ports_barman_comes(text: str, ports: set[str]) -> None:
    """A model of Barman's leads straight to a node, whose port may have the number of one of ours."""
    cluster = replace(CLUSTER, nodes={**CLUSTER.nodes, 4: Node("fd00::14")})
    assert module._ports_here(text, cluster) == ports  # noqa: SLF001
