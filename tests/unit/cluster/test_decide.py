"""Which node is the primary: the table of the cases, and properties with an oracle of their own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from repmgr_hooks.cluster.decide import PrimaryDecision, decide
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import NodeState, Registered, WalReceiver
from repmgr_hooks.cluster.reasons import Reason, ReasonCode

SYSTEM = "7300000000000000001"
OTHER_SYSTEM = "7300000000000000002"
NODE_1 = LastKnownPrimary(1, 1, SYSTEM)
"""Node 1 was the primary, on timeline 1."""


def metadata(named: Iterable[int], nodes: Iterable[int] = (1, 2, 3)) -> tuple[Registered, ...]:
    """``repmgr.nodes`` with these active primaries."""
    primaries = tuple(named)
    return tuple(
        Registered(node, "primary" if node in primaries else "standby", True, None)
        for node in sorted({*nodes, *primaries})
    )


def primary(node: int, timeline: int, named: tuple[int, ...] | None = None) -> NodeState:
    """A node out of recovery; by default repmgr made it the primary."""
    rows = metadata((node,) if named is None else named)
    return NodeState(
        node, in_recovery=False, timeline=timeline, system_identifier=SYSTEM, registered=rows, lsn=timeline
    )


def standby(node: int, timeline: int, named: tuple[int, ...] = (1,), follows: int | None = None) -> NodeState:
    """A node in recovery that receives WAL from ``follows``."""
    receiver = WalReceiver(f"10.0.0.1{follows}", follows, True, timeline) if follows else None
    return NodeState(node, timeline=timeline, system_identifier=SYSTEM, registered=metadata(named), receiver=receiver)


def witness(node: int, timeline: int = 1, named: tuple[int, ...] = (1,)) -> NodeState:
    """A witness is a cluster of its own: never in recovery, with a system identifier of its own."""
    return replace(primary(node, timeline, named), system_identifier=OTHER_SYSTEM, witness=True)


def silent(node: int) -> NodeState:
    return NodeState(node, error=f"node {node}: connection timeout expired")


def whys(decision: PrimaryDecision) -> list[tuple[ReasonCode, tuple[int, ...]]]:
    """What stands beside the verdict."""
    return [(note.code, note.nodes) for note in decision.notes]


@pytest.mark.parametrize(
    ("states", "last_known", "node", "why"),
    [
        pytest.param([primary(1, 1)], LastKnownPrimary(), 1, ReasonCode.ONLY, id="a single node"),
        pytest.param([primary(1, 1), standby(2, 1)], LastKnownPrimary(), 1, ReasonCode.ONLY, id="primary and standby"),
        pytest.param(
            [standby(1, 7, (2,)), primary(2, 7)], LastKnownPrimary(), 2, ReasonCode.ONLY, id="the other way round"
        ),
        pytest.param([primary(1, 1), standby(2, 1)], NODE_1, 1, ReasonCode.ONLY, id="as it was"),
        pytest.param([silent(1), primary(2, 2)], NODE_1, 2, ReasonCode.ONLY, id="failover"),
        pytest.param(
            [silent(1), primary(2, 2)], LastKnownPrimary(), 2, ReasonCode.ONLY, id="failover before we were installed"
        ),
        pytest.param(
            [standby(1, 1), primary(2, 2)], NODE_1, 2, ReasonCode.ONLY, id="a standby is still behind the switchpoint"
        ),
        pytest.param([primary(1, 1), primary(2, 2)], NODE_1, 2, ReasonCode.NEWEST, id="the old primary still runs"),
        pytest.param(
            [primary(1, 1), primary(2, 2), primary(3, 3)], LastKnownPrimary(), 3, ReasonCode.NEWEST, id="three of them"
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2), standby(3, 1)], LastKnownPrimary(), 2, ReasonCode.NEWEST, id="and a standby"
        ),
        # Ways in which an event lies, is missing or doubled (repmgr-events.md, sections 0 and 4).
        pytest.param(
            [silent(1), primary(2, 2, named=(1,))],
            NODE_1,
            2,
            ReasonCode.ONLY,
            id="standby_promote failed: the metadata names the dead one",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, named=(1,))],
            replace(NODE_1, promoted=frozenset({2})),
            2,
            ReasonCode.NEWEST,
            id="standby_promote failed, and the old primary is back: repmgr has told the hook",
        ),
        pytest.param(
            [primary(1, 1), standby(2, 1)],
            replace(NODE_1, promoted=frozenset({2})),
            1,
            ReasonCode.ONLY,
            id="repmgrd_promote_error comes as a success: node 2 is a standby",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, named=(1,)), primary(3, 3, named=(1,))],
            replace(NODE_1, promoted=frozenset({2})),
            2,
            ReasonCode.KEPT,
            id="repmgr promoted one that is not the newest",
        ),
        pytest.param(
            [standby(1, 1, (2,)), primary(2, 2)],
            NODE_1,
            2,
            ReasonCode.ONLY,
            id="switchover without node_rejoin, not attached",
        ),
        pytest.param(
            [standby(1, 2, (2,), follows=2), primary(2, 2)],
            NODE_1,
            2,
            ReasonCode.ONLY,
            id="switchover without node_rejoin",
        ),
        pytest.param(
            [silent(1), primary(2, 2, named=(1,)), standby(3, 1)],
            NODE_1,
            2,
            ReasonCode.ONLY,
            id="pg_promote by hand, no event, after the primary was lost",
        ),
        pytest.param(
            [standby(1, 1), primary(2, 2, named=(1,)), standby(3, 1, follows=1)],
            NODE_1,
            2,
            ReasonCode.ONLY,
            id="pg_promote by hand after the primary was made a standby by hand",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, named=(1,))],
            NODE_1,
            1,
            ReasonCode.KEPT,
            id="pg_promote by hand, no event, beside a healthy primary",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, named=(1,)), standby(3, 2, follows=2)],
            NODE_1,
            1,
            ReasonCode.KEPT,
            id="and a standby follows the wrong one",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, named=(1,))],
            replace(NODE_1, primary=2),
            2,
            ReasonCode.SO_FAR,
            id="clients are there",
        ),
        pytest.param(
            [silent(1), primary(2, 2), standby(3, 1, follows=1)],
            NODE_1,
            2,
            ReasonCode.ONLY,
            id="a standby that has not followed yet: repmgr promoted the other",
        ),
        pytest.param(
            [silent(1), primary(2, 2, named=(1,)), standby(3, 1, follows=1)],
            replace(NODE_1, promoted=frozenset({2})),
            2,
            ReasonCode.ONLY,
            id="the same, and only the event says so",
        ),
        # Witnesses.
        pytest.param([primary(1, 1), witness(2)], NODE_1, 1, ReasonCode.ONLY, id="a witness is out of recovery too"),
        pytest.param(
            [primary(1, 1), witness(2, 9, (2,))], LastKnownPrimary(), 1, ReasonCode.ONLY, id="whatever its timeline"
        ),
        pytest.param(
            [silent(1), primary(2, 2), witness(3)], NODE_1, 2, ReasonCode.ONLY, id="failover beside a witness"
        ),
    ],
)
def test_the_primary_is_known(
    states: list[NodeState], last_known: LastKnownPrimary, node: int, why: ReasonCode
) -> None:
    decision = decide(states, last_known)
    (timeline,) = [state.timeline for state in states if state.node == node]
    assert (decision.primary, decision.timeline, decision.reason.code) == (node, timeline, why)
    assert decision.states == tuple(states)


FOREIGN = replace(standby(2, 1), system_identifier=OTHER_SYSTEM)
SEEN_2 = LastKnownPrimary(2, 2, SYSTEM)


@pytest.mark.parametrize(
    ("states", "last_known", "reason"),
    [
        pytest.param([], LastKnownPrimary(), Reason(ReasonCode.NOBODY), id="no node at all"),
        pytest.param([standby(1, 1), standby(2, 1)], NODE_1, Reason(ReasonCode.NOBODY), id="standbys only"),
        pytest.param([silent(1), silent(2)], NODE_1, Reason(ReasonCode.UNHEARD, (1, 2)), id="nobody answers"),
        pytest.param(
            [silent(1), standby(2, 1)], NODE_1, Reason(ReasonCode.UNHEARD, (1,)), id="repmgr has not promoted yet"
        ),
        pytest.param([silent(1), witness(2)], NODE_1, Reason(ReasonCode.UNHEARD, (1,)), id="a witness is no primary"),
        pytest.param(
            [silent(1), standby(2, 1)],
            replace(NODE_1, promoted=frozenset({2})),
            Reason(ReasonCode.UNHEARD, (1,)),
            id="an event alone makes no primary",
        ),
        pytest.param(
            [primary(1, 1), standby(2, 2)], LastKnownPrimary(), Reason(ReasonCode.BEHIND, (1,), 2), id="a newer standby"
        ),
        pytest.param([primary(1, 1), silent(2)], SEEN_2, Reason(ReasonCode.BEHIND, (1,), 2), id="back from the dead"),
        pytest.param(
            [primary(1, 1), silent(2)],
            replace(SEEN_2, primary=1),
            Reason(ReasonCode.BEHIND, (1,), 2),
            id="restored from a backup: the same node, an older timeline",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2), standby(3, 3)],
            LastKnownPrimary(),
            Reason(ReasonCode.BEHIND, (1, 2), 3),
            id="both too old",
        ),
        pytest.param([primary(1, 2), primary(2, 2)], NODE_1, Reason(ReasonCode.TWINS, (1, 2), 2), id="equal timelines"),
        pytest.param(
            [primary(1, 1), primary(2, 1)], NODE_1, Reason(ReasonCode.TWINS, (1, 2), 1), id="also with the known one"
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, (1,))],
            LastKnownPrimary(),
            Reason(ReasonCode.UNCLEAR, (1, 2)),
            id="by hand, unknown",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, ())],
            LastKnownPrimary(),
            Reason(ReasonCode.UNCLEAR, (1, 2)),
            id="names no primary",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, (1, 2))],
            LastKnownPrimary(),
            Reason(ReasonCode.UNCLEAR, (1, 2)),
            id="metadata names both",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 3, (1,))],
            LastKnownPrimary(1, 2, SYSTEM),
            Reason(ReasonCode.UNCLEAR, (1, 2)),
            id="the known primary is older than it was",
        ),
        pytest.param(
            [silent(1), primary(2, 2, named=(1,)), standby(3, 1, follows=1)],
            NODE_1,
            Reason(ReasonCode.FOLLOWED, (2,)),
            id="only we do not see the primary",
        ),
        pytest.param(
            [standby(1, 1), replace(primary(2, 1), system_identifier=OTHER_SYSTEM)],
            NODE_1,
            Reason(ReasonCode.FOREIGN, (2,)),
            id="a foreign primary beside a standby of ours",
        ),
        pytest.param(
            [primary(1, 1), FOREIGN], LastKnownPrimary(), Reason(ReasonCode.SYSTEMS), id="two systems, none is known"
        ),
        pytest.param(
            [replace(primary(1, 1), system_identifier=OTHER_SYSTEM)],
            NODE_1,
            Reason(ReasonCode.FOREIGN, (1,)),
            id="a foreign primary",
        ),
    ],
)
def test_the_primary_is_unknown(states: list[NodeState], last_known: LastKnownPrimary, reason: Reason) -> None:
    decision = decide(states, last_known)
    assert (decision.primary, decision.timeline, decision.reason) == (None, 0, reason)
    assert decision.states == tuple(states)


@pytest.mark.parametrize(
    ("follower", "node"),
    [
        (replace(standby(3, 1, follows=1), error="node 3: connection refused"), 2),
        (replace(standby(3, 1), receiver=WalReceiver("10.0.0.11", 1, False, 1)), 2),
        (standby(3, 1, follows=2), 2),
        (standby(3, 1, follows=1), None),
    ],
    ids=["silent", "waiting, not streaming", "of another", "streaming"],
)
def test_only_a_standby_that_receives_from_it_now_speaks_for_a_silent_primary(
    follower: NodeState, node: int | None
) -> None:
    assert decide([silent(1), primary(2, 2, named=(1,)), follower], NODE_1).primary == node


@pytest.mark.parametrize("recovers", [True, False])
@pytest.mark.parametrize("timeline", [1, 9])
def test_a_foreign_node_beside_our_primary_has_no_say(recovers: bool, timeline: int) -> None:
    """It counts as one that does not answer: no port leads to it, and no slot of it is touched."""
    foreign = replace(FOREIGN, in_recovery=recovers, timeline=timeline)
    for states in ([primary(1, 1), foreign], [foreign, primary(1, 1), standby(3, 1, follows=1)]):
        found = decide(states, NODE_1)
        assert (found.primary, found.timeline, found.stale_primaries) == (1, 1, ())
        assert Reason(ReasonCode.STRANGER, (2,)) in found.notes
        assert ReasonCode.SILENT not in [note.code for note in found.notes]
        (state,) = [state for state in found.states if state.node == 2]
        assert not (state.reachable or state.is_primary)
        assert found.strange_primaries == (() if recovers else (2,))
    found = decide([silent(1), primary(3, 2), foreign], NODE_1)
    assert found.primary == 3, "the promotion of another one is followed"


def test_a_node_that_does_not_let_us_in_is_no_silent_one() -> None:
    """Its connections are all taken, or our password has expired: to promote another would split the cluster."""
    shut = replace(silent(1), rejected=True)
    found = decide([shut, standby(2, 1, follows=1)], NODE_1)
    assert found.reason == Reason(ReasonCode.SHUT_OUT, (1,))
    assert Reason(ReasonCode.REJECTS, (1,)) in found.notes and "promote nothing" in found.hint
    assert Reason(ReasonCode.SILENT, (1,)) not in found.notes
    assert decide([shut, primary(2, 2)], NODE_1).primary == 2
    standby_shut = replace(silent(2), rejected=True)
    assert decide([silent(1), standby_shut], NODE_1).reason == Reason(ReasonCode.UNHEARD, (1, 2))


def test_a_foreign_node_that_does_not_answer_does_not_count() -> None:
    assert decide([primary(1, 1), replace(FOREIGN, error="timeout")], NODE_1).primary == 1


# -- a primary that swings to and fro ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "most", "node"), [(4, 5, 2), (5, 5, None), (6, 5, None), (99, None, 2)])
def test_after_too_many_changes_the_next_one_is_not_followed(changes: int, most: int | None, node: int | None) -> None:
    decision = decide([silent(1), primary(2, 2)], replace(NODE_1, changes=changes), most)
    assert decision.primary == node
    if node is None:
        assert decision.reason == Reason(ReasonCode.SWINGING, (2,))
        assert decision.hint == "to follow it now: repmgr-hooks reconcile"


def test_the_primary_that_is_there_already_is_no_change() -> None:
    assert decide([primary(1, 1), standby(2, 1)], replace(NODE_1, changes=9), 5).primary == 1


# -- stale primaries ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "last_known", "stale_primaries"),
    [
        pytest.param([primary(1, 1), primary(2, 2)], NODE_1, (1,), id="beside the primary"),
        pytest.param([primary(1, 1), primary(2, 2), primary(3, 3)], NODE_1, (1, 2), id="two beside the primary"),
        pytest.param([primary(1, 1), standby(2, 2)], SEEN_2, (1,), id="older than what was seen"),
        pytest.param([primary(1, 1), silent(2)], SEEN_2, (1,), id="older than what was seen, and nobody else answers"),
        pytest.param(
            [primary(1, 1), silent(2), standby(3, 2, (2,))],
            LastKnownPrimary(),
            (1,),
            id="repmgr has made a standby follow another",
        ),
        pytest.param([primary(1, 1), primary(2, 2), standby(3, 3, (3,))], LastKnownPrimary(), (1, 2), id="both"),
        pytest.param(
            [primary(1, 1), primary(2, 2, (1,)), standby(3, 2, (1,), follows=2)],
            NODE_1,
            (),
            id="a standby follows a mistaken promotion: the primary is well",
        ),
        pytest.param(
            [primary(1, 1), silent(2), standby(3, 2, (1,), follows=2)],
            NODE_1,
            (),
            id="also when we do not see that one",
        ),
        pytest.param([primary(1, 1), silent(2), standby(3, 2, ())], NODE_1, (), id="metadata that names nobody"),
        pytest.param([primary(1, 1), primary(2, 2, (1,))], LastKnownPrimary(), (), id="which one is it"),
        pytest.param([primary(1, 2), primary(2, 2)], NODE_1, (), id="twins"),
        pytest.param([primary(1, 1), witness(2, 3, (2,))], NODE_1, (), id="what a witness says of timelines"),
        pytest.param([witness(1, 1), primary(2, 2)], SEEN_2, (), id="a witness is none"),
        pytest.param([primary(1, 1), FOREIGN], SEEN_2, (1,), id="beside one of another system, it is what it is"),
        pytest.param([primary(1, 1), FOREIGN], replace(SEEN_2, system_identifier=""), (), id="which of two systems"),
        pytest.param(
            [replace(primary(1, 1), system_identifier=OTHER_SYSTEM)], SEEN_2, (), id="the one that was restored anew"
        ),
        pytest.param([standby(1, 1), primary(2, 2)], NODE_1, (), id="a standby is none"),
    ],
)
def test_stale_primaries(
    states: list[NodeState], last_known: LastKnownPrimary, stale_primaries: tuple[int, ...]
) -> None:
    decision = decide(states, last_known)
    assert decision.stale_primaries == stale_primaries
    notes = [note for note in decision.notes if note.code is ReasonCode.STALE_PRIMARY]
    assert [note.nodes for note in notes] == [(node,) for node in stale_primaries]
    timelines = {state.node: state.timeline for state in states}
    assert all(timelines[note.nodes[0]] == note.own < note.timeline for note in notes)


def test_a_held_change_leaves_the_old_primary_a_stale_primary() -> None:
    decision = decide([primary(1, 1), primary(2, 2)], replace(NODE_1, changes=5), 5)
    assert (decision.primary, decision.reason.code, decision.stale_primaries) == (None, ReasonCode.SWINGING, (1,))


# -- what stands beside the verdict ------------------------------------------------------------------------------------

TWO = metadata((1,), (1, 2))


@pytest.mark.parametrize(
    ("states", "notes"),
    [
        pytest.param([replace(primary(1, 1), registered=TWO), standby(2, 1)], [], id="all is well"),
        pytest.param([replace(primary(1, 1), registered=TWO), silent(2)], [(ReasonCode.SILENT, (2,))], id="silent"),
        pytest.param(
            [silent(1), silent(2)], [(ReasonCode.SILENT, (1,)), (ReasonCode.SILENT, (2,))], id="all are silent"
        ),
        pytest.param(
            [replace(primary(1, 1), registered=metadata((1,), (1,))), standby(2, 1)],
            [(ReasonCode.UNREGISTERED, (2,))],
            id="unregistered",
        ),
        pytest.param([primary(1, 1), standby(2, 1)], [(ReasonCode.UNCONFIGURED, (3,))], id="unconfigured"),
        pytest.param(
            [replace(primary(1, 1), registered=(*TWO, Registered(3, "standby", False, 1))), standby(2, 1)],
            [],
            id="unconfigured, and inactive",
        ),
        pytest.param(
            [silent(1), replace(standby(2, 1), registered=metadata((1,), (1, 2, 3, 4)))],
            [(ReasonCode.SILENT, (1,)), (ReasonCode.UNCONFIGURED, (3,)), (ReasonCode.UNCONFIGURED, (4,))],
            id="unconfigured, as a standby has it",
        ),
        pytest.param(
            [silent(1), replace(primary(2, 2), registered=TWO)],
            [(ReasonCode.SILENT, (1,)), (ReasonCode.METADATA, (2,))],
            id="the metadata names the dead one",
        ),
        pytest.param(
            [replace(primary(1, 1), registered=metadata((1, 2), (1, 2))), standby(2, 1)],
            [(ReasonCode.METADATA, (1,))],
            id="the metadata names two",
        ),
        pytest.param(
            [replace(primary(1, 1), registered=()), standby(2, 1)],
            [(ReasonCode.UNREGISTERED, (1,)), (ReasonCode.UNREGISTERED, (2,))],
            id="no metadata at all",
        ),
        pytest.param(
            [replace(primary(1, 1), registered=TWO), replace(primary(2, 2), registered=TWO)],
            [(ReasonCode.BESIDE, (2,))],
            id="promoted beside the primary",
        ),
        pytest.param(
            [replace(primary(1, 1), registered=TWO), replace(primary(2, 2), registered=metadata((2,), (1, 2)))],
            [(ReasonCode.STALE_PRIMARY, (1,))],
            id="stale primary",
        ),
    ],
)
def test_notes(states: list[NodeState], notes: list[tuple[ReasonCode, tuple[int, ...]]]) -> None:
    assert whys(decide(states, NODE_1)) == notes


def test_every_reason_says_which_node_and_leaves_no_gap() -> None:
    for why in ReasonCode:
        reason = Reason(why, (1, 2), 7, 6)
        assert "{" not in f"{reason}{reason.hint}"
        assert ("node 1 and node 2" in str(reason)) == ("{nodes}" in why.words)
        assert ("timeline 7" in str(reason) or " 7" in str(reason)) == ("{timeline}" in why.words)
        assert ";" not in str(reason), "what to do is the hint"


def test_a_stale_primary_is_called_what_everybody_calls_it() -> None:
    decision = decide([primary(1, 1), primary(2, 2)], SEEN_2)
    assert str(decision.notes[0]) == "SPLIT-BRAIN: node 1 is a stale primary (timeline 1 < 2)"
    assert decision.notes[0].hint == "no port leads to node 1; stop it, and rejoin it: repmgr node rejoin"


# -- properties --------------------------------------------------------------------------------------------------------

IDS = st.integers(1, 4)
NAMED = st.lists(IDS, max_size=2, unique=True).map(metadata)
RECEIVERS = st.none() | st.builds(WalReceiver, st.just(""), st.none() | IDS, st.booleans(), st.integers(1, 4))


@st.composite
def seen(draw: st.DrawFn) -> NodeState:
    """A node in any state; most of one system, most answer, some are witnesses."""
    recovery = draw(st.booleans())
    return NodeState(
        draw(IDS),
        error=draw(st.sampled_from(["", "", "", "timeout"])),
        in_recovery=recovery,
        timeline=draw(st.integers(1, 4)),
        system_identifier=draw(st.sampled_from([SYSTEM] * 9 + [OTHER_SYSTEM])),
        receiver=draw(RECEIVERS) if recovery else None,
        registered=draw(NAMED),
        witness=draw(st.sampled_from([False] * 6 + [True])),
    )


CLUSTERS = st.lists(seen(), max_size=4, unique_by=lambda state: state.node)
MEMORIES = st.builds(
    LastKnownPrimary,
    st.none() | IDS,
    st.integers(0, 3),
    st.sampled_from(["", SYSTEM]),
    st.frozensets(IDS, max_size=1),
    st.sampled_from([0, 0, 0, 5]),
)


def of_ours(states: list[NodeState], last_known: LastKnownPrimary) -> list[NodeState]:
    """Those that answer, and are of the system that is known, if one is."""
    return [state for state in answered(states) if last_known.system_identifier in ("", state.system_identifier)]


def named(state: NodeState) -> list[int]:
    """The primaries in a node's metadata."""
    return [row.node for row in state.registered if row.kind == "primary"]


