"""The nearest thing to a restore without one, and the real thing: what ``check-wal --deep`` and ``--restore`` do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from repmgr_hooks.barman import content
from repmgr_hooks.barman.archive import Report
from repmgr_hooks.barman.wal_continuity import PrimaryWal
from repmgr_hooks.cluster.observe import lsn
from repmgr_hooks.cluster.wal import TimelineHistory, history_name, parse_history, parse_name
from repmgr_hooks.settings.cluster import Barman, Postgres
from repmgr_hooks.system.steps import Host, Program, Sql

LIMIT = 900.0
"""Seconds for one part."""
AT_ONCE = 256 * 1024 * 1024
"""Bytes of WAL that lie without compression on Barman's disk meanwhile."""
VERSION = "select current_setting('server_version_num')::int / 10000"

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


def follow(found: Report, primary: PrimaryWal, barman: Barman, host: Host, progress: Progress) -> Proof:
    """Follow the records from the newest backup's start, or the oldest file, to the last closed file, in parts.

    Each part begins a file before the end of the last one, so the way from file to file is followed everywhere. Ends at
    the first thing that is wrong. Raises OperationFailed.
    """
    if not found.healthy:
        return Proof("deep", "", unable="what is above comes first; the records were not followed")
    lineage, size = primary.lineage, primary.lineage.segment_size
    if wrong := _wrong_history(found, lineage, barman, host):
        return Proof("deep", "nothing else was followed", wrong)
    ((version,),) = host.fetch(Sql(primary.node, VERSION), content.LIMIT)
    first = (parse_name(found.first, size) or (0, 0))[1]
    end = (parse_name(found.last, size) or (0, 0))[1] + 1
    begin = _begin_of_backup(barman, host) if found.backup else ""
    for a, b in parts(first, end, max(AT_ONCE // size, 2)):
        start = begin if a == first and begin else lsn(a * size)
        said = content.ask(
            "follow",
            barman,
            host,
            LIMIT + 60,
            module="follow",
            names=[lineage.name(number) for number in range(a, b)],
            start=start,
            end=lsn(b * size),
            segment_size=size,
            version=version,
            seconds=LIMIT,
        )
        if said["problem"] or said["unable"]:
            followed = f"followed from {begin or lsn(first * size)} to {lsn(a * size)}"
            return Proof("deep", followed, said["problem"], said["unable"])
        progress(b - first, end - first)
    return Proof(
        "deep",
        f"the records of {end - first} files follow each other, {begin or lsn(first * size)} to {lsn(end * size)}",
    )


def parts(first: int, end: int, length: int) -> Iterator[tuple[int, int]]:
    """Return the parts of a row of files, each beginning with the last file of the one before.

    >>> list(parts(1, 10, 4))
    [(1, 5), (4, 8), (7, 10)]
    """
    while first < end:
        yield first, min(first + length, end)
        first = first + length - 1 if first + length < end else end


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
            forks = parse_history(text or "")
        except (ValueError, IndexError):
            forks = ()
        if forks != lineage.forks[: lineage.timelines.index(timeline)]:
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
    ((version,),) = host.fetch(Sql(primary.node, VERSION), content.LIMIT)
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
    text = f"a restore comes up to {said['lsn']}{moment}"
    # The last record of a file may end in the next one.
    short = said["bytes"] < last * size
    return Proof("restore", text, f"Barman has WAL up to {lsn((last + 1) * size)}" if short else "")
