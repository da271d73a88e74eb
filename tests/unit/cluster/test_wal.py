"""Names and numbers of WAL files, and the timelines that lead to a primary."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks.cluster.wal import (
    Switchpoint,
    TimelineHistory,
    file_name,
    last_closed_file,
    parse_history,
    parse_name,
)

MB = 1024 * 1024
SIZES = st.sampled_from([MB << power for power in range(11)])


@pytest.mark.parametrize(
    ("timeline", "written", "segment_size", "name"),
    [
        (1, 0x2000000, 16 * MB, "000000010000000000000001"),
        (1, 0x2000001, 16 * MB, "000000010000000000000001"),
        (1, 0x2FFFFFF, 16 * MB, "000000010000000000000001"),
        (1, 0x3000000, 16 * MB, "000000010000000000000002"),
        (2, 0xFFFFFFFF, 16 * MB, "0000000200000000000000FE"),
        (2, 0x1_00000000, 16 * MB, "0000000200000000000000FF"),
        (2, 0x1_00FFFFFF, 16 * MB, "0000000200000000000000FF"),
        (2, 0x1_01000000, 16 * MB, "000000020000000100000000"),
        (26, 0xAB_CD000028, 16 * MB, "0000001A000000AB000000CC"),
        (1, 0x200000, 1 * MB, "000000010000000000000001"),
        (1, 0xFFFFFFFF, 1 * MB, "000000010000000000000FFE"),
        (1, 0x3_00000000, 1 * MB, "000000010000000200000FFF"),
        (1, 0x3_00100000, 1 * MB, "000000010000000300000000"),
        (1, 0x80000000, 1024 * MB, "000000010000000000000001"),
        (1, 0xFFFFFFFF, 1024 * MB, "000000010000000000000002"),
        (1, 0x1_00000000, 1024 * MB, "000000010000000000000003"),
        (1, 0x1_40000000, 1024 * MB, "000000010000000100000000"),
        (4294967295, 0xFFFFFFFF_FFFFFFFF, 16 * MB, "FFFFFFFFFFFFFFFF000000FE"),
    ],
)
def test_the_last_closed_file(timeline: int, written: int, segment_size: int, name: str) -> None:
    assert last_closed_file(timeline, written, segment_size) == name


@given(st.integers(1, 2**32 - 1), SIZES, st.integers(1, 2**64 - 1))
def test_the_last_closed_file_ends_at_or_before_the_position(timeline: int, size: int, written: int) -> None:
    """Read back: a name is timeline, then the position's upper 32 bits, then the number of the file within them."""
    written = max(written, size)
    name = last_closed_file(timeline, written, size)
    assert re.fullmatch("[0-9A-F]{24}", name)
    assert int(name[:8], 16) == timeline
    end = (int(name[8:16], 16) << 32) + (int(name[16:], 16) + 1) * size
    assert end <= written < end + size


@given(st.integers(1, 2**32 - 1), SIZES, st.integers(0, 2**64 - 1), st.sampled_from(["", ".partial"]))
def test_a_name_is_read_back(timeline: int, size: int, start: int, suffix: str) -> None:
    assert parse_name(file_name(timeline, start // size, size) + suffix, size) == (timeline, start // size)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "00000002.history",
        "xlog.db",
        "00000001000000000000000",
        "0000000100000000000000040",
        "00000001000000000000000g",
        "000000010000000000000004.gz",
        "000000010000000000000004.00000028.backup",
        ".000000010000000000000004.tmp",
    ],
)
def test_what_is_no_wal_file(name: str) -> None:
    assert parse_name(name, 16 * MB) is None


@pytest.mark.parametrize(
    ("text", "switchpoints"),
    [
        ("", ()),
        ("1\t0/4000050\tno recovery target specified\n", (Switchpoint(1, 0x4000050),)),
        (
            "1\t0/9000000\tno recovery target specified\n\n2\tA/1\tbefore 2026-11-21 # 3\t0/1\n",
            (Switchpoint(1, 0x9000000), Switchpoint(2, 0xA_00000001)),
        ),
        ("# a comment\n\n  \n3 0/10\n", (Switchpoint(3, 16),)),
    ],
)
def test_a_history_file(text: str, switchpoints: tuple[Switchpoint, ...]) -> None:
    assert parse_history(text) == switchpoints


TWICE = TimelineHistory(4, (Switchpoint(1, 3 * 16 * MB + 5), Switchpoint(3, 6 * 16 * MB)))


def test_which_files_a_restore_needs() -> None:
    """Timeline 1 was left within segment 3, timeline 3 at the end of segment 5; timeline 2 leads elsewhere."""
    assert TWICE.files(2, 7) == [
        "000000010000000000000002",
        "00000003.history",
        "000000030000000000000003",
        "000000030000000000000004",
        "000000030000000000000005",
        "00000004.history",
        "000000040000000000000006",
        "000000040000000000000007",
    ]
    assert TWICE.files(3, 3) == ["000000030000000000000003", "00000004.history"]
    assert TWICE.files(6, 6) == ["000000040000000000000006"]
    assert TWICE.end_of(2) is None
    assert TWICE.end_of(4) is None


@st.composite
def lineages(draw: st.DrawFn) -> TimelineHistory:
    """A few switchpoints; each after the one before, some at the end of a file, some in one file."""
    size = draw(st.sampled_from([MB, 16 * MB]))
    ends = sorted(draw(st.sets(st.tuples(st.integers(2, 12), st.sampled_from([0, 1, 80, size - 8])), max_size=3)))
    timelines = sorted(draw(st.sets(st.integers(1, 9), min_size=len(ends) + 1, max_size=len(ends) + 1)))
    switchpoints = tuple(Switchpoint(timelines[i], segment * size + offset) for i, (segment, offset) in enumerate(ends))
    return TimelineHistory(timelines[-1], switchpoints, size)


@given(lineages(), st.integers(0, 14))
def test_the_file_is_the_one_that_recovery_reads(lineage: TimelineHistory, number: int) -> None:
    """Recovery tries the newest timeline first, and passes over those that begin later (XLogFileReadAnyTLI)."""
    timelines = [switchpoint.timeline for switchpoint in lineage.switchpoints] + [lineage.timeline]
    begins = [0] + [switchpoint.end for switchpoint in lineage.switchpoints]
    newest_first = list(zip(timelines, begins, strict=True))[::-1]
    read = next(timeline for timeline, begin in newest_first if begin // lineage.segment_size <= number)
    assert lineage.name(number) == file_name(read, number, lineage.segment_size)
