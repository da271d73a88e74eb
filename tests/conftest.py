"""What the tests of the parts and the model begin with: the shipped configuration, a journal, a clock on the wall."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.config import Config
from repmgr_hooks.journal.journal import Journal
from tests.fake import Wall


@pytest.fixture
def loaded(tmp_path: Path) -> Config:
    """The shipped configuration; its state directory is the test's own."""
    shipped = config.load(Path(__file__).resolve().parents[1] / "config/config.yaml")
    return replace(shipped, service=replace(shipped.service, state_dir=str(tmp_path)))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.db")
    yield made
    made.close()


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    made = Wall()
    monkeypatch.setattr(time, "time", made)
    return made
