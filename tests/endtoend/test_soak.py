"""Failover after failover under load, kills and Barman outages, and the backup has every row: the soak, in short."""

from __future__ import annotations

from tests.bench.soak import soak
from tests.endtoend.conftest import fresh_lab

SEED = "8"


def test_restored_backup_has_every_row_after_failovers() -> None:
    lab = fresh_lab()
    try:
        result = soak(lab, SEED, failovers=2)
    finally:
        lab.destroy()
    assert result.healthy, result
    assert result.timeline == 3
    assert result.acknowledged > 100
