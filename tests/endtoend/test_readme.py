"""The commands that the READMEs show, run on a real cluster, print what is shown: the same lines, other numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests import readme
from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import failover_handled, status
from tests.lab import Lab, wait_for
from tests.readme import Sample

FORMER = (
    (r"ZOMBIE: (node \d+) has come back from the dead .*", r"SPLIT-BRAIN: \1 is a stale primary (timeline 1 < 2)"),
    (r"\bWRONG\b", "WARNING"),
    (r"\bMISSING\b", "PENDING"),
)
"""What ``status`` prints as long as it has not got the words of the READMEs."""


def shown(command: str, text: str) -> Sample:
    """Return the sample of this command in a text."""
    words = tuple(readme.today(command.split()))
    return next(sample for sample in readme.samples(text) if sample.words == words)


FRONT, CLI = readme.README, readme.TEXTS["repmgr_hooks/cli/README.md"]


def compare(lab: Lab, sample: Sample, code: int = 0) -> None:
    """Run the command of a sample, and compare."""
    result = lab.gateway.hooks(*sample.words)
    said = result.stdout
    for former, now in FORMER:
        said = re.sub(former, now, said)
    assert readme.difference(sample.output, said) == "", result.stdout + result.stderr
    assert result.returncode == code, result.stdout + result.stderr


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = fresh_lab()
    try:
        lab.open()
        yield lab
    finally:
        lab.destroy()


def test_before_and_after_a_failover(lab: Lab) -> None:
    for command, text in (
        ("status", FRONT),
        ("check", CLI),
        ("check-wal", CLI),
        ("simulate-failover 2", CLI),
        ("handlers", CLI),
    ):
        compare(lab, shown(command, text))
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: failover_handled(lab), "the end of the events")
    compare(lab, shown("history --failover last", CLI))
    compare(lab, shown("check-wal", CLI))

    lab.db1.pg_ctl("start")
    wait_for(lambda: status(lab)["decision"]["stale_primaries"] == [1], "the stale primary to be seen")
    compare(lab, shown("status", CLI), 1)
