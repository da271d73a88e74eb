"""Which node is the primary: the table of the cases, and properties with an oracle of their own."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks.decide import decide
from repmgr_hooks.observe import NodeState

SYSTEM = "7300000000000000001"
OTHER_SYSTEM = "7300000000000000002"


def primary(node, timeline, registered=None):
    """A node out of recovery; by default repmgr made it the primary."""
    return NodeState(node, "", False, timeline, SYSTEM, (node,) if registered is None else registered)


def standby(node, timeline, registered=(1,)):
    return NodeState(node, "", True, timeline, SYSTEM, registered)


def silent(node):
    return NodeState(node, error=f"node {node}: connection timeout expired")


@pytest.mark.parametrize(
    ("states", "node", "timeline"),
    [
        pytest.param([primary(1, 1)], 1, 1, id="a single node"),
        pytest.param([primary(1, 1), standby(2, 1)], 1, 1, id="primary and standby"),
        pytest.param([standby(1, 7), primary(2, 7)], 2, 7, id="the other way round"),
        pytest.param([silent(1), primary(2, 2)], 2, 2, id="the old primary is dead"),
        pytest.param([standby(1, 1), primary(2, 2)], 2, 2, id="a standby is still behind the fork"),
        pytest.param([silent(1), primary(2, 2, registered=(1,))], 2, 2, id="promoted, metadata not yet updated"),
        pytest.param([primary(1, 1), primary(2, 2)], 2, 2, id="the old primary still runs, repmgr promoted the new"),
        pytest.param(
            [primary(1, 1), primary(2, 2), primary(3, 3)], 3, 3, id="three of them, repmgr promoted the newest"
        ),
        pytest.param([primary(1, 1), primary(2, 2), standby(3, 1)], 2, 2, id="two of them and a standby"),
    ],
)
def test_the_primary_is_known(states, node, timeline):
    verdict = decide(states, SYSTEM)
    assert (verdict.primary, verdict.timeline) == (node, timeline)
    assert verdict.reason
    assert verdict.states == tuple(states)


@pytest.mark.parametrize(
    ("states", "why"),
    [
        pytest.param([], "no node is out of recovery", id="no node at all"),
        pytest.param([standby(1, 1), standby(2, 1)], "no node is out of recovery", id="standbys only"),
        pytest.param([silent(1), silent(2)], "no node is out of recovery", id="nobody answers"),
        pytest.param([primary(1, 1), standby(2, 2)], "older timeline than 2", id="a dead primary has come back"),
        pytest.param([primary(1, 1), primary(2, 2), standby(3, 3)], "older timeline than 3", id="both are too old"),
        pytest.param([primary(1, 2), primary(2, 2)], "2 nodes are primary on timeline 2", id="equal timelines"),
        pytest.param(
            [primary(1, 1), primary(2, 2, registered=(1,))],
            "repmgr did not promote the newest, node 2",
            id="somebody promoted a standby beside the primary",
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, registered=())], "repmgr did not promote", id="metadata names no primary"
        ),
        pytest.param(
            [primary(1, 1), primary(2, 2, registered=(1, 2))], "repmgr did not promote", id="metadata names both"
        ),
        pytest.param(
            [primary(1, 1), replace(standby(2, 1), system_identifier=OTHER_SYSTEM)], "system", id="a foreign standby"
        ),
        pytest.param([replace(primary(1, 1), system_identifier=OTHER_SYSTEM)], "system", id="a foreign primary"),
    ],
)
def test_the_primary_is_unknown(states, why):
    verdict = decide(states, SYSTEM)
    assert verdict.primary is None
    assert verdict.timeline == 0
    assert why in verdict.reason
    assert verdict.states == tuple(states)


def test_without_an_expected_system_all_nodes_must_agree():
    foreign = replace(standby(2, 1), system_identifier=OTHER_SYSTEM)
    assert decide([primary(1, 1), standby(2, 1)]).primary == 1
    assert decide([primary(1, 1), foreign]).primary is None
    assert decide([primary(1, 1), replace(foreign, error="timeout")]).primary == 1


def test_the_primary_that_clients_are_sent_to_is_kept_when_somebody_promotes_another_by_hand():
    states = [primary(1, 1), primary(2, 2, registered=(1,))]
    verdict = decide(states, SYSTEM, routed_to=1)
    assert (verdict.primary, verdict.timeline) == (1, 1)
    assert decide(states, SYSTEM, routed_to=2).primary == 2


@pytest.mark.parametrize("routed_to", [1, 2])
def test_where_clients_are_sent_does_not_matter_when_repmgr_promoted_the_newest(routed_to):
    assert decide([primary(1, 1), primary(2, 2)], SYSTEM, routed_to).primary == 2


@pytest.mark.parametrize(
    "states",
    [
        [silent(1), standby(2, 1)],
        [standby(1, 1), standby(2, 1)],
        [primary(1, 1), primary(2, 1)],
        [primary(1, 1), standby(2, 2)],
    ],
)
def test_where_clients_are_sent_makes_no_primary(states):
    assert decide(states, SYSTEM, routed_to=1).primary is None


NODES = st.lists(
    st.builds(
        NodeState,
        node=st.integers(1, 5),
        error=st.sampled_from(["", "", "", "timeout"]),
        in_recovery=st.booleans(),
        timeline=st.integers(1, 4),
        system_identifier=st.sampled_from([SYSTEM] * 6 + [OTHER_SYSTEM]),
        registered_primaries=st.lists(st.integers(1, 5), max_size=2, unique=True).map(tuple),
    ),
    max_size=5,
    unique_by=lambda state: state.node,
)
EXPECTED = st.sampled_from(["", SYSTEM])
ROUTED = st.none() | st.integers(1, 5)


@given(NODES, EXPECTED, ROUTED)
def test_a_primary_answered_and_was_out_of_recovery(states, expected, routed_to):
    verdict = decide(states, expected, routed_to)
    if verdict.primary is not None:
        (chosen,) = [state for state in states if state.node == verdict.primary]
        assert chosen.error == ""
        assert not chosen.in_recovery
        assert verdict.timeline == chosen.timeline


@given(NODES, EXPECTED, ROUTED)
def test_a_primary_is_never_older_than_any_node_unless_clients_are_there_already(states, expected, routed_to):
    verdict = decide(states, expected, routed_to)
    if verdict.primary is not None and verdict.primary != routed_to:
        assert all(verdict.timeline >= state.timeline for state in states if not state.error)


@given(NODES, EXPECTED, ROUTED)
def test_nothing_is_chosen_when_system_identifiers_differ(states, expected, routed_to):
    seen = [state.system_identifier for state in states if not state.error]
    if len({*seen, expected} - {""}) > 1:
        assert decide(states, expected, routed_to).primary is None


@given(NODES, ROUTED)
def test_of_several_primaries_only_repmgrs_own_or_the_one_routed_to_is_chosen(states, routed_to):
    out_of_recovery = [state for state in states if not state.error and not state.in_recovery]
    verdict = decide(states, "", routed_to)
    if len(out_of_recovery) > 1 and verdict.primary not in (None, routed_to):
        (chosen,) = [state for state in states if state.node == verdict.primary]
        assert list(chosen.registered_primaries) == [chosen.node]


@given(NODES, EXPECTED, ROUTED, st.randoms(use_true_random=False))
def test_the_order_of_the_answers_does_not_matter(states, expected, routed_to, random):
    shuffled = random.sample(states, len(states))
    first, second = decide(states, expected, routed_to), decide(shuffled, expected, routed_to)
    assert (first.primary, first.timeline, first.reason) == (second.primary, second.timeline, second.reason)


@given(NODES, EXPECTED)
def test_a_silent_node_says_nothing(states, expected):
    answered = [state for state in states if not state.error]
    with_silent, without = decide(states, expected), decide(answered, expected)
    assert (with_silent.primary, with_silent.timeline) == (without.primary, without.timeline)
