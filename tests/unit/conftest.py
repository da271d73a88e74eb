"""Nothing here sleeps, needs root or a network; Hypothesis keeps no files and no clock."""

from __future__ import annotations

import logging
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from repmgr_hooks.cli import configured
from repmgr_hooks.cli import main as cli
from tests.fake import FakeHost

CONFIG = (Path(__file__).resolve().parents[2] / "config/config.yaml").read_text()

PROGRAMS = ("iptables-save", "iptables-restore", "ip6tables-save", "ip6tables-restore", "conntrack")
USERS = {"postgres": 64001, "barman": 64002}

settings.register_profile("unit", deadline=None, database=None, max_examples=60)
settings.load_profile("unit")


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """The commands send the log to a stream; take that back after each test."""
    log = logging.getLogger("repmgr_hooks")
    handlers, level = list(log.handlers), log.level
    yield
    log.handlers[:] = handlers
    log.setLevel(level)


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with programs that no test here runs."""
    directory = tmp_path_factory.mktemp("programs")
    for name in PROGRAMS:
        (directory / name).write_text("#!/bin/sh\nexit 1\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture(autouse=True)
def gateway(monkeypatch: pytest.MonkeyPatch, programs: Path) -> None:
    """A gateway has these programs and users; the machine of the tests need not."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{programs}")
    known = pwd.getpwnam

    def found(name: str) -> pwd.struct_passwd:
        try:
            return known(name)
        except KeyError:
            if name not in USERS:
                raise
            return pwd.struct_passwd((name, "x", USERS[name], USERS[name], "", "/", "/bin/sh"))

    monkeypatch.setattr(pwd, "getpwnam", found)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> FakeHost:
    """All is as it should be: node 1 is the primary. The commands meet this world too."""
    made = FakeHost()
    monkeypatch.setattr(configured, "LocalHost", lambda conninfos, **_: made)
    return made


@pytest.fixture
def run(tmp_path: Path, host: FakeHost) -> Callable[..., int]:
    """Run the program with a configuration whose state directory is a temporary one."""
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(tmp_path)))
    return lambda *argv: cli.run(["--config", str(path), *argv])
