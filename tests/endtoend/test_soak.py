"""Role changes under load, kills and Barman outages, and the backup has every row: the soaks, in short."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bench.role_changes import Plan, play
from tests.bench.soak import soak
from tests.endtoend.conftest import fresh_lab
from tests.lab import Lab

SEED = "8"


@pytest.fixture
def lab(nodes: int) -> Iterator[Lab]:
    """Not built; when a test has failed, it is still there to show its logs."""
    with fresh_lab(nodes) as lab:
        yield lab


@pytest.mark.parametrize("nodes", [2])
def test_restored_backup_has_every_row_after_failovers(lab: Lab) -> None:
    result = soak(lab, SEED, failovers=2)
    assert result.healthy, result
    assert result.timeline == 3
    assert result.acknowledged > 100


@pytest.mark.parametrize("nodes", [3])
def test_role_changes_before_the_one_before_is_digested(lab: Lab) -> None:
    """A timeline number is used twice in each; after each, a restore equals the cluster."""
    play(lab, "short", [Plan("second", "immediate", 1.5, 2), Plan("return", "fast", 3.0, 2)])
