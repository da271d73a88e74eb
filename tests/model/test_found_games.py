"""Games that once broke an invariant, made short, and which of the two was wrong: the program or the oracle.

Below them, games with clocks that are set: each is lost if the program goes by clocks.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model.machine import Model
from tests.model.play import table


@pytest.fixture
def state() -> Iterator[Model]:
    with table() as model:
        playing = model()
        yield playing
        playing.teardown()


def test_a_replayed_denial_hides_no_promotion(state: Model) -> None:
    """The program was wrong: what is replayed by hand proves nothing, and yet it took back what repmgr had said."""
    state.begin(size=3)
    state.all_is_quiet()
    state.somebody_promotes(which=1, when=0)  # node 3, by mistake
    state.nodes_lose_each_other(which=1, whole=True)
    state.repmgr_promotes(which=0, metadata=False, when=0)  # node 2, to the same timeline
    state.an_event_comes(which=0, wakes=True, when=0)
    state.somebody_replays(which=1, name="standby_follow")
    state.a_node_stops(which=2, when=0)  # node 3
    state.all_is_quiet()
    assert state.host.node_behind("app") == 2


def test_metadata_that_the_primary_so_far_holds_too_prove_nothing(state: Model) -> None:
    """The oracle was wrong: repmgr.nodes of node 1 had changed twice, to another node and back, and nobody had seen it.

    Node 3 holds the same from the time before it was promoted, so that no one can tell this from a node 1 that somebody
    has promoted by mistake; design.md: "otherwise the primary that we route to stays".
    """
    state.begin(size=3)
    state.somebody_promotes(which=1, when=0)  # node 3
    state.a_node_rejoins(which=0, by_hand=True, when=0)  # node 1
    state.all_is_quiet()
    assert state.host.node_behind("app") == 3
    state.somebody_promotes(which=0, when=0)  # node 1
    state.a_node_is_cloned(which=1, when=0)  # node 2, from it
    state.switchover(which=0, rejoins=True, when=0)  # to node 2
    state.switchover(which=0, rejoins=False, when=0)  # and back to node 1
    state.all_is_quiet()
    assert state.host.node_behind("app") == 3


def test_a_promotion_is_believed_before_a_primary_was_found(state: Model) -> None:
    """The program was wrong; design.md: "or a promotion event about it is in the journal", whatever is remembered."""
    state.begin(size=2)
    state.failover(which=0, how="isolate", metadata=False, told=True, when=0)
    state.all_is_quiet()
    assert state.host.node_behind("app") == 2


def test_a_port_that_is_closed_opens_no_other(state: Model) -> None:
    """The oracle was wrong: app was closed, for it led to a stale primary; barman was led to a standby by hand.

    design.md: "Unknown changes no route."
    """
    state.begin(size=4)
    state.somebody_adds_a_rule(port="app", which=1)  # to node 2
    state.somebody_adds_a_rule(port="barman", which=3)  # to node 4
    state.failover(which=0, how="stop", metadata=True, told=True, when=0)  # to node 2
    state.failover(which=0, how="isolate", metadata=True, told=False, when=0)  # to node 3
    state.a_node_stops(which=1, when=0)  # node 3
    state.somebody_reconciles()
    state.the_worker_wakes()
    assert state.host.node_behind("app") is None


# -- clocks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong_by", [0, 60, 400_000, -400_000])
def test_what_was_said_of_a_primary_before_is_over(state: Model, wrong_by: int) -> None:
    state.begin(size=2)
    state.all_is_quiet()
    state.a_mistake_after_two_switchovers(which=0, then=0, wrong_by=wrong_by, mistaken=0)
    state.all_is_quiet()
    assert state.host.node_behind("app") == 1


@pytest.mark.parametrize("clock", [-400_000, -60, 60, 400_000])
def test_a_promotion_without_metadata_is_followed_whatever_the_clock_says(state: Model, clock: int) -> None:
    state.begin(size=2)
    state.all_is_quiet()
    state.failover(which=0, how="isolate", metadata=False, told=True, when=0, clock=clock)
    state.all_is_quiet()
    assert state.host.node_behind("app") == 2


def test_what_is_taken_in_too_late_is_over(state: Model) -> None:
    """The worker was held up, and somebody's reconcile found the next primaries meanwhile."""
    state.begin(size=2)
    state.all_is_quiet()
    state.switchover(which=0, rejoins=True, when=0)  # to node 2
    state.an_event_comes(which=0, wakes=False, when=0)
    state.somebody_reconciles()
    state.switchover(which=0, rejoins=True, when=0)  # to node 1
    state.somebody_reconciles()
    state.somebody_promotes(which=0, when=0)  # node 2
    state.all_is_quiet()
    assert state.host.node_behind("app") == 1