def primary_on(node: int, timeline: int) -> NodeState:
    return NodeState(node, in_recovery=False, timeline=timeline, system_identifier="7300000000000000001")


def answered(states: list[NodeState]) -> list[NodeState]:
    """Those that have a say."""
    return [state for state in states if not state.error and not state.witness]


@given(CLUSTERS, MEMORIES)
def test_a_primary_answered_and_was_out_of_recovery_and_is_no_witness(
    states: list[NodeState], last_known: LastKnownPrimary
) -> None:
    decision = decide(states, last_known, 5)
    if decision.primary is not None:
        (chosen,) = [state for state in states if state.node == decision.primary]
        assert (chosen.error, chosen.in_recovery, chosen.witness) == ("", False, False)
        assert decision.timeline == chosen.timeline


# Node 2 was promoted by hand beside the primary; of node 3 repmgr has said that it is the one now.
@example([primary_on(1, 1), primary_on(2, 3), primary_on(3, 2)], LastKnownPrimary(1, promoted=frozenset({3})))
@given(CLUSTERS, MEMORIES)
def test_a_primary_is_never_older_than_what_was_seen_nor_than_a_node_unless_it_is_kept(
    states: list[NodeState], last_known: LastKnownPrimary
) -> None:
    decision = decide(states, last_known, 5)
    if decision.primary is not None:
        assert decision.timeline >= last_known.timeline
        newer = {state.node for state in of_ours(states, last_known) if state.timeline > decision.timeline}
        if newer and decision.primary != last_known.primary:
            (chosen,) = [state for state in states if state.node == decision.primary]
            assert decision.reason.code is ReasonCode.KEPT and not newer & last_known.promoted
            assert chosen.made_by_repmgr or chosen.node in last_known.promoted
            assert last_known.primary in {state.node for state in of_ours(states, last_known) if state.is_primary}


