"""The pytest plugin: a test that takes ``handler_check`` is run once for each check.

A test file asks for it (``pytest_plugins``). It is no entry point of ours (``pytest11``): every run of pytest on a host
where repmgr_hooks is installed would import it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from repmgr_hooks.testing import CHECKS, examine

if TYPE_CHECKING:
    import pytest

Examine = Callable[..., None]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test each check in turn."""
    if "handler_check" in metafunc.fixturenames:
        metafunc.parametrize("handler_check", [_one(name) for name in CHECKS], ids=list(CHECKS))


def _one(name: str) -> Examine:
    def handler_check(handler: Any, given: Mapping[str, Any], world: Any, **more: Any) -> None:
        __tracebackhide__ = True
        found = examine(handler, given, world, **more, checks={name: CHECKS[name]})
        assert not found, found[0]

    return handler_check