def test_a_denial_that_comes_after_the_clock_was_set_back_counts(state: Model) -> None:
    state.begin(size=3)
    state.all_is_quiet()
    state.the_gateway_loses_a_node(which=1, when=0)  # node 2
    state.nodes_lose_each_other(which=1, whole=True)
    state.repmgr_promotes(which=0, metadata=False, when=0)  # node 2
    state.an_event_comes(which=0, wakes=True, when=0)
    state.the_clock_is_set(seconds=-3600)
    state.nodes_reach_each_other(whole=True, when=0)
    state.a_node_is_cloned(which=1, when=0)
    state.an_event_lies(node=2, name="standby_register", success=True)
    state.the_worker_wakes()
    state.somebody_promotes(which=0, when=0)  # node 2
    state.all_is_quiet()


@pytest.mark.parametrize("uses", range(1, 25))
def test_the_worker_dies_while_the_back_end_is_changed(state: Model, uses: int) -> None:
    """Between the swap and the removal, too: whoever comes next removes what iptables has."""
    state.begin(size=2, backend="nftables")
    assert state.host.node_behind("app") == 1
    state.the_worker_dies(uses=uses)
    assert state.host.node_behind("app") == 1
    state.a_node_stops(which=0, when=0)
    state.somebody_promotes(which=0, when=0)
    state.all_is_quiet()
    assert state.host.node_behind("app") == 2
    assert not state.host.two_back_ends


@pytest.mark.parametrize("then", ["stop", "promote", "switch", "replace", "start", "die"])
@pytest.mark.parametrize("when", [0, 3, 8])
def test_roles_change_while_a_former_primary_is_looked_after(state: Model, then: str, when: int) -> None:
    """``when`` 0: between the last look from the gateway and the one on the node."""
    state.begin(size=3, former=True)
    state.a_former_primary_comes_back(
        which=0, how="isolate", metadata=True, rewinds=then != "start", looks=5, then=then, when=when
    )
    state.all_is_quiet()


def test_what_looks_like_a_promotion_by_repmgr_is_taken_for_one(state: Model) -> None:
    """The oracle was wrong: node 1 has repmgr.nodes of before, from a primary for which repmgr could not write it."""
    state.begin(size=5, placed="apart", if_none="", backend="iptables", former=False)
    state.the_worker_is_held_up(seconds=30)
    state.repmgr_promotes(metadata=False, when=0, which=0)
    state.a_primary_stops(when=24, which=0)
    state.a_former_primary_comes_back(how="stop", looks=2, metadata=True, rewinds=True, then="switch", when=0, which=1)
    state.the_worker_is_held_up(seconds=249)
    state.a_node_stops(when=36, which=9)
    state.a_node_stops(when=36, which=7)
    again = state.a_former_primary_comes_back
    again(how="isolate", looks=4, metadata=False, rewinds=True, then="nothing", when=55, which=2)
    state.a_node_rejoins(by_hand=True, when=0, which=0)
    state.a_node_rejoins(by_hand=True, when=46, which=0)
    again(how="isolate", looks=6, metadata=False, rewinds=True, then="promote", when=53, which=0)
    state.an_event_lies(name="bdr_failover", node=1, success=False)
    state.ticks(ticks=3)
    assert state.cluster.nodes[1].term.by == "hand"
    assert state.host.node_behind("app") == 1
