"""What a user runs first: ``tests/demo`` says OK, however the primary dies."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import readme
from tests.endtoend.conftest import needs_box
from tests.lab import REPOSITORY
from tests.lab.contain import outside


@pytest.mark.parametrize("fault", [[], ["--unplug"]])
def test_demo(fault: list[str]) -> None:
    """In a box of its own, as when a user runs it."""
    needs_box()
    demo = [sys.executable, "-m", "tests.show", *fault]
    shown = subprocess.run(
        demo, cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False, env=outside()
    )
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "VERDICT: OK: the application could not write for " in shown.stdout
    if not fault:
        said = {readme.shape(line) for line in shown.stdout.splitlines()}
        assert [line for line in readme.block("0.0 s  FAULT").splitlines() if readme.shape(line) not in said] == []
