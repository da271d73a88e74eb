"""Is the WAL in Barman's hands whole, and can Barman's stream go on from a primary? Pure; ``archive.py`` looks.

pg_receivewal goes on after the newest file of its directory, on that file's timeline (pg_receivewal.c,
FindStreamingStart). A primary that left that timeline at a fork serves it up to there, as far as it still has the
files; Barman may have less than that, or more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath

from repmgr_hooks.cluster.observe import lsn
from repmgr_hooks.cluster.wal import TimelineHistory, last_closed_file, parse_name, shorten
from repmgr_hooks.settings.cluster import Barman
from repmgr_hooks.system.steps import Program, Step

REMEDY_LIMIT = 20.0
COMPLETE = 24
"""So long is the name of a complete file."""


class StreamPosition(Enum):
    """How Barman stands to a primary."""

    OK = "goes on where it stands"
    STREAM_GAP = "still lacks WAL that the primary no longer has"
    DIVERGED = "has WAL of an earlier timeline from beyond the fork"
    SEGMENT_BOUNDARY = "has all up to a fork that is the end of a file: pg_receivewal cannot step over it"
    NOT_IN_HISTORY = "is at a place that is not in the primary's history"


@dataclass(frozen=True)
class PrimaryWal:
    """The WAL of a primary: its lineage, how far it is written (in bytes), and the files that it still has."""

    node: int
    lineage: TimelineHistory
    lsn: int
    files: frozenset[str]
    checkpoint_timeline: int = 0
    history: str = ""
    """The history file of its timeline; empty on the first."""

    @property
    def last_closed(self) -> int:
        """The number of the last complete segment."""
        return self.lsn // self.lineage.segment_size - 1

    @property
    def last_closed_file(self) -> str:
        """Its name, if it was written on the primary's own timeline."""
        return last_closed_file(self.lineage.timeline, self.lsn, self.lineage.segment_size)


@dataclass(frozen=True)
class ArchivedWal:
    """Names of the files in Barman's hands: in pg_receivewal's ``directory``, and all, wherever they are.

    ``fences``: those of ours in ``directory`` that keep pg_receivewal from starting; see ``branch.py``.
    ``broken``: those that are there and not whole, and why; they count as missing.
    """

    directory: str
    streaming: frozenset[str]
    files: frozenset[str] = frozenset()
    fences: frozenset[str] = frozenset()
    broken: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StreamState:
    """Barman's position, and what follows from it.

    ``newest`` is the file in ``directory`` after which it goes on; its timeline was left at ``fork`` (with OK: only if
    the fork lies within that file). ``missing`` is what ``node`` no longer has. The remedy: to move ``stray`` away, and
    to let ``marker``, an empty partial file, be where pg_receivewal begins.
    """

    position: StreamPosition
    newest: str = ""
    fork: int = 0
    missing: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()
    marker: str = ""
    directory: str = ""
    node: int = 0


def classify(held: ArchivedWal, primary: PrimaryWal) -> StreamState:
    """Return how Barman's stream stands to the primary's WAL. AHEAD or BOUNDARY with ``missing`` is a gap besides."""
    size, lineage = primary.lineage.segment_size, primary.lineage
    found = {name: parsed for name in held.streaming if (parsed := parse_name(name, size))}
    if not found:
        return StreamState(StreamPosition.OK)
    newest = max(found, key=lambda name: (*reversed(found[name]), len(name) == COMPLETE))
    where, end, first = _place(newest, primary)
    last = (primary.lsn - 1) // size
    lacking = [number for number in range(first, last + 1) if lineage.name(number) not in primary.files]
    if where is StreamPosition.OK and not lacking:
        split = found[newest][0] < lineage.timeline and found[newest][1] == end // size
        return StreamState(StreamPosition.OK, newest, end if split else 0, directory=held.directory, node=primary.node)
    whole = lacking[-1] + 1 if lacking else first
    astray = (where is StreamPosition.NOT_IN_HISTORY or t != lineage.timeline_at(n) for t, n in found.values())
    return StreamState(
        StreamPosition.STREAM_GAP if where is StreamPosition.OK else where,
        newest,
        end,
        missing=tuple(map(lineage.name, lacking)),
        stray=tuple(sorted(name for name, off in zip(found, astray, strict=True) if off and found[name][1] >= whole)),
        marker=f"{lineage.name(whole)}.partial",
        directory=held.directory,
        node=primary.node,
    )


