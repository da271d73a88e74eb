"""The worker against a simulated cluster that fails in every way that Hypothesis finds, judged by the oracle."""

from __future__ import annotations

import pytest

from tests.model import counts
from tests.model.play import play

FEW, KNOWN = range(1, 3), range(3, 13)
"""Seeds: a few seconds of games for ``tests/run --fast``, and the rest. The same games in each run: one that breaks an
invariant is due to a change then. For fresh ones: ``python -m tests.model --minutes 60``."""


@pytest.mark.parametrize("number", FEW)
def test_a_few_games_break_no_invariant(number: int) -> None:
    play(number)


@pytest.mark.slow
def test_no_known_game_breaks_an_invariant() -> None:
    for number in KNOWN:
        play(number)
    assert counts.too_few() == []
