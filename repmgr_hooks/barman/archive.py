"""Which WAL a primary has, and which Barman has: what ``wal_continuity.py`` compares."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import PurePosixPath

from repmgr_hooks.barman.branch import is_fence
from repmgr_hooks.barman.wal_continuity import COMPLETE, ArchivedWal, PrimaryWal, StreamPosition, StreamState
from repmgr_hooks.cluster.wal import Switchpoint, TimelineHistory, parse_history, position
from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.steps import Host, Program, Rows, Sql

LIMIT = 30.0
SHOWN_SINCE = {"cluster": (3, 10), "encryption": (3, 14)}
"""With which version ``show-server`` began to show an option (config.py, ServerConfig.KEYS)."""
CLEANS_UP_LOCKS = (3, 10)
"""Its cron removes the lock file of the receive-wal that it has just started (utils.py:1154-1185)."""
SMALLEST = 1024 * 1024
"""No WAL file is smaller (initdb --wal-segsize)."""
FORMS = ("none", "gzip", "pygzip", "pigz", "bzip2", "pybzip2", "xz", "lz4", "zstd")
DIRECTORIES = ("streaming_wals_directory", "incoming_wals_directory", "wals_directory")
"""In the order in which a file moves: one that is moved while they are listed is seen all the same."""

WRITTEN = """
select (case when pg_is_in_recovery() then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
             else pg_current_wal_lsn() end)::text,
       (select setting::bigint from pg_settings where name = 'wal_segment_size'),
       has_function_privilege('pg_catalog.pg_switch_wal()', 'execute'), (select array_agg(name) from pg_ls_waldir()),
       pg_is_in_recovery()
"""


def look_beside(barman: Barman, *words: str, tolerate: str = "", stdin: str = "") -> Program:
    """Return the program that looks at something where Barman runs."""
    return Program(barman.beside(*words), tolerate=tolerate, stdin=stdin, over=barman.login)


def ask(barman: Barman, *words: str, tolerate: str = "", constant: bool = False, ahead: bool = False) -> Program:
    """Return the program that asks Barman something."""
    return Program((*barman.command, *words), tolerate=tolerate, constant=constant, ahead=ahead, over=barman.login)


def look_at_primary(node: int, timeline: int, host: Host) -> PrimaryWal:
    """Ask a primary for its WAL and its history. Raises OperationFailed.

    A standby is taken as if it had just been promoted to that timeline (``engine/simulation.py``).
    """
    with answer_of(node):
        ((written, segment_size, may_switch, files, standby),) = host.fetch(Sql(node, WRITTEN), LIMIT)
        if type(segment_size) is not int or segment_size < 2**20:
            raise ValueError(f"{segment_size!r:.50} is not a WAL segment size")
        end, known = position(written) or 0, timeline - standby
        history = _history(node, known, host) if known > 1 else ""
        switchpoints = parse_history(history)
        lineage = TimelineHistory(
            timeline, (*switchpoints, Switchpoint(known, end)) if standby else switchpoints, segment_size
        )
        first = [lineage.name(end // segment_size)] if standby else []
        return PrimaryWal(node, lineage, end, frozenset([*files, *first]), history, may_switch is True)


def look_again(primary: PrimaryWal, host: Host) -> PrimaryWal:
    """Return how far the same primary is now: Barman must not seem to be ahead of it. Raises OperationFailed."""
    with answer_of(primary.node):
        ((written, _, _, files, _),) = host.fetch(Sql(primary.node, WRITTEN), LIMIT)
        return replace(primary, lsn=position(written) or 0, files=frozenset(files))


def _history(node: int, timeline: int, host: Host) -> str:
    """The walsender's command needs only what creating a slot needs too; ``pg_read_file`` would read everything."""
    rows: Rows = host.fetch(Sql(node, f"TIMELINE_HISTORY {timeline}", walsender=True), LIMIT)
    text = rows[0][1]
    return text.decode(errors="replace") if isinstance(text, bytes) else str(text)  # bytes before PostgreSQL 15


def has_a_tail(stream_state: StreamState, segment_size: int, barman: Barman, host: Host) -> bool:
    """Whether Barman has more in the file of a switchpoint than the primary ever had. Raises OperationFailed.

    pg_receivewal pads a file with zeros (receivelog.c, open_walfile).
    """
    offset = stream_state.switchpoint % segment_size
    if stream_state.position is not StreamPosition.OK or not offset:
        return False
    words = ("cmp", f"--ignore-initial={offset}:0", f"{stream_state.directory}/{stream_state.newest}", "/dev/zero")
    return "differ" in host.run(look_beside(barman, *words, tolerate="^cmp: EOF on|^$"), LIMIT)


