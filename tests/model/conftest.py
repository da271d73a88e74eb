"""Prints how much the model has seen, also when all went well."""

from __future__ import annotations

from typing import Any

from tests.model.counts import COUNTS, told


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line."""
    if COUNTS:
        terminalreporter.write_line(told())
