"""Plays games of the model. A seed stands for a handful of games, always the same ones for the same program."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from repmgr_hooks import config
from tests.fake import Wall
from tests.model.machine import Model
from tests.model.pair import Pair
from tests.model.setting import LOADED

GAMES, STEPS = 50, 40
"""Of one seed: few enough that a time budget is kept, and that the memory which Hypothesis needs stays small."""


Games = TypeVar("Games", Model, Pair)


GAMES_OF_TWO = 15


@contextmanager
def table(game: type[Games] = Model) -> Iterator[type[Games]]:
    """What every game needs: a state directory, a clock on the wall, and silence."""
    wall = Wall()
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        loaded: config.Config = replace(LOADED, service=replace(LOADED.service, state_dir=place))
        patch.setattr(time, "time", wall)
        logging.disable(logging.CRITICAL)
        try:
            yield type("Configured", (game,), {"loaded": loaded, "wall": wall})
        finally:
            logging.disable(logging.NOTSET)


def play(number: int, game: type[Games] = Model) -> None:
    """Play the games of a seed. Raises what broke, with the shortest game that breaks it as Hypothesis prints it."""
    chosen = settings(
        max_examples=GAMES_OF_TWO if issubclass(game, Pair) else GAMES,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    with table(game) as model:
        try:
            run_state_machine_as_test(seed(number)(model), settings=chosen)
        except BaseException as broken:
            broken.add_note(f"play it again with: python -m tests.model --seed {number}")
            raise


def play_for(seconds: float, first: int) -> int:
    """Play the games of one seed after the other, from ``first`` on; return the seed that would come next."""
    end, number = time.monotonic() + seconds, first
    while time.monotonic() < end:
        play(number)
        number += 1
    return number