@given(CLUSTERS, MEMORIES)
def test_nothing_is_chosen_and_nothing_shut_out_that_is_of_another_system(
    states: list[NodeState], last_known: LastKnownPrimary
) -> None:
    systems = {state.node: state.system_identifier for state in answered(states)}
    decision = decide(states, last_known)
    if last_known.system_identifier:
        chosen = {systems[node] for node in (decision.primary, *decision.stale_primaries) if node is not None}
        assert chosen <= {last_known.system_identifier}
    elif len({*systems.values()}) > 1:
        assert (decision.primary, decision.stale_primaries) == (None, ())


@given(CLUSTERS, MEMORIES)
def test_a_node_of_another_system_changes_no_choice_beside_a_primary_of_ours(
    states: list[NodeState], last_known: LastKnownPrimary
) -> None:
    strangers = [state for state in answered(states) if state.system_identifier != last_known.system_identifier]
    ours = [state for state in states if state not in strangers]
    if last_known.system_identifier and any(state.is_primary for state in ours):
        with_them = decide(states, last_known, 5)
        silenced = [replace(state, error="timeout") if state in strangers else state for state in states]
        without = decide(silenced, last_known, 5)
        assert (with_them.primary, with_them.stale_primaries) == (without.primary, without.stale_primaries)


