"""The worker against a simulated cluster that fails in every way that Hypothesis finds, judged by the oracle."""

from __future__ import annotations

import os
import secrets

from tests.model import counts
from tests.model.play import play, play_for

KNOWN = range(1, 13)
FRESH_FOR = float(os.environ.get("MODEL_SECONDS", "60"))
"""Seconds."""


def test_no_known_game_breaks_an_invariant() -> None:
    for number in KNOWN:
        play(number)
    assert counts.too_few() == []


def test_no_fresh_game_breaks_an_invariant() -> None:
    first = secrets.randbits(40)
    counts.SEEDS.append(first)
    counts.SEEDS.append(play_for(FRESH_FOR, first) - 1)