def look_at_archive(barman: Barman, host: Host) -> ArchivedWal:
    """List all that Barman has, on its disk and not in its catalogue. Raises OperationFailed."""
    directory, *others = [places(barman, host)[name] for name in DIRECTORIES]
    found = _files(barman, host, directory, *others)
    broken = {name: why for path, size, _ in found if (why := _flaw(path, size, directory)) and (name := path.name)}
    whole = [path for path, _, _ in found if path.name not in broken]
    streaming = frozenset(path.name for path in whole if str(path.parent) == directory)
    fences = frozenset(filter(is_fence, streaming))
    marks: dict[str, str] = {}
    for path, _, mark in found:  # one that is being moved is there twice
        marks[path.name] = f"{marks.get(path.name, '')} {mark}"
    files = frozenset(path.name for path in whole) - fences
    return ArchivedWal(directory, streaming - fences, files, fences, broken, marks)


def _flaw(path: PurePosixPath, size: int, streaming: str) -> str:
    """Return why a file does not count, as far as its size shows: pg_receivewal pads, and Barman compresses later.

    pg_receivewal itself skips a complete file of a wrong size (pg_receivewal.c, FindStreamingStart).
    """
    if path.suffix == ".partial":
        return ""
    if not size:
        return "is empty"
    wrong = len(path.name) == COMPLETE and str(path.parent) == streaming and (size & (size - 1) or size < SMALLEST)
    return f"has {size} bytes, which is not the size of a WAL file" if wrong else ""


def shown(
    barman: Barman, host: Host, limit: float = LIMIT, constant: bool = False, ahead: bool = False
) -> dict[str, str]:
    """Return what Barman says of a server: its settings, and if it can connect, what it sees. Raises OperationFailed.

    From the text, in which Barman hides passwords; the JSON shows them (Barman 3.4 to 3.19).
    """
    return dict(_settings(host.run(ask(barman, "show-server", barman.server, constant=constant, ahead=ahead), limit)))


@lru_cache(1000)
def _settings(printed: str) -> tuple[tuple[str, str], ...]:
    return tuple(re.findall(r"^\s*(\w+): (.*?)\s*$", printed, re.MULTILINE))


def places(barman: Barman, host: Host, limit: float = LIMIT, ahead: bool = False) -> dict[str, str]:
    """Return Barman's directories by the names of its options. Raises OperationFailed.

    Asked once, for Barman connects first; ``ahead``: nobody needs it yet.
    """
    said = shown(barman, host, limit, constant=True, ahead=ahead)
    for name in (*DIRECTORIES, "backup_directory"):
        said[name] = said.get(name, "").rstrip("/")
        if not said[name].startswith("/"):
            what = f"'barman show-server {barman.server}' does not say its {name}"
            raise OperationFailed(what, code="odd_answer", hint="see what it prints")
    return said


def has_other_forms(said: Mapping[str, str]) -> bool:
    """True if Barman stores WAL in a form that only it can read: its own filter, snappy, encrypted."""
    return said.get("compression", "None").lower() not in FORMS or said.get("encryption", "None").lower() != "none"


def at_least(said: Mapping[str, str]) -> tuple[int, int]:
    """Return which version Barman has at least, by the options that it shows; ``--version`` is another Python's start.

    >>> at_least({"active": "True", "cluster": "main"}), at_least({"active": "True"})
    ((3, 10), (0, 0))
    """
    return max((version for option, version in SHOWN_SINCE.items() if option in said), default=(0, 0))


def look_for(name: str, barman: Barman, host: Host) -> Program:
    """Return the program that prints something if Barman has a file, all of it. Raises OperationFailed."""
    directories = [places(barman, host)[place] for place in DIRECTORIES]
    find = ("find", "-L", *directories, "-type", "f", "-name", name)
    return look_beside(barman, *find, tolerate="No such file or directory")


def _files(barman: Barman, host: Host, *directories: str) -> list[tuple[PurePosixPath, int, str]]:
    """Return the files, wherever links lead, with sizes and marks; a mark stays the same while nobody writes to it.

    It has the time of the last change of the inode, which nobody can set, as utimes(2) sets that of the last write.
    Barman makes each directory when it first needs it.

    Raises OperationFailed if one is a dangling symbolic link: that would look like an empty archive.
    """
    words = ("find", "-L", *directories, "(", "-type", "f", "-o", "-type", "l", ")", "-printf", "%y %s %i:%C@ %p\\n")
    output = host.run(look_beside(barman, *words, tolerate="No such file or directory"), LIMIT)
    rows = [line.split(" ", 3) for line in output.splitlines() if line.count(" ") >= 3]
    # With -L, what is still a link leads nowhere (find(1)).
    if broken := [path for kind, *_, path in rows if kind != "f"]:
        what, hint = f"{broken[0]}: a dangling symbolic link", "make sure that the disk is mounted where Barman runs"
        raise OperationFailed(what, code="broken_link", hint=hint)
    return [(PurePosixPath(path), int(size), f"{size}:{mark}") for _, size, mark, path in rows]