def _place(newest: str, primary: PrimaryWal) -> tuple[StreamPosition, int, int]:
    """Return the position (GAP left aside), where its timeline ends, and the first segment that Barman needs next."""
    size, lineage = primary.lineage.segment_size, primary.lineage
    timeline, number = parse_name(newest, size) or (0, 0)
    start = (number + (len(newest) == COMPLETE)) * size
    nowhere = StreamPosition.NOT_IN_HISTORY, 0, (primary.lsn - 1) // size
    if timeline not in lineage.timelines:
        return nowhere
    if lineage.timeline_at(start // size) < timeline:
        # Before that timeline began: 'receive-wal --reset' leaves it so, if the slot is older than the fork.
        return StreamPosition.NOT_IN_HISTORY, 0, start // size
    end = lineage.end_of(timeline)
    if end is None:
        return (StreamPosition.OK, primary.lsn, start // size) if start <= primary.lsn else nowhere
    if start < end:
        return StreamPosition.OK, end, start // size
    return StreamPosition.DIVERGED if start > end else StreamPosition.SEGMENT_BOUNDARY, end, end // size


def missing(held: Iterable[str], lineage: TimelineHistory, last: int, first: int | None = None) -> tuple[str, ...]:
    """Return which files a restore would lack up to a segment: from the oldest that is held on, or from ``first``."""
    there = frozenset(held)
    if first is None:
        first = oldest(there, lineage)
    return () if first is None else tuple(name for name in lineage.files(first, last) if name not in there)


def oldest(held: Iterable[str], lineage: TimelineHistory) -> int | None:
    """Return the number of the oldest held segment on the way to the primary's timeline."""
    found = (parse_name(name, lineage.segment_size) for name in held)
    return min((n for t, n in filter(None, found) if lineage.timeline_at(n) == t), default=None)


def remedy(standing: StreamState, barman: Barman) -> list[Step]:
    """Return the steps after which pg_receivewal goes on from the marker; nothing is deleted.

    Before them, receive-wal must be stopped. An empty partial file is accepted (receivelog.c, open_walfile).
    """
    directory, place = standing.directory, standing.marker[:COMPLETE]
    quarantine = str(PurePosixPath(directory).parent / f"quarantine-{place}")
    marker = f"{directory}/{standing.marker}"
    steps, made = [], [marker]
    if standing.stray:
        made.append(quarantine)
        files = [f"{directory}/{name}" for name in standing.stray]
        steps = [
            _step(f"make {quarantine}", barman, "mkdir", "-p", quarantine),
            _step(f"move {shorten(standing.stray)} there", barman, "mv", "-n", "-t", quarantine, *files),
        ]
    return [
        *steps,
        _step(f"let receive-wal begin at {place}", barman, "touch", marker),
        # Done by root, they would be of no use to Barman; Barman itself may give them to itself.
        _step("give them to Barman", barman, "chown", f"--reference={directory}", *made),
    ]


def keep_tail(standing: StreamState, barman: Barman) -> Step:
    """Return the step that keeps what only Barman has beyond the fork, before it goes on.

    While the standby was away, Barman alone may have acknowledged commits (``FIRST 1 (db2, barman_receive_wal)``).
    Their only copy is the rest of its partial file, which goes into the archive and is one day deleted with it.
    """
    name, fork = standing.newest, lsn(standing.fork)
    kept = PurePosixPath(standing.directory).parent / f"{name}.beyond-{fork.replace('/', '-')}"
    return _step(
        f"keep as {kept} what node {standing.node} never had: transactions beyond {fork}",
        barman,
        *("cp", "--archive", "--no-clobber", f"{standing.directory}/{name}", str(kept)),
    )


def _step(what: str, barman: Barman, *argv: str) -> Step:
    return Step(what, Program(barman.beside(*argv)), REMEDY_LIMIT)


def explain(standing: StreamState, barman: Barman, steps: Sequence[Step]) -> str:
    """Say in words what is wrong with Barman's position, and what to type."""
    node, place = f"node {standing.node}", standing.position
    what = f"{place.name}: Barman {place.value}; its newest file is {standing.newest}"
    if place in (StreamPosition.DIVERGED, StreamPosition.SEGMENT_BOUNDARY):
        what += f", and {node} left timeline {int(standing.newest[:8], 16)} at {lsn(standing.fork)}"
    if standing.missing:
        what += f"; {node} no longer has {shorten(standing.missing)}: keep what the old primary's pg_wal has of them"
    keep = " (what is moved may be the only copy of lost transactions)" if standing.stray else ""
    hole = ", for no older one can be restored beyond the hole" if standing.missing else ""
    typed = "; ".join(str(step.do) for step in steps)
    backup = " ".join((*barman.command, "backup", barman.server))
    return f"{what}. Nothing was changed. To go on, type{keep}: {typed}. Then make a base backup{hole}: {backup}"


def repairable(standing: StreamState) -> bool:
    """Return whether the remedy loses nothing that the primary has."""
    return standing.position in (StreamPosition.DIVERGED, StreamPosition.SEGMENT_BOUNDARY) and not standing.missing


def advice(missing: tuple[str, ...], barman: Barman, behind: bool = False) -> str:
    """Say in words what the missing files mean, and what to type."""
    if behind:
        return "Barman has not received these yet: see 'repmgr-hooks status', and barman.log if it does not stream"
    backup = " ".join((*barman.command, "backup", barman.server))
    return (
        f"ARCHIVE_GAP: Barman lacks {shorten(missing)}: no backup so far can be restored beyond that. If the old "
        f"primary's pg_wal still has it, keep it. Make a base backup: {backup}"
    )


def tells_of_hole(text: str) -> str:
    """Return what ``explain`` or ``advice`` says in an error, in short; empty if it says nothing of the kind.

    >>> tells_of_hole("FAILED after 0.1 s: barman {stream: true}: STREAM_GAP: Barman still lacks WAL; its newest ...")
    'STREAM_GAP: Barman still lacks WAL'
    """
    found = re.search(
        rf"\b(?:{'|'.join(place.name for place in StreamPosition)}|ARCHIVE_GAP|BRANCH_CONFLICT): Barman [^;:]*", text
    )
    return found[0] if found else ""
