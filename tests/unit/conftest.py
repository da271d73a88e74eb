"""Nothing here sleeps, needs root or a network; Hypothesis keeps no files and no clock."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("unit", deadline=None, database=None, max_examples=60)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """The verbs send the log to a stream; take that back after each test."""
    log = logging.getLogger("repmgr_hooks")
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)
