"""In one look a program is run once, whoever asks it; what makes it another question is asked by itself."""

from __future__ import annotations

import pytest

from repmgr_hooks.background import together
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.layers import AskedOnce
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost


class Counting(FakeHost):
    """A host on which ``false`` fails, and all else says how it was asked."""

    def run(self, program: Program, limit: float) -> str:
        self.ran.append(program)
        if program.argv == ("false",):
            raise OperationFailed("false: exit code 1", code="program_failed")
        return f"{program} {sorted(program.env.items())} {program.stdin}"


def test_side_by_side_too() -> None:
    host = Counting()
    once = AskedOnce(host)
    said = together(*[lambda: once.run(Program(("true",)), 60)] * 5)
    assert (len(set(said)), len(host.ran)) == (1, 1)


def test_a_failure_is_everybodys() -> None:
    host = Counting()
    once = AskedOnce(host)
    for _ in range(2):
        with pytest.raises(OperationFailed, match="exit code 1"):
            once.run(Program(("false",)), 60)
    assert len(host.ran) == 1


@pytest.mark.parametrize("other", [Program(("x",), env={"PGPASSFILE": "/b"}), Program(("x",), stdin="y")])
def test_what_is_given_to_a_program_makes_it_another_question(other: Program) -> None:
    host = Counting()
    once = AskedOnce(host)
    first = Program(("x",), env={"PGPASSFILE": "/a"})
    assert once.run(first, 60) != once.run(other, 60)
    assert len(host.ran) == 2


def test_what_is_good_enough_for_a_look_is_asked_as_by_one() -> None:
    host = Counting()
    once = AskedOnce(host)
    once.run(Program(("x",), good_for=60.0), 60)
    once.run(Program(("y",)), 60)
    assert [program.by_look for program in host.ran] == [True, False]
