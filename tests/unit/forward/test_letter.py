"""The words between a database host and a gateway."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks.errors import UsageError
from repmgr_hooks.event import parse_event
from repmgr_hooks.forward.letter import LONGEST, answers, clock_in, letter, read, written

NUMBER = "01800000000000000100-7"
STAMP = "2026-11-20 03:00:00.5+00"


def test_what_is_written_is_what_is_read() -> None:
    sent = [
        letter(NUMBER, ["main", "2", "standby_promote", "0", "1", STAMP]),
        letter("01800000000000000101-7", ["", "1", "repmgrd_start"]),
    ]
    first, *lines = written(sent, 1800000000.25).splitlines()
    assert clock_in(first) == 1800000000.25
    assert [read(line) for line in lines] == sent
    assert parse_event(list(sent[1].words)) == parse_event(["1", "repmgrd_start"])


@pytest.mark.parametrize(
    "line",
    [
        "",
        "x",
        NUMBER,
        f"{NUMBER}\tmain\t2",
        f"{NUMBER}\tmain\t2\tstandby_promote\t1\t\t{STAMP}\tmore",
        f"1-7\tmain\t2\tstandby_promote\t1\t\t{STAMP}",
        f"{NUMBER}/../../etc\tmain\t2\tstandby_promote\t1\t\t{STAMP}",
        f"{NUMBER}\tmain\t2;reboot\tstandby_promote\t1\t\t{STAMP}",
        f"{NUMBER}\tmain\t2\t$(reboot)\t1\t\t{STAMP}",
        f"{NUMBER}\tmain\t2\tstandby_promote\t1\t\t\x1b[2J",
        f"{NUMBER}\t{'m' * 64}\t2\tstandby_promote\t1\t\t{STAMP}",
        f"{NUMBER}\tmain\t2\tstandby_promote\t1\t\t{'t' * 65}",
    ],
)
def test_a_line_that_is_no_event(line: str) -> None:
    with pytest.raises(UsageError):
        read(line)


@pytest.mark.parametrize(
    "line", ["", "repmgr-hooks 1", "repmgr-hooks 2\t1.000", "repmgr-hooks 1\tnan", "GET / HTTP/1.1"]
)
def test_a_first_line_that_is_none(line: str) -> None:
    with pytest.raises(UsageError, match="first line"):
        clock_in(line)


@given(st.text())
def test_nothing_but_an_event_is_read(line: str) -> None:
    try:
        found = read(line)
    except UsageError:
        return
    assert found.line() == line


def test_the_longest_event_fits_in_a_line() -> None:
    words = ["c" * 63, "2147483647", "e" * 63, "1", "2147483647", "t" * 64]
    longest = letter("9" * 20 + "-" + "9" * 10, words)
    assert len(longest.line()) < LONGEST


def test_answers_are_for_events_by_number() -> None:
    said = f"*** maintenance tonight ***\ntaken {NUMBER}\r\nrefused 01800000000000000101-7 \x1b[2Jwhy\ntaken x\n"
    found = answers(said)
    assert found[NUMBER].taken
    assert (found["01800000000000000101-7"].taken, found["01800000000000000101-7"].why) == (False, "\\x1b[2Jwhy")
    assert len(found) == 2
