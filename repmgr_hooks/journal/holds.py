"""A hold: clients wait until it is over. Who holds them, since when, and how, is written down before anything is held.

The small file beside the journal is what the service goes by, whatever has died: a hold that nobody takes back is worse
than an outage. Its limit is measured on the clock that never jumps, which begins anew with each boot; so of another
boot than ours every hold is over.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from psycopg import ProgrammingError

from repmgr_hooks import clock
from repmgr_hooks.background import may_be_there, on_disk
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.files import atomic_write
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import console_name

MOST = 100_000
MOST_PROCESS = 2**22
"""The highest number of a process (proc(5), pid_max)."""
NO_RECORD, NO_HOLD = "no_record", "no_hold"
"""The codes of a record that cannot be read or written, and of one that is none."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STARTED, ENDED = 18, "ZX"
"""Where /proc/PID/stat has the start time, after the name, which may hold anything, and the state (proc(5))."""


@dataclass(frozen=True)
class Holder:
    """A process: its number, when it started (the kernel's ticks), and the boot that it is of."""

    process: int
    started: int
    boot: str


@dataclass(frozen=True)
class Hold:
    """Clients of a cluster wait. ``since`` is shown (seconds since the epoch), ``begun`` is measured (monotonic).

    ``means``: ``pgbouncer``, ``netfilter``. ``primary`` and ``timeline``: as they were; with another primary the run
    that leads the port there lets the clients go on. ``pgbouncers``: of each console, the databases that are ours.
    ``ports``: those of the gateway at which new connections wait.
    ``over``: it has ended, and what is still named could not be taken back yet.
    """

    cluster: str
    holder: Holder
    since: float
    begun: float
    limit: float
    means: tuple[str, ...]
    primary: int
    timeline: int
    why: str
    pgbouncers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    over: bool = False
    ports: tuple[str, ...] = ()

    def ours(self, console: str) -> tuple[str, ...]:
        """The databases of a PgBouncer that we have paused."""
        return self.pgbouncers.get(console, ())

    def seconds(self, now: float) -> float:
        """For how long it has lasted; ``now`` on the clock that never jumps."""
        return max(now - self.begun, 0.0)


def expired(hold: Hold, now: float, boot: str, alive: bool) -> str:
    """Return why a hold is to be taken back; empty if it goes on. Pure."""
    if hold.over:
        return "it has ended"
    if hold.holder.boot != boot:
        return "the host was started anew"
    if not alive:
        return f"process {hold.holder.process}, which held them, is gone"
    lasts = 0 <= now - hold.begun < hold.limit  # one that is yet to begin has been damaged
    return "" if lasts else f"its limit of {hold.limit:g} s is over"


def why_over(hold: Hold) -> str:
    """Return why a hold is to be taken back now; empty if it goes on."""
    return expired(hold, clock.monotonic(), boot_id(), is_alive(hold.holder))


def boot_id() -> str:
    """Return what the kernel calls this boot (random(4)). Raises OSError."""
    return BOOT_ID.read_text().strip()


def this_process() -> Holder:
    """Return what we are to a hold. Raises OSError."""
    return Holder(os.getpid(), _started(os.getpid()), boot_id())


def is_alive(holder: Holder) -> bool:
    """False if a process is certainly gone. One that we may not see (ProtectProc) is taken for alive: limits hold."""
    try:
        return _started(holder.process) == holder.started
    except (OSError, ValueError, IndexError):
        return _is_anothers(holder.process)


def _is_anothers(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)
    return False


def _started(process: int) -> int:
    """Raises OSError, ValueError; of a process that has ended, and that nobody has waited for, too."""
    state, *rest = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    if state in ENDED:
        raise ValueError
    return int(rest[STARTED])


def write(cluster: Cluster, hold: Hold) -> None:
    """Keep a hold so that a crash does not lose it. Raises OperationFailed: then nothing may be held."""
    try:
        on_disk(partial(write_durably, _path(cluster), json.dumps(dataclasses.asdict(hold))))
    except OSError as error:
        what = f"{_path(cluster)} cannot be written: {error}; nobody is held without it"
        raise OperationFailed(what, code=NO_RECORD) from None


def write_durably(path: Path, text: str) -> None:
    """Write a small file so that a crash leaves it whole, or as it was. Raises OSError."""
    with atomic_write(path) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def forget(cluster: Cluster) -> None:
    """Nothing is held any more. Raises OperationFailed."""
    try:
        on_disk(partial(_path(cluster).unlink, missing_ok=True))
    except OSError as error:
        raise OperationFailed(f"{_path(cluster)} cannot be removed: {error}", code=NO_RECORD) from None


def may_be_held(cluster: Cluster) -> bool:
    """False if there is certainly no record of a hold, or was none just now."""
    return bool(cluster.state_dir) and may_be_there(_path(cluster))


def read(cluster: Cluster) -> Hold | None:
    """Return the hold of a cluster, whether or not it is over; None if there is none.

    Raises OperationFailed if that cannot be seen (``no_record``), or if what stands there is none (``no_hold``).
    """
    if not cluster.state_dir:
        return None
    try:
        return _parsed(on_disk(partial(read_text, _path(cluster))))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OperationFailed(f"{_path(cluster)} cannot be read: {error}", code=NO_RECORD) from None
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError, ProgrammingError):
        raise OperationFailed(f"{_path(cluster)} holds something else", code=NO_HOLD) from None


def _parsed(text: str) -> Hold:
    """Return what is written; whatever it names can be looked for, as the process, and asked, as a console."""
    given = json.loads(text)
    paused = {str(console): tuple(map(str, names)) for console, names in given.pop("pgbouncers").items()}
    for console in paused:
        console_name(console)
    holder, means = Holder(**given.pop("holder")), tuple(map(str, given.pop("means")))
    times = {name: float(given[name]) for name in ("since", "begun", "limit")}
    if not 0 < holder.process <= MOST_PROCESS or not all(map(math.isfinite, times.values())):
        raise ValueError
    given |= times
    given["ports"] = tuple(map(str, given["ports"]))
    return Hold(**given, holder=holder, means=means, pgbouncers=paused)


def read_text(path: Path) -> str:
    """Return what a record holds, through no link, and no more than one can have. Raises OSError, ValueError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, encoding="utf-8") as file:
        return file.read(MOST)


def way_out(error: Exception, path: Path) -> str:
    """Return what to do about a record that cannot be read: who only may not read it must not remove it."""
    return "run this as root" if isinstance(error, PermissionError) else f"remove {path}"


def _path(cluster: Cluster) -> Path:
    return Path(cluster.state_dir) / f"cluster-{cluster.name}.hold"
