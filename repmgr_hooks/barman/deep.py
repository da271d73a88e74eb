"""What ``check-wal --deep`` and ``--restore`` do: follow all records without a restore, and a real restore."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from repmgr_hooks.barman import content
from repmgr_hooks.barman.backup import Report
from repmgr_hooks.barman.wal_continuity import PrimaryWal
from repmgr_hooks.cluster.wal import TimelineHistory, history_name, lsn, parse_history, parse_name
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Postgres
from repmgr_hooks.system.steps import Host, Program, Sql

LIMIT = 900.0
"""Seconds for one part."""
AT_ONCE = 256 * 1024 * 1024
"""Bytes of WAL that lie without compression on Barman's disk meanwhile."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Proof:
    """What following the records, or a restore (``kind``), has shown; ``unable``: why nothing could be looked at."""

    kind: str
    text: str
    problem: str = ""
    unable: str = ""

    @property
    def healthy(self) -> bool:
        """True if all was looked at, and nothing was wrong."""
        return not (self.problem or self.unable)

    def line(self, cluster: str) -> str:
        """Return the line for the screen."""
        if self.unable:
            return f"{cluster}: {self.kind} UNKNOWN: {self.unable}"
        return f"{cluster}: {self.kind} {'BROKEN: ' + self.problem + '; ' if self.problem else 'OK: '}{self.text}"

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain data."""
        return {"healthy": self.healthy, **asdict(self)}


@dataclass(frozen=True)
class Effort:
    """How much is followed: the ``newest`` so many bytes (0: all), within so many seconds."""

    newest: int = 0
    within: float = 6 * 3600.0


ALL = Effort()


def follow(
    found: Report, primary: PrimaryWal, barman: Barman, host: Host, progress: Progress, effort: Effort = ALL
) -> Proof:
    """Follow the records from the newest backup's start, or the oldest file, to the last closed file, in parts.

    The parts overlap so that no record is left out. Ends at the first thing that is wrong. Raises OperationFailed.
    """
    if found.broken:
        (name, why), *_ = found.broken.items()
        return Proof("deep", "nothing was followed", f"{name}: {why}")
    if not found.whole:
        return Proof("deep", "", unable="not all files are there, and whole; the records were not followed")
    lineage, size = primary.lineage, primary.lineage.segment_size
    if wrong := _wrong_history(found, lineage, barman, host):
        return Proof("deep", "nothing else was followed", wrong)
    ((version,),) = host.fetch(Sql(primary.node, content.VERSION), content.LIMIT)
    oldest = (parse_name(found.first, size) or (0, 0))[1]
    first, end = chosen(oldest, (parse_name(found.last, size) or (0, 0))[1] + 1, lineage, effort.newest)
    begin = _begin_of_backup(barman, host) if found.backup and first == oldest else lsn(first * size)
    until = host.now() + effort.within
    part, length, shown = first, max(AT_ONCE // size, 2), 0
    while True:
        stop = min(part + length, end)
        left = min(until - host.now(), LIMIT)
        followed = f"followed from {begin} to {lsn(part * size)}"
        if left <= 0:
            return Proof("deep", followed, unable=f"not all was followed within {effort.within:.0f} s")
        said = content.ask(
            "follow",
            barman,
            host,
            left + 60,
            module="follow",
            names=[lineage.name(number) for number in range(part, stop)],
            start=begin if part == first else lsn(part * size),
            end=lsn(stop * size),
            segment_size=size,
            version=version,
            seconds=left,
        )
        if said["problem"] or said["unable"]:
            return Proof("deep", followed, said["problem"], said["unable"])
        if (percent := 100 * (stop - first) // (end - first)) > shown:
            shown = percent
            progress(stop - first, end - first)
        if stop == end:
            return Proof("deep", f"the records of {end - first} files follow each other, {begin} to {lsn(end * size)}")
        if said["again"] < stop - part:
            part = stop - said["again"]
        else:
            length *= 2  # a record that is longer than a part


def chosen(first: int, end: int, lineage: TimelineHistory, newest: int) -> tuple[int, int]:
    """Return which of the files are followed: those since before the switchpoint, and as many as ``newest`` bytes are.

    >>> from repmgr_hooks.cluster.wal import Switchpoint
    >>> lineage = TimelineHistory(2, (Switchpoint(1, 50 * 2**24 + 80),))
    >>> chosen(3, 53, lineage, 0), chosen(3, 53, lineage, 10 * 2**24), chosen(3, 99, lineage, 10 * 2**24)
    ((3, 53), (43, 53), (49, 59))
    """
    if not newest:
        return first, end
    count = max(newest // lineage.segment_size, 2)
    switch = lineage.switchpoints[-1].end // lineage.segment_size if lineage.switchpoints else end
    begin = max(first, min(end - count, switch - 1))
    return begin, min(begin + count, end)


def _wrong_history(found: Report, lineage: TimelineHistory, barman: Barman, host: Host) -> str:
    """Return which history file of Barman's tells another way than the primary's; empty if none does."""
    begun = int(found.first[:8], 16)
    wanted = [timeline for timeline in lineage.timelines if timeline > max(begun, 1)]
    texts = (
        content.ask("sums", barman, host, names=[history_name(timeline) for timeline in wanted])["texts"]
        if wanted
        else {}
    )
    for timeline in wanted:
        text = texts.get(history_name(timeline))
        try:
            switchpoints = parse_history(text or "")
        except (ValueError, IndexError):
            switchpoints = ()
        if switchpoints != lineage.switchpoints[: lineage.timelines.index(timeline)]:
            return f"{history_name(timeline)} is not that of the primary"
    return ""


def _begin_of_backup(barman: Barman, host: Host) -> str:
    show = Program((*barman.command, "show-backup", barman.server, "latest"))
    found = re.search(r"Begin LSN\s*: ([0-9A-F]+/[0-9A-F]+)", host.run(show, content.LIMIT))
    return found[1] if found else ""


def restore(
    found: Report, primary: PrimaryWal, barman: Barman, postgres: Postgres, host: Host, seconds: float
) -> Proof:
    """Restore the newest backup into a directory of its own, and say up to where. Raises OperationFailed."""
    if not found.backup:
        return Proof("restore", "", unable="Barman has no backup on the primary's way")
    size = primary.lineage.segment_size
    ((version,),) = host.fetch(Sql(primary.node, content.VERSION), content.LIMIT)
    last = (parse_name(found.last, size) or (0, 0))[1]
    said = content.ask(
        "restore",
        barman,
        host,
        seconds + 120,
        module="restore",
        version=version,
        seconds=seconds,
        user=postgres.user,
        dbname=postgres.dbname,
        target=(last + 1) * size,
    )
    if said["problem"] or said["unable"]:
        return Proof("restore", "nothing was proved", said["problem"], said["unable"])
    moment = f", last transaction {said['time']}" if said["time"] else ""
    text = f"a restore reaches {said['lsn']}{moment}"
    # The last record of a file may end in the next one. At the beginning of the last one nothing of it was replayed.
    if said["bytes"] <= last * size:
        return Proof("restore", text, f"Barman has WAL up to {lsn((last + 1) * size)}")
    try:
        flaw = content.damage(found.last, primary, barman, host)
    except OperationFailed as error:
        return Proof("restore", f"{text}; whether that is all of {found.last} is not known: {error}")
    return Proof("restore", text, flaw and f"{found.last} is damaged: {flaw}")