@given(CLUSTERS, MEMORIES)
def test_of_several_only_the_one_that_repmgr_made_or_that_was_there_before_is_chosen(
    states: list[NodeState], last_known: LastKnownPrimary
) -> None:
    out_of_recovery = [state for state in of_ours(states, last_known) if not state.in_recovery]
    decision = decide(states, last_known)
    if len(out_of_recovery) > 1 and decision.primary not in (None, last_known.primary, *last_known.promoted):
        (chosen,) = [state for state in states if state.node == decision.primary]
        assert named(chosen) == [chosen.node]


@given(CLUSTERS, MEMORIES)
def test_a_healthy_primary_is_left_only_for_one_that_repmgr_made(
    states: list[NodeState], last_known: LastKnownPrimary
) -> None:
    healthy = [
        state
        for state in of_ours(states, last_known)
        if state.node == last_known.primary and not state.in_recovery and state.timeline >= last_known.timeline
    ]
    decision = decide(states, last_known, 5)
    if healthy and decision.primary not in (None, last_known.primary):
        (chosen,) = [state for state in states if state.node == decision.primary]
        assert named(chosen) == [chosen.node] or chosen.node in last_known.promoted
        assert chosen.timeline > healthy[0].timeline


@given(CLUSTERS, MEMORIES)
def test_a_stale_primary_is_out_of_recovery_never_the_primary_and_there_is_proof(
    states: list[NodeState], last_known: LastKnownPrimary
) -> None:
    decision = decide(states, last_known, 5)
    assert decision.primary not in decision.stale_primaries
    for state in states:
        if state.node in decision.stale_primaries:
            assert (state.error, state.in_recovery, state.witness) == ("", False, False)
            others = [other for other in answered(states) if other.timeline > state.timeline]
            assert (
                state.timeline < last_known.timeline
                or any(other.node == decision.primary for other in others)
                or any(named(other) and state.node not in named(other) for other in others)
            )


