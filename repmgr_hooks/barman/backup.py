"""The newest backup, and what Barman has from there on: what a restore lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from repmgr_hooks.barman import archive, wal_continuity
from repmgr_hooks.barman.wal_continuity import ArchivedWal, PrimaryWal
from repmgr_hooks.cluster.wal import TimelineHistory, lsn, parse_name, position
from repmgr_hooks.errors import Problem, hint_lines
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.steps import Host


def newest(barman: Barman, host: Host) -> tuple[str, int]:
    """Return the first WAL file that the newest complete backup needs, and where in the WAL it ended (0: unknown); the
    file is empty if there is no backup. Raises OperationFailed.
    """
    show = archive.ask(barman, "show-backup", barman.server, "latest", tolerate="Unknown backup 'latest'")
    said = host.run(show, archive.LIMIT)
    begun = re.search(r"Begin WAL\s*: ([0-9A-F]{24})", said)
    ended = re.search(r"End LSN\s*: ([0-9A-F]{1,8}/[0-9A-F]{1,8})\b", said)
    return begun[1] if begun else "", (position(ended[1]) or 0) if ended else 0


def hole(held: ArchivedWal, primary: PrimaryWal, barman: Barman, host: Host) -> tuple[str, ...]:
    """Return what a restore of the newest backup lacks. Barman's backups are asked for only if something is missing.

    An empty archive lacks nothing between its files; that of a disk that is not mounted is empty.
    """
    in_archive = held.files - held.streaming
    if in_archive and not wal_continuity.missing(held.files, primary.lineage, primary.last_closed):
        return ()
    return report(held, primary, barman, host).missing


@dataclass(frozen=True)
class Report:
    """What Barman should have, from ``first`` to ``last``, and which files of that are ``missing``.

    It begins with the newest ``backup`` (its first file), else with the oldest file that Barman has. ``behind``: all
    that is missing is newer than all that is there.
    """

    server: str
    first: str = ""
    last: str = ""
    files: int = 0
    backup: str = ""
    missing: tuple[str, ...] = ()
    behind: bool = False
    code: str = ""
    message: str = ""
    hint: str = ""
    broken: Mapping[str, str] = field(default_factory=dict)
    """Why some of what is missing is not whole, although a file of that name is there."""
    conflict: Problem | None = None
    """Why what is there is of another branch than the primary's."""
    no_backup: Problem | None = None
    """Why the newest backup cannot be restored along the primary's timeline; or that there is none."""

    @property
    def whole(self) -> bool:
        """True if there is WAL, and none of it is missing or of another branch."""
        return bool(self.files) and not self.missing and not self.conflict

    @property
    def healthy(self) -> bool:
        """True if there is a backup that can be restored with it, too."""
        return self.whole and not self.no_backup

    def lines(self, cluster: str) -> list[str]:
        """Return the lines for the screen."""
        if self.conflict:
            return _told(f"{cluster}: {self.conflict}", self.conflict.hint)
        if not self.files:
            return _told(f"{cluster}: UNKNOWN: {self.message}", self.hint)
        backup = _told(f"{cluster}: {self.no_backup}", self.no_backup.hint) if self.no_backup else []
        if not self.missing and backup:
            return backup
        since = "the newest backup" if self.backup else "the oldest file; Barman has no backup on this way"
        checked = f"{self.first} to {self.last}, {self.files} files, since {since}"
        if self.healthy:
            return [f"{cluster}: OK: {checked}"]
        headline = f"{'BEHIND' if self.behind else 'ARCHIVE_GAP'}: {len(self.missing)} missing of {checked}"
        return [
            f"{cluster}: {headline}",
            *map(self._line, self.missing),
            *_told(f"  {self.message}", self.hint),
            *backup,
        ]

    def _line(self, name: str) -> str:
        return f"  BROKEN {name}: {self.broken[name]}" if name in self.broken else f"  MISSING {name}"

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain data."""
        # A problem is a tuple, which JSON would show as a list.
        problems = {"conflict": self.conflict, "no_backup": self.no_backup}
        plain = {name: problem and problem._asdict() for name, problem in problems.items()}
        return {"healthy": self.healthy, **asdict(self), **plain}


def _told(line: str, hint: str) -> list[str]:
    return [line, *(f"  {line}" for line in hint_lines(hint))]


def _no_backup(backup: str, ended: int, lineage: TimelineHistory, barman: Barman) -> Problem | None:
    """PostgreSQL refuses one beyond a switchpoint: "WAL ends before end of online backup" (xlogrecovery.c)."""
    hint = barman.backup_command
    if (begin := parse_name(backup, lineage.segment_size)) is None:
        return Problem("no_backup", "NO_BACKUP: Barman has no complete backup: nothing can be restored", hint)
    timeline, switchpoint = begin[0], lineage.end_of(begin[0])
    if switchpoint is not None and ended > switchpoint:
        what = f"ended at {lsn(ended)}, timeline {timeline} at {lsn(switchpoint)}"
    elif lineage.timeline_at(begin[1]) != timeline:
        what = f"begins with {backup}, which is not in the primary's history"
    else:
        return None
    what = f"BACKUP_BEYOND: the newest backup {what}: it cannot be restored along the primary's timeline"
    return Problem("backup_beyond", what, hint)


def report(held: ArchivedWal, primary: PrimaryWal, barman: Barman, host: Host) -> Report:
    """Compare what Barman has with what it should have since its newest backup. Raises OperationFailed."""
    lineage = primary.lineage
    backup, ended = newest(barman, host)
    begin = parse_name(backup, lineage.segment_size)
    # A backup beyond a switchpoint cannot be restored along the primary's timeline.
    usable = begin is not None and lineage.timeline_at(begin[1]) == begin[0]
    first = begin[1] if begin and usable else wal_continuity.oldest(held.files, lineage)
    if first is None:
        return Report(
            barman.server, code="no_wal", message=f"Barman has no WAL of timeline {lineage.timeline} or before it"
        )
    wanted = lineage.files(first, max(first, primary.last_closed))
    missing = wal_continuity.missing(held.files, lineage, primary.last_closed, first)
    newer = any(name > missing[0] for name in wanted if name in held.files) if missing else False
    behind = bool(missing) and not newer and not any(name in held.broken for name in missing)
    said = Problem("", "")
    if missing:
        said = wal_continuity.BEHIND if behind else Problem.of(wal_continuity.archive_gap(missing, barman))
    begun = backup if usable else ""
    broken = {name: held.broken[name] for name in missing if name in held.broken}
    told = (said.code, said.message, said.hint)
    unusable = _no_backup(backup, ended, lineage, barman)
    seen = (wanted[0], wanted[-1], len(wanted), begun, missing, behind, *told, broken)
    return Report(barman.server, *seen, no_backup=unusable)
