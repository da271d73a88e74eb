"""Is Barman's WAL complete, and can Barman's stream continue from a primary? Pure; ``archive.py`` looks.

pg_receivewal goes on after the newest file of its directory, on that file's timeline (pg_receivewal.c,
FindStreamingStart). A primary that left that timeline at a switchpoint serves it up to there, as far as it still has
the files; Barman may have less than that, or more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import PurePosixPath

from repmgr_hooks.cluster.wal import TimelineHistory, last_closed_file, lsn, parse_name, shorten
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.steps import Program, Step

REMEDY_LIMIT = 20.0
COMPLETE = 24
"""So long is the name of a complete file."""


class StreamPosition(Enum):
    """How Barman stands to a primary."""

    OK = "goes on where it stands"
    STREAM_GAP = "still lacks WAL that the primary no longer has"
    DIVERGED = "has WAL of an earlier timeline from beyond the switchpoint"
    SEGMENT_BOUNDARY = "has all up to a switchpoint that is the end of a file, over which pg_receivewal cannot step"
    NOT_IN_HISTORY = "is at a place that is not in the primary's history"

    @property
    def code(self) -> str:
        """Its name for programs."""
        return self.name.lower()


FAULTS = {
    **{place.code: f"{place.name}: Barman {place.value}" for place in StreamPosition if place is not StreamPosition.OK},
    "archive_gap": "ARCHIVE_GAP: Barman lacks WAL that a restore needs",
    "branch_conflict": "BRANCH_CONFLICT: Barman holds another branch than the primary's",
}
"""The codes of errors after which no backup so far can be restored up to now, or not without a hand, in words."""


@dataclass(frozen=True)
class PrimaryWal:
    """The WAL of a primary: its lineage, how far it is written (in bytes), and the files that it still has."""

    node: int
    lineage: TimelineHistory
    lsn: int
    files: frozenset[str]
    history: str = ""
    """The history file of its timeline; empty on the first."""
    may_switch: bool = False
    """Whether our role may have a file closed there."""

    @property
    def last_closed(self) -> int:
        """The number of the last complete segment."""
        return self.lsn // self.lineage.segment_size - 1

    @property
    def open_file(self) -> str:
        """The name of the file that it writes to, or will next."""
        return self.lineage.name(self.lsn // self.lineage.segment_size)

    @property
    def last_closed_file(self) -> str:
        """Its name, if it was written on the primary's own timeline."""
        return last_closed_file(self.lineage.timeline, self.lsn, self.lineage.segment_size)

    @property
    def has_closed_one(self) -> bool:
        """Whether it has closed a file of its own timeline."""
        return self.last_closed >= 0 and self.lineage.timeline_at(self.last_closed) == self.lineage.timeline


@dataclass(frozen=True)
class ArchivedWal:
    """Names of the files in Barman's hands: in pg_receivewal's ``directory``, and all, wherever they are.

    ``fences``: those of ours in ``directory`` that keep pg_receivewal from starting; see ``branch.py``.
    ``broken``: those that are there and not whole, and why; they count as missing. ``marks``: what stays the same of
    each while nobody writes to it.
    """

    directory: str
    streaming: frozenset[str]
    files: frozenset[str] = frozenset()
    fences: frozenset[str] = frozenset()
    broken: Mapping[str, str] = field(default_factory=dict)
    marks: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class StreamState:
    """Barman's position, and what follows from it.

    ``newest`` is the file in ``directory`` after which it goes on; its timeline was left at ``switchpoint`` (with OK:
    only if the switchpoint lies within that file). ``missing`` is what ``node`` no longer has. The remedy: to move
    ``stray`` away, and to let ``marker``, an empty partial file, be where pg_receivewal begins.
    """

    position: StreamPosition
    newest: str = ""
    switchpoint: int = 0
    missing: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()
    marker: str = ""
    directory: str = ""
    node: int = 0


def classify(held: ArchivedWal, primary: PrimaryWal) -> StreamState:
    """Return how Barman's stream stands to the primary's WAL; wherever it stands, ``missing`` is a gap besides."""
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
        # Before that timeline began: 'receive-wal --reset' leaves it so, if the slot is older than the switchpoint.
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


