"""What the gateway's end makes of anything that a host may send."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repmgr_hooks import clock
from repmgr_hooks.errors import HooksError, OperationFailed, UsageError
from repmgr_hooks.forward import receive as receiving
from repmgr_hooks.forward.letter import LONGEST, MOST_EVENTS, letter, written
from repmgr_hooks.forward.receive import receive

STAMP = "2026-11-20 03:00:00.5+00"


def number(index: int = 0) -> str:
    return f"{1800000000000000100 + index:020d}-7"


def promotion(index: int = 0) -> bytes:
    return written([letter(number(index), ["main", "2", "standby_promote", "1", "1", STAMP])], clock.wall()).encode()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    made = tmp_path / "spool"
    made.mkdir()
    return made


def sent(content: bytes, spool: Path, host: str = "db2") -> list[str]:
    """Return what is answered to what a host sends."""
    said: list[str] = []
    place = spool.parent / "sent"
    place.write_bytes(content)
    source = os.open(place, os.O_RDONLY)
    try:
        receive(source, host, str(spool), said.append)
    finally:
        os.close(source)
    return said


def stored(spool: Path) -> list[list[str]]:
    return [file.read_text().split("\n")[:-1] for file in sorted(spool.iterdir())]


def test_an_event_is_stored_with_its_host_and_its_number(spool: Path) -> None:
    assert sent(promotion(), spool) == [f"taken {number()}"]
    ((*words, host, known_by, ahead),) = stored(spool)
    assert words == ["main", "2", "standby_promote", "1", "1", STAMP]
    assert (host, known_by) == ("db2", number())
    assert abs(float(ahead)) < 60
    assert [file.stat().st_mode & 0o777 for file in spool.iterdir()] == [0o640]


def test_a_clock_that_is_off_is_noted(spool: Path) -> None:
    late = written([letter(number(), ["main", "1", "repmgrd_start"])], clock.wall() - 3600)
    sent(late.encode(), spool)
    assert -3700 < float(stored(spool)[0][-1]) < -3599


def test_what_is_no_event_is_refused_and_the_rest_taken(spool: Path) -> None:
    bad = f"{number(1)}\tmain\t2\t$(reboot)\t1\t\t\n".encode()
    good = promotion(2).split(b"\n", 1)[1]
    said = sent(promotion() + bad + good, spool)
    assert said[0] == f"taken {number()}"
    assert said[1].startswith(f"refused {number(1)} EVENT is a name")
    assert said[2] == f"taken {number(2)}"
    assert len(stored(spool)) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"GET / HTTP/1.1\r\n\r\n",
        promotion().split(b"\n", 1)[1],
        promotion().split(b"\n", 1)[0] + b"\n",
        promotion().split(b"\n", 1)[0] + b"\n" + b"x" * (LONGEST + 1) + b"\n",
        promotion().split(b"\n", 1)[0] + b"\n" + b"x" * 10_000_000,
        promotion().split(b"\n", 1)[0] + b"\n\xff\xfe\x00\n",
        os.urandom(100_000),
        b"\0" * 100_000,
    ],
)
def test_what_is_no_letter_stores_nothing(content: bytes, spool: Path) -> None:
    with pytest.raises(UsageError):
        sent(content, spool)
    assert stored(spool) == []


def test_a_line_that_was_cut_off_is_no_event(spool: Path) -> None:
    """A connection that breaks in the middle of a time stamp leaves what looks like another event."""
    with pytest.raises(UsageError, match="no event"):
        sent(promotion()[:-6], spool)
    assert stored(spool) == []


def test_no_more_than_a_letter_may_have(spool: Path) -> None:
    many = [letter(number(index), ["main", "1", "repmgrd_start"]) for index in range(MOST_EVENTS + 5)]
    with pytest.raises(UsageError, match="more than"):
        sent(written(many, clock.wall()).encode(), spool)
    assert len(stored(spool)) == MOST_EVENTS


def test_a_full_spool_takes_no_more(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "FULL", 1)
    sent(promotion(), spool)
    sent(promotion(1), spool)
    with pytest.raises(OperationFailed, match="wait in"):
        sent(promotion(2), spool)


def test_a_host_that_says_nothing_is_not_waited_for(spool: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "LIMIT", 0.1)
    reader, writer = os.pipe()
    try:
        os.write(writer, promotion())
        with pytest.raises(OperationFailed, match="has not ended"):
            receive(reader, "db2", str(spool), lambda line: None)
    finally:
        os.close(reader)
        os.close(writer)
    assert len(stored(spool)) == 1, "what came whole is taken"


@pytest.mark.parametrize("place", ["missing", "link"])
def test_a_spool_that_is_not_there(tmp_path: Path, place: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(OperationFailed, match="cannot store"):
        sent(promotion(), tmp_path / place)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=3000))
def test_whatever_comes_nothing_but_an_event_is_stored(spool: Path, content: bytes) -> None:
    with contextlib.suppress(HooksError):
        sent(promotion() + content, spool)
    assert all(len(words) == 9 and words[6] == "db2" for words in stored(spool))
