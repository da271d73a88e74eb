"""In one run the same files are compared once, before and after the stream is moved; one that was written to is not
the same file.
"""

from __future__ import annotations

import pytest

from repmgr_hooks.barman import content
from repmgr_hooks.config import Config
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.layers import Sparing
from repmgr_hooks.system.steps import Program, Rows, Sql
from tests.fake import FakeHost


class Asked(FakeHost):
    """Keeps what nodes were asked, too; ``broken``: no node answers."""

    broken = False

    def __init__(self) -> None:
        super().__init__()
        self.sums: list[str] = []

    def fetch(self, sql: Sql, limit: float) -> Rows:
        if self.broken:
            raise OperationFailed("no answer", code="no_answer")
        if sql.settled:
            self.sums.append(str(sql.params[0]))
        return super().fetch(sql, limit)

    @property
    def pythons(self) -> int:
        """How many were started where Barman is."""
        return sum(program.argv[0] == "python3" for program in self.ran)


@pytest.fixture
def host(loaded: Config) -> Asked:
    made = Asked()
    assert handle(loaded.clusters["main"], made, []).ok
    made.ran.clear()
    made.sums.clear()
    return made


def test_a_failover_compares_each_file_once(loaded: Config, host: Asked) -> None:
    host.fail_over()
    assert handle(loaded.clusters["main"], host, []).ok
    assert sorted(host.sums) == sorted(set(host.sums))
    assert host.pythons == 2, "one before the stream is moved, one for the first file of the new timeline"


def test_the_next_run_compares_again(loaded: Config, host: Asked) -> None:
    for _ in range(2):
        assert handle(loaded.clusters["main"], host, []).ok
    assert host.pythons == 2


def test_a_file_that_was_written_to_is_compared_again(loaded: Config, host: Asked) -> None:
    barman, run = loaded.clusters["main"].cluster.barman, Sparing(host)
    assert barman

    def conflict() -> object:
        held, primary = content.look(barman, 1, 1, run)
        return content.judged(held, primary, barman, run)[1]

    assert conflict() is conflict() is None
    assert host.pythons == 1
    (name, *_) = host.sums
    host.barman.branch[name] = "other bytes"
    found = conflict()
    assert f"other bytes than the primary in {name}" in str(found)


def test_what_has_failed_is_asked_again(host: Asked) -> None:
    run, sql = Sparing(host), Sql(1, content.READ, ("000000010000000000000003", 9), settled=True)
    host.broken = True
    with pytest.raises(OperationFailed):
        run.fetch(sql, 60)
    host.broken = False
    assert run.fetch(sql, 60)


def test_what_is_not_settled_is_asked_each_time(host: Asked) -> None:
    run = Sparing(host)
    for _ in range(3):
        run.run(Program(("iptables-save", "-t", "nat")), 60)
    assert len(host.ran) == 3
