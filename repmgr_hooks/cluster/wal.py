"""WAL files: their names and numbers for any segment size, and the history of a cluster's timelines."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Switchpoint:
    """A timeline, and the position at which the next one left it."""

    timeline: int
    end: int


@dataclass(frozen=True)
class TimelineHistory:
    """The timelines that lead to ``timeline``, and the size of a segment: which file holds which WAL.

    At a promotion PostgreSQL copies the begun segment, so the segment of a switchpoint is read from the new timeline's
    file (xlog.c, XLogInitNewTimeline; walsender.c, WalSndSegmentOpen).
    """

    timeline: int
    switchpoints: tuple[Switchpoint, ...] = ()
    segment_size: int = 16 * 1024 * 1024

    @property
    def timelines(self) -> list[int]:
        """All of them, oldest first."""
        return [*(switchpoint.timeline for switchpoint in self.switchpoints), self.timeline]

    def end_of(self, timeline: int) -> int | None:
        """Return the position at which an earlier timeline was left; None if it is none of these."""
        return next((switchpoint.end for switchpoint in self.switchpoints if switchpoint.timeline == timeline), None)

    def timeline_at(self, number: int) -> int:
        """Return the timeline whose file holds a segment."""
        passed = (
            switchpoint.timeline for switchpoint in self.switchpoints if number < switchpoint.end // self.segment_size
        )
        return next(passed, self.timeline)

    def name(self, number: int) -> str:
        """Return the name of the file that holds a segment."""
        return file_name(self.timeline_at(number), number, self.segment_size)

    def files(self, first: int, last: int) -> list[str]:
        """Return all that a restore needs from one segment to another: WAL files, and the history files between."""
        entered = range(self.timeline_at(first) + 1, self.timeline + 1)
        histories = [history_name(timeline) for timeline in self.timelines if timeline in entered]
        return sorted([*(self.name(number) for number in range(first, last + 1)), *histories])


def file_name(timeline: int, number: int, segment_size: int) -> str:
    """Return the name of a WAL file.

    >>> file_name(1, 256, 16 * 1024 * 1024)
    '000000010000000100000000'
    """
    log, segment = divmod(number, 0x1_0000_0000 // segment_size)
    return f"{timeline:08X}{log:08X}{segment:08X}"


def parse_name(name: str, segment_size: int) -> tuple[int, int] | None:
    """Return the timeline and the number of a WAL file, complete or partial; None if it is no WAL file.

    >>> parse_name("000000010000000100000000.partial", 16 * 1024 * 1024)
    (1, 256)
    """
    if not re.fullmatch(r"[0-9A-F]{24}(\.partial)?", name):
        return None
    timeline, log, segment = (int(name[place : place + 8], 16) for place in (0, 8, 16))
    return timeline, log * (0x1_0000_0000 // segment_size) + segment


def history_name(timeline: int) -> str:
    """Return the name of a timeline's history file."""
    return f"{timeline:08X}.history"


def parse_history(text: str) -> tuple[Switchpoint, ...]:
    r"""Return the switchpoints that a history file tells of, oldest first.

    >>> parse_history("1\t0/4000050\tno recovery target specified\n")
    (Switchpoint(timeline=1, end=67108944),)
    """
    lines = (line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))
    return tuple(Switchpoint(int(words[0]), position(words[1]) or 0) for words in lines)


def last_closed_file(timeline: int, written: int, segment_size: int) -> str:
    """Return the name of the last complete WAL file before a position.

    ``pg_walfile_name`` will not do: at the boundary between two files PostgreSQL 16 and older names the first, which is
    closed by then, and 17 and newer the second (xlogfuncs.c, pg_walfile_name).

    >>> last_closed_file(2, 5 << 32, 16 * 1024 * 1024)
    '0000000200000004000000FF'
    """
    return file_name(timeline, written // segment_size - 1, segment_size)


def shorten(names: tuple[str, ...]) -> str:
    """Return one name, or the first and the last of several, and how many they are.

    >>> shorten(("000000010000000000000004", "000000010000000000000005"))
    '000000010000000000000004 to 000000010000000000000005 (2 files)'
    """
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} files)"


def size(count: int) -> str:
    """Return a number of bytes in words.

    >>> size(0), size(2048), size(300 * 1024 * 1024)
    ('0 B', '2 kB', '300 MB')
    """
    units = ("B", "kB", "MB", "GB", "TB")
    power = min((max(count, 1).bit_length() - 1) // 10, len(units) - 1)
    return f"{count / 1024**power:.0f} {units[power]}"


def lsn(position: int) -> str:
    """Return a WAL position as PostgreSQL writes it.

    >>> lsn(position("1/10"))
    '1/10'
    """
    return f"{position >> 32:X}/{position & 0xFFFF_FFFF:X}"


def position(lsn: str | None) -> int | None:
    """Return a WAL position in bytes. Raises ValueError.

    >>> position("1/10")
    4294967312
    """
    if lsn is None:
        return None
    found = re.fullmatch("([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})", lsn) if isinstance(lsn, str) else None
    if found is None:
        raise ValueError(f"{lsn!r:.50} is not a WAL position")
    return (int(found[1], 16) << 32) + int(found[2], 16)
