"""What a switchover has begun and must be taken back, in a small file: whoever dies, somebody finds it there.

The file is written and on disk before anything is done of what it says. Its holder is a process: by its number, when it
was started, and the boot in which it was; so no other process is taken for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from repmgr_hooks import clock
from repmgr_hooks.background import on_disk
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.files import atomic_write

MOST = 10_000
BOOT_ID = "/proc/sys/kernel/random/boot_id"
STARTTIME = 19
"""The place of ``starttime`` behind the program's name in /proc/PID/stat (proc(5), field 22)."""


@dataclass(frozen=True)
class Process:
    """A process of this host, which no later one of the same number is taken for."""

    pid: int
    started: str
    boot: str


@dataclass(frozen=True)
class Record:
    """A switchover that is under way, or that somebody has left behind.

    ``since`` in seconds since the epoch; ``until`` on the clock that never jumps, which begins anew with each boot.
    ``paused``: the nodes whose repmgrd it has paused. ``repmgr``: whether ``repmgr standby switchover`` may be running.
    """

    holder: Process
    source: int
    target: int
    since: float
    until: float
    phase: str = ""
    paused: tuple[int, ...] = ()
    repmgr: bool = False


def myself() -> Process:
    """Return this process."""
    return Process(os.getpid(), _start_of(os.getpid()), boot_id())


def alive(process: Process) -> bool:
    """True if the process has not ended."""
    return process.boot == boot_id() and _start_of(process.pid) == process.started


def over(record: Record, now: float, boot: str) -> bool:
    """True if its time is over, or was one of an earlier boot. Pure."""
    return record.holder.boot != boot or now >= record.until


def boot_id() -> str:
    """Return what is another one after each boot."""
    return Path(BOOT_ID).read_text().strip()


def _start_of(pid: int) -> str:
    """Return when a process was started; empty if there is none. Its name, in brackets, may hold anything."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in ("Z", "X") else fields[STARTTIME]


def keep(state_dir: Path, cluster: str, record: Record | None) -> None:
    """Write it so that it is on disk; None: there is none any more. Raises OperationFailed."""
    path = _path(state_dir, cluster)
    try:
        if record is None:
            path.unlink(missing_ok=True)
            return
        with atomic_write(path) as file:
            json.dump(asdict(record), file)
            file.flush()
            os.fsync(file.fileno())
        handle = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        what = f"{path} cannot be written: {error}: nothing would take back what is held"
        raise OperationFailed(what, code="no_record", hint="repair the state directory") from None


def read(state_dir: Path, cluster: str) -> Record | None:
    """Return the switchover of a cluster; None if there is none. Raises OperationFailed."""
    path = _path(state_dir, cluster)
    try:
        found = json.loads(on_disk(partial(_read, path)))
        return _record(found)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OperationFailed(f"{path} cannot be read: {error}", code="no_record", hint=f"remove {path}") from None


def _record(found: Mapping[str, Any]) -> Record:
    record = Record(**found)
    return replace(record, holder=Process(**found["holder"]), paused=tuple(map(int, record.paused)))


def begun(source: int, target: int, seconds: float) -> Record:
    """Return the record of a switchover that begins now and may take so many seconds."""
    return Record(myself(), source, target, clock.wall(), clock.monotonic() + seconds)


def _read(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, encoding="utf-8") as file:
        return file.read(MOST)


def _path(state_dir: Path, cluster: str) -> Path:
    return state_dir / f"cluster-{cluster}.switchover"
