"""The worker against a simulated cluster that fails in every way that Hypothesis finds, judged by the oracle."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.model import counts
from tests.model.play import play, play_for

FEW, KNOWN = range(1, 3), range(3, 13)
"""Seeds: a few seconds of games for ``tests/run --fast``, and the rest."""
FRESH_FOR = float(os.environ.get("MODEL_SECONDS", "60"))
"""Seconds."""


@pytest.mark.parametrize("number", FEW)
def test_a_few_games_break_no_invariant(number: int) -> None:
    play(number)


@pytest.mark.slow
def test_no_known_game_breaks_an_invariant() -> None:
    for number in KNOWN:
        play(number)
    assert counts.too_few() == []


@pytest.mark.slow
def test_no_fresh_game_breaks_an_invariant() -> None:
    first = secrets.randbits(40)
    counts.SEEDS.append(first)
    counts.SEEDS.append(play_for(FRESH_FOR, first) - 1)
