"""One branch, one archive: does Barman hold WAL of another branch than the primary's? Pure; ``content.py`` looks.

A timeline is a number, the node that began it, and the position at which it began. PostgreSQL chooses the number after
the highest that the promoted node knows of (timeline.c, findNewestTimeLine): a node that never saw timeline 2, and has
no restore_command that could bring its history file, makes another timeline 2. Names do not tell the two apart, even
their history files may be equal. WAL of both in one archive makes each worthless beyond the switchpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import PurePosixPath

from repmgr_hooks.barman.wal_continuity import COMPLETE, ArchivedWal, PrimaryWal
from repmgr_hooks.cluster.wal import file_name, history_name, parse_name
from repmgr_hooks.errors import Problem
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.steps import Program, Step

LIMIT = 60.0
NAME = "BRANCH_CONFLICT"


class ConflictKind(Enum):
    """What shows that Barman holds another branch."""

    UNKNOWN_TIMELINE = "timeline {timeline}, which is newer and not in the primary's history ({file})"
    HISTORY = "another history of timeline {timeline} than the primary ({file})"
    CONTENT = "other bytes than the primary in {file}"
    AHEAD = "WAL of the primary's own timeline that the primary has not written yet ({file})"
    ORIGIN = "timeline {timeline} that another node began, and nothing of it could be compared ({file})"


@dataclass(frozen=True)
class BranchConflict:
    """Barman holds another branch of a timeline than the primary; ``file`` shows it."""

    kind: ConflictKind
    timeline: int
    file: str

    def __str__(self) -> str:
        return self.kind.value.format(timeline=self.timeline, file=self.file)


@dataclass(frozen=True)
class Compared:
    """Which files were compared with the primary's: those that are ``equal``, and those that are not.

    ``damaged``: those whose records do not even hold together, and why; that says nothing about a branch.
    """

    equal: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    history: str | None = None
    """Barman's history file of the primary's timeline; None if it has none."""
    damaged: Mapping[str, str] = field(default_factory=dict)


def find(
    held: ArchivedWal, primary: PrimaryWal, compared: Compared, began: Mapping[int, int] | None = None
) -> BranchConflict | None:
    """Return what shows most surely that Barman holds another branch; None if nothing does.

    ``began``: of each timeline, the node that was seen to begin it; asked only while nothing streams from the primary.
    """
    size, timeline = primary.lineage.segment_size, primary.lineage.timeline
    if compared.different:
        name = compared.different[0]
        return BranchConflict(ConflictKind.CONTENT, int(name[:8], 16), name)
    if compared.history is not None and compared.history.split() != primary.history.split():
        return BranchConflict(ConflictKind.HISTORY, timeline, history_name(timeline))
    if newer := sorted(name for name in held.files if counts(name) and int(name[:8], 16) > timeline):
        return BranchConflict(ConflictKind.UNKNOWN_TIMELINE, int(newer[-1][:8], 16), newer[-1])
    own = sorted(name for name in held.files if len(name) == COMPLETE and name.startswith(f"{timeline:08X}"))
    if own and (parse_name(own[-1], size) or (0, 0))[1] > primary.last_closed:
        return BranchConflict(ConflictKind.AHEAD, timeline, own[-1])
    other = began is not None and began.get(timeline, primary.node) != primary.node
    if own and other and not any(name in compared.equal for name in own):
        return BranchConflict(ConflictKind.ORIGIN, timeline, own[-1])
    return None


def counts(name: str) -> bool:
    """True for what a restore would read: complete WAL files and history files."""
    return len(name) == COMPLETE or name.endswith(".history")


def to_compare(held: Collection[str], primary: PrimaryWal) -> tuple[str, ...]:
    """Return the closed files that are worth comparing, of those that both have: the newest and the oldest of the
    primary's own timeline; if there are none of it, the newest of all.

    The newest shows whether the primary goes on from there, the oldest whether it began the timeline.
    """
    size, lineage = primary.lineage.segment_size, primary.lineage
    found = {name: parse_name(name, size) for name in primary.files & frozenset(held) if len(name) == COMPLETE}
    closed = sorted(
        (number, name)
        for name, parsed in found.items()
        if parsed and (number := parsed[1]) <= primary.last_closed and lineage.name(number) == name
    )
    own = [name for _, name in closed if name.startswith(f"{lineage.timeline:08X}")] or [n for _, n in closed[-1:]]
    return tuple(dict.fromkeys([*own[-1:], *own[:1]]))


def fence_name(segment_size: int) -> str:
    """Return the name of an empty partial file that keeps pg_receivewal from starting, whoever starts it.

    It takes the newest file of its directory for its place (pg_receivewal.c, FindStreamingStart), and no server has
    WAL up to there. Barman's cron would start it every minute, as soon as the primary has written beyond the place
    where the other branch ended; not to start it is not enough. The highest timeline, for Barman leaves only the last
    partial file where it is (wal_archiver.py, get_next_batch).

    >>> fence_name(16 * 1024 * 1024)
    'FFFFFFFFFFFFFFFF000000FF.partial'
    """
    return f"{file_name(0xFFFF_FFFF, (1 << 64) // segment_size - 1, segment_size)}.partial"


def is_fence(name: str) -> bool:
    """True for the name of such a file."""
    return name.startswith("F" * 16) and name.endswith(".partial")


@dataclass(frozen=True)
class Fence:
    """Keeps receive-wal out of ``directory``: the file ``name``, or those that are ``there`` already.

    ``begin``: behind a fence Barman archives all complete files, and pg_receivewal, when its directory is empty, begins
    where the slot stands; then it is to begin with this file.
    """

    directory: str = ""
    name: str = ""
    there: frozenset[str] = frozenset()
    begin: str = ""


def fence_of(held: ArchivedWal, primary: PrimaryWal) -> Fence:
    """Return the fence that is there, or would be put up."""
    empty = not any(parse_name(name, primary.lineage.segment_size) for name in held.streaming)
    begin = marker((), held, primary) if empty else ""
    return Fence(held.directory, fence_name(primary.lineage.segment_size), held.fences, begin)


def put_up(fence: Fence, barman: Barman) -> list[Step]:
    """Return the steps after which no receive-wal can start."""
    return _made("let no receive-wal start: the archive is of another branch", fence.directory, fence.name, barman)


def take_away(fence: Fence, barman: Barman) -> list[Step]:
    """Return the steps after which receive-wal can start again."""
    if not fence.there:
        return []
    what, name = f"let receive-wal begin at {fence.begin}", f"{fence.begin}.partial"
    first = _made(what, fence.directory, name, barman) if fence.begin else []
    places = [f"{fence.directory}/{name}" for name in sorted(fence.there)]
    return [*first, _step("let receive-wal start again", "allow_stream", barman, "rm", "-f", *places)]


def _made(what: str, directory: str, name: str, barman: Barman) -> list[Step]:
    """An empty file, which is to be Barman's also if we are root."""
    place = f"{directory}/{name}"
    give = _step("give that file to Barman", "give_to_barman", barman, "chown", f"--reference={directory}", place)
    return [_step(what, "mark_start", barman, "touch", place), give]


