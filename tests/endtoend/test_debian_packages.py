"""With the libraries that Debian has (psycopg, sh, PyYAML): a failover, and what stands outside."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, failover_handled, routes
from tests.lab import REPOSITORY, Lab, must, wait_for
from tests.machines import release

VENV = REPOSITORY / ".venv-debian"
PLACES = "import psycopg, sh, yaml; print(psycopg.__file__, sh.__file__, yaml.__file__)"
TOUCHING_THE_WORLD = (
    *("system", "netfilter", "setup", "cluster/test_observe.py", "cluster/test_probe.py", "handlers/test_command.py"),
    *("config", "service/test_worker.py"),
)
OLDEST = "bookworm"
"""The Debian whose libraries are the oldest that pyproject.toml lets in."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with fresh_lab() as lab:
        lab.venv = VENV
        lab.open()
        yield lab


def test_they_are_debians() -> None:
    shown = subprocess.run([VENV / "bin/python", "-c", PLACES], capture_output=True, text=True, timeout=30, check=True)
    assert all(place.startswith("/usr/lib/python3/dist-packages/") for place in shown.stdout.split())


def test_the_oldest_that_are_let_in_are_tested() -> None:
    if release() != OLDEST:
        pytest.skip(f"only {OLDEST} has them")
    names = (
        "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in ('psycopg', 'PyYAML', 'sh')), sep=',')"
    )
    shown = subprocess.run([VENV / "bin/python", "-c", names], capture_output=True, text=True, timeout=30, check=True)
    wanted = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    for installed, least in zip(shown.stdout.strip().split(","), wanted, strict=True):
        assert installed.replace(" ", ">=").startswith(least)


def test_a_failover(lab: Lab) -> None:
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: failover_handled(lab), "the end of the events")
    client.stop()
    assert routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    whole = "main: NO_BACKUP: "  # nothing else is wrong
    wait_for(lambda: lab.gateway.hooks("check-wal").stdout.startswith(whole), "Barman to have all")


def test_what_touches_the_world() -> None:
    must("ip", "link", "set", "lo", "up")  # in this box
    files = [f"tests/unit/{name}" for name in TOUCHING_THE_WORLD]
    words = [VENV / "bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False)
    assert result.returncode == 0, result.stdout