@given(CLUSTERS, MEMORIES)
def test_while_the_primary_swings_no_other_is_followed(states: list[NodeState], last_known: LastKnownPrimary) -> None:
    assert decide(states, replace(last_known, changes=5), 5).primary in (None, last_known.primary)


@given(CLUSTERS, MEMORIES, st.randoms(use_true_random=False))
def test_the_order_of_the_answers_does_not_matter(
    states: list[NodeState], last_known: LastKnownPrimary, random: object
) -> None:
    shuffled = random.sample(states, len(states))  # type: ignore[attr-defined]
    first, second = decide(states, last_known, 5), decide(shuffled, last_known, 5)
    assert replace(first, states=(), notes=()) == replace(second, states=(), notes=())
    assert set(first.notes) == set(second.notes)


@given(CLUSTERS, MEMORIES)
def test_a_silent_node_says_nothing(states: list[NodeState], last_known: LastKnownPrimary) -> None:
    with_silent, without = decide(states, last_known, 5), decide([s for s in states if not s.error], last_known, 5)
    if with_silent.reason.code is ReasonCode.UNHEARD:  # the same, but that there may be one
        with_silent = replace(with_silent, reason=Reason(ReasonCode.NOBODY))
    assert replace(with_silent, states=(), notes=()) == replace(without, states=(), notes=())


