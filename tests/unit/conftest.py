"""Nothing here sleeps, needs root or a network; Hypothesis keeps no files and no clock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from repmgr_hooks.cli import main as cli
from repmgr_hooks.cli import output
from tests.fake import FakeHost

CONFIG = (Path(__file__).resolve().parents[2] / "config/config.yaml").read_text()

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


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """All is as it should be: node 1 is the primary. The verbs meet this world too."""
    made = FakeHost()
    monkeypatch.setattr(output, "LocalHost", lambda conninfos: made)
    return made


@pytest.fixture
def run(tmp_path: Path, host: FakeHost) -> Callable[..., int]:
    """Run the program with a configuration whose state directory is a temporary one."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(tmp_path)))
    return lambda *argv: cli.run(["--config", str(path), *argv])
