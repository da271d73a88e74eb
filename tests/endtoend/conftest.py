"""A fresh real cluster for every test. Runs inside the box of ``tests/lab/contain.py`` (``tests/run`` sees to it)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.contain import contained


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lab)


def fresh_lab() -> Lab:
    if not contained():
        pytest.skip("the lab needs its box: use tests/run")
    return Lab()


@pytest.fixture
def built_lab() -> Iterator[Lab]:
    """Two nodes that replicate; ports closed, Barman idle, no repmgrd."""
    lab = fresh_lab()
    try:
        lab.build()
        yield lab
    finally:
        lab.destroy()


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A cluster in service: ports open, Barman streaming, repmgrd watching."""
    lab = fresh_lab()
    try:
        lab.open()
        yield lab
    finally:
        lab.destroy()


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """A cluster with open ports that a test does not change; for many quick looks at it."""
    lab = fresh_lab()
    try:
        lab.build()
        lab.gateway.hooks("reconcile")
        yield lab
    finally:
        lab.destroy()
