"""Role changes under load, kills and Barman outages, and the backup has every row: the soaks, in short."""

from __future__ import annotations

from tests.bench.role_changes import Plan, play
from tests.bench.soak import soak
from tests.endtoend.conftest import fresh_lab

SEED = "8"


def test_restored_backup_has_every_row_after_failovers() -> None:
    with fresh_lab() as lab:
        result = soak(lab, SEED, failovers=2)
    assert result.healthy, result
    assert result.timeline == 3
    assert result.acknowledged > 100


def test_role_changes_before_the_one_before_is_digested() -> None:
    """A timeline number is used twice in each; after each, a restore equals the cluster."""
    with fresh_lab(3) as lab:
        play(lab, "short", [Plan("second", "immediate", 1.5, 2), Plan("return", "fast", 3.0, 2)])