def marker(dead: Collection[int], held: ArchivedWal, primary: PrimaryWal) -> str:
    """Return where pg_receivewal has to begin when all of some timelines is moved aside: after what is left.

    What the primary no longer has is not waited for.
    """
    size, lineage = primary.lineage.segment_size, primary.lineage
    found = [parse_name(name, size) for name in held.files if len(name) == COMPLETE and int(name[:8], 16) not in dead]
    left = max((number for t, number in filter(None, found) if lineage.timeline_at(number) == t), default=-1)
    last = (primary.lsn - 1) // size
    lacking = [n for n in range(max(left + 1, 0), last + 1) if lineage.name(n) not in primary.files]
    return lineage.name(max(lacking[-1] if lacking else left, left) + 1)


def way_out(
    conflict: BranchConflict, held: ArchivedWal, primary: PrimaryWal, places: Mapping[str, str], barman: Barman
) -> list[Step]:
    """Return the steps that move the other branch aside, wherever it is, and let the stream begin after the rest."""
    newer = {int(name[:8], 16) for name in held.files if counts(name)} - set(range(primary.lineage.timeline + 1))
    dead = sorted({conflict.timeline, *newer})
    # A name of its own: what was moved aside before stays there.
    newest = max(name for name in held.files if counts(name) and int(name[:8], 16) in dead)
    aside = str(PurePosixPath(places["backup_directory"]) / f"other-branch-{newest.partition('.')[0]}")
    fence = fence_of(held, primary)
    begin = f"{held.directory}/{marker(dead, held, primary)}.partial"
    names = [word for timeline in dead for word in ("-o", "-name", f"{timeline:08X}*")][1:]
    directories = [f"{places[key]}/" for key in ("streaming_wals_directory", "incoming_wals_directory")]
    # Barman keeps 2^32 bytes of a timeline in a directory; the history files stand beside these.
    directories.append(f"{places['wals_directory']}/")
    chosen = ("-mindepth", "1", "-maxdepth", "1", "(", *names, ")", "!", "-name", fence.name)
    move = ("-exec", "mv", "-n", "-t", aside, "{}", "+")
    numbers = " and ".join(map(str, dead))
    rebuild = Program((*barman.command, "rebuild-xlogdb", barman.server))
    return [
        _step(f"make {aside}", "make_quarantine", barman, "mkdir", "-p", aside),
        _step(
            f"move timeline {numbers} there",
            "move_wal",
            barman,
            "find",
            *directories,
            *chosen,
            *move,
        ),
        _step("let receive-wal begin after what is left", "mark_start", barman, "touch", begin),
        _step("give them to Barman", "give_to_barman", barman, "chown", f"--reference={held.directory}", aside, begin),
        Step("let Barman see what it has now", rebuild, LIMIT, kind="rebuild_xlogdb", target=barman.server),
        *take_away(replace(fence, there=held.fences or frozenset([fence.name]), begin=""), barman),
    ]


def explain(conflict: BranchConflict, node: int, steps: Collection[Step], barman: Barman) -> Problem:
    """Say what is wrong, and which commands set it right."""
    typed = "; ".join(str(step.do) for step in steps)
    backup = " ".join((*barman.command, "backup", barman.server))
    number = conflict.timeline
    return Problem(
        "branch_conflict",
        f"{NAME}: Barman holds {conflict}: its archive is of another branch than node {node}, and nothing of "
        f"this branch is received. A restore now would bring back the other branch",
        f"to continue, run (what is moved may be the only copy of its transactions; backups that were made on the "
        f"other timeline {number} are of no use for this one): {typed}. Then make a base backup, after "
        f"'repmgr-hooks reconcile': {backup}",
    )


def _step(what: str, kind: str, barman: Barman, *argv: str) -> Step:
    return Step(what, Program(barman.beside(*argv)), LIMIT, kind=kind, target=barman.server)