def remedy(stream_state: StreamState, barman: Barman) -> list[Step]:
    """Return the steps after which pg_receivewal goes on from the marker; nothing is deleted.

    Before them, receive-wal must be stopped. An empty partial file is accepted (receivelog.c, open_walfile).
    """
    directory, place = stream_state.directory, stream_state.marker[:COMPLETE]
    quarantine = str(PurePosixPath(directory).parent / f"quarantine-{place}")
    marker = f"{directory}/{stream_state.marker}"
    steps, made = [], [marker]
    if stream_state.stray:
        made.append(quarantine)
        files = [f"{directory}/{name}" for name in stream_state.stray]
        steps = [
            _step(f"make {quarantine}", "make_quarantine", barman, "mkdir", "-p", quarantine),
            _step(
                f"move {shorten(stream_state.stray)} there", "move_wal", barman, "mv", "-n", "-t", quarantine, *files
            ),
        ]
    return [
        *steps,
        _step(f"let receive-wal begin at {place}", "mark_start", barman, "touch", marker),
        # Done by root, they would be of no use to Barman; Barman itself may give them to itself.
        _step("give them to Barman", "give_to_barman", barman, "chown", f"--reference={directory}", *made),
    ]


def keep_tail(stream_state: StreamState, barman: Barman) -> Step:
    """Return the step that keeps what only Barman has beyond the switchpoint, before it goes on.

    While the standby was away, Barman alone may have acknowledged commits (``FIRST 1 (db2, barman_receive_wal)``).
    Their only copy is the rest of its partial file, which goes into the archive and is one day deleted with it.
    """
    name, switchpoint = stream_state.newest, lsn(stream_state.switchpoint)
    kept = PurePosixPath(stream_state.directory).parent / f"{name}.beyond-{switchpoint.replace('/', '-')}"
    return _step(
        f"keep as {kept} what node {stream_state.node} never had: transactions beyond {switchpoint}",
        "keep_wal",
        barman,
        *("cp", "--archive", "--no-clobber", f"{stream_state.directory}/{name}", str(kept)),
    )


def _step(what: str, kind: str, barman: Barman, *argv: str) -> Step:
    return Step(what, Program(barman.beside(*argv)), REMEDY_LIMIT, kind=kind, target=barman.server)


def stream_gap(stream_state: StreamState, barman: Barman, steps: Sequence[Step]) -> OperationFailed:
    """Return the error that says what is wrong with Barman's position; its hint, what to type."""
    node, place = f"node {stream_state.node}", stream_state.position
    what = f"{FAULTS[place.code]}; its newest file is {stream_state.newest}"
    if place in (StreamPosition.DIVERGED, StreamPosition.SEGMENT_BOUNDARY):
        what += f", and {node} left timeline {int(stream_state.newest[:8], 16)} at {lsn(stream_state.switchpoint)}"
    old = ""
    if stream_state.missing:
        what += f"; {node} no longer has {shorten(stream_state.missing)}"
        old = "keep what the old primary's pg_wal has of the missing files. "
    keep = " (what is moved may be the only copy of lost transactions)" if stream_state.stray else ""
    gap = ", because no older one can be restored beyond the gap" if stream_state.missing else ""
    typed = "; ".join(str(step.do) for step in steps)
    backup = " ".join((*barman.command, "backup", barman.server))
    hint = f"{old}To continue, run{keep}: {typed}. Then make a base backup{gap}: {backup}"
    return OperationFailed(f"{what}; nothing was changed", code=place.code, hint=hint)


def repairable(stream_state: StreamState) -> bool:
    """Return whether the remedy loses nothing that the primary has."""
    return (
        stream_state.position in (StreamPosition.DIVERGED, StreamPosition.SEGMENT_BOUNDARY) and not stream_state.missing
    )


def archive_gap(missing: tuple[str, ...], barman: Barman) -> OperationFailed:
    """Return the error that says what the missing files mean; its hint, what to type."""
    backup = " ".join((*barman.command, "backup", barman.server))
    return OperationFailed(
        f"ARCHIVE_GAP: Barman lacks {shorten(missing)}: no backup so far can be restored beyond that",
        code="archive_gap",
        hint=f"if the old primary's pg_wal still has it, keep it. Make a base backup: {backup}",
    )


BEHIND = Problem(
    "behind",
    "Barman has not received these yet",
    "see 'repmgr-hooks status', and barman.log if Barman does not stream",
)