def test_a_primary_that_repmgr_has_replaced_is_not_kept_for_a_third_that_somebody_promoted():
    """Node 2 was promoted by repmgr while node 1 could not be seen, and node 3, which followed it, by hand."""
    states = [primary(1, 1), primary(2, 2), primary(3, 3, named=(2,))]
    decision = decide(states, LastKnownPrimary(1, 1, SYSTEM))
    assert (decision.primary, decision.stale_primaries) == (2, (1,))
    assert [note.code for note in decision.notes if note.nodes == (3,)][0] is ReasonCode.BESIDE


def test_a_stray_standby_makes_the_promoted_node_no_stale_one_and_is_named() -> None:
    """It was promoted by mistake, twice, and made a standby again without a rejoin: what it has of repmgr is old."""
    found = decide([silent(1), primary(2, 2), standby(3, 3)], NODE_1)
    assert (found.primary, found.reason.code, found.stale_primaries) == (None, ReasonCode.BEHIND, ())
    assert Reason(ReasonCode.STRAY, (3,), 2, 3) in found.notes
    found = decide([primary(1, 1), standby(2, 1, follows=1), standby(3, 3)], NODE_1)
    assert [note.nodes for note in found.notes if note.code is ReasonCode.STRAY] == [(3,)]


def test_a_standby_that_receives_or_that_repmgr_has_told_of_another_is_no_stray_one() -> None:
    for other in (standby(3, 3, follows=4), standby(3, 3, named=(4,))):
        found = decide([silent(1), primary(2, 2), other], NODE_1)
        assert found.stale_primaries == (2,)
        assert ReasonCode.STRAY not in [note.code for note in found.notes], "it may be all that is left of node 4"
    assert decide([primary(1, 1), standby(2, 1, follows=1), standby(3, 1)], NODE_1).notes == ()
