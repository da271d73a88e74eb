"""Two gateways of one cluster; see ``pair.py``. Below fixed games, one for each thing that they are for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.model.pair import WEEK, Pair
from tests.model.pair_of_barmans import PairOfBarmans
from tests.model.play import play, table


@pytest.fixture
def pair() -> Iterator[Pair]:
    with table(Pair) as model:
        playing = model()
        yield playing
        playing.teardown()


def test_a_few_games_of_two_gateways_break_no_invariant() -> None:
    play(1, Pair)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 6))
def test_no_known_game_of_two_gateways_breaks_an_invariant(number: int) -> None:
    play(number, Pair)


def test_a_few_games_with_a_barman_on_each_break_no_invariant() -> None:
    play(1, PairOfBarmans)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 4))
def test_no_known_game_with_a_barman_on_each_breaks_an_invariant(number: int) -> None:
    play(number, PairOfBarmans)


def test_each_barman_streams_from_the_new_primary_whoever_has_the_address() -> None:
    with table(PairOfBarmans) as model:
        pair = model()
        pair.begin(size=2)
        pair.failover(which=0, how="stop_primary", metadata=True)
        pair.one_works(number=1)
        assert [host.barman.streams_from for host in pair.hosts()] == [None, 2], "the first one has not worked yet"
        pair.a_gateway_dies(number=1, seconds=WEEK)
        pair.ticks(2)
        assert [host.barman.streams_from for host in pair.hosts()] == [2, None]
        assert pair.cluster.nodes[2].slots["barman_2"].reserved, "it is kept for the gateway that is away"
        pair.it_comes_back()
        pair.ticks(3)
        assert [host.barman.streams_from for host in pair.hosts()] == [2, 2]
        pair.teardown()


def led(pair: Pair) -> list[int | None]:
    return [host.node_behind("app") for host in pair.hosts()]


def test_the_other_gateway_carries_on_where_the_first_has_died(pair: Pair) -> None:
    pair.begin(size=2)
    pair.failover(which=0, how="stop_primary", metadata=True)
    pair.a_worker_dies(number=0, uses=20)
    pair.a_gateway_dies(number=0, seconds=1.0)
    pair.ticks(2)
    assert led(pair)[1] == 2
    assert pair.hosts()[1].barman.streams_from == 2
    pair.it_comes_back()
    pair.ticks(1)
    assert led(pair) == [2, 2]


def test_what_exists_once_is_left_to_the_gateway_that_has_the_address(pair: Pair) -> None:
    pair.begin(size=2)
    pair.failover(which=0, how="stop_primary", metadata=True)
    pair.one_works(number=1)
    assert pair.hosts()[0].barman.streams_from is None
    pair.ticks(2)
    assert led(pair) == [2, 2]
    assert pair.hosts()[0].barman.streams_from == 2


def test_a_week_away(pair: Pair) -> None:
    """The old primary is back, the newer one is silent; only the gateway that was there knows of it."""
    pair.begin(size=2)
    pair.move(1)
    pair.a_gateway_dies(number=0, seconds=WEEK)
    pair.failover(which=0, how="stop_primary", metadata=True)
    pair.ticks(2)
    assert led(pair)[1] == 2
    pair.a_node_stops(which=0)
    pair.let(lambda: pair.cluster.start(0))
    pair.ticks(1)
    pair.it_comes_back()
    pair.move(0)
    pair.ticks(2)
    assert led(pair)[0] is None
    pair.a_node_starts(which=0)
    pair.ticks(2)
    assert led(pair) == [2, 2]
