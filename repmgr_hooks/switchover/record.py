"""A switchover that is under way, in a small file: what it has done to repmgrd must be taken back whoever dies.

The file is on disk before anything is done of what it says. The clients that are held have a record of their own
(``journal/holds.py``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.background import may_be_there, on_disk
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal import holds
from repmgr_hooks.journal.holds import Holder
from repmgr_hooks.settings.cluster import Cluster

RUN_LIMIT = 210.0
"""Seconds for all that repmgr does; its own limits, by default 60 s for each node to stop or to start, come before."""
MARGIN = 30.0
"""Seconds by which a phase may exceed its limit before the service takes back what it has begun."""
PLACE = "/tmp/repmgr-hooks-"


@dataclass(frozen=True)
class Record:
    """A switchover that is under way, or that somebody has left behind.

    ``since`` in seconds since the epoch; ``until`` on the clock that never jumps, which begins anew with each boot.
    ``paused``: the nodes whose repmgrd it has paused. ``repmgr``: whether repmgr may be at work; ``place``: the
    directory on the target that says whether it is. ``promoting``: whether it may have begun to promote its node.
    ``timeline``: that of the source, or 0: who serves is repmgrd's matter again. ``repmgrs``: of nodes, the data
    directory and repmgr.conf.
    """

    holder: Holder
    source: int
    target: int
    since: float
    until: float
    phase: str = ""
    paused: tuple[int, ...] = ()
    repmgr: bool = False
    place: str = ""
    promoting: bool = False
    timeline: int = 0
    repmgrs: tuple[tuple[int, str, str], ...] = ()

    def left_to_repmgrd(self, paused: Iterable[int]) -> Record:
        """Return what is left of it when all is done but to unpause these."""
        return replace(self, paused=tuple(paused), repmgr=False, timeline=0)

    def __str__(self) -> str:
        paused = f", repmgrd paused on node {', '.join(map(str, self.paused))}" if self.paused else ""
        return f"from node {self.source} to node {self.target}: phase {self.phase or 'none'}{paused}"


def begun(source: int, target: int, seconds: float) -> Record:
    """Return the record of a switchover that begins now and may take so many seconds."""
    return Record(holds.this_process(), source, target, clock.wall(), clock.monotonic() + seconds)


def lock_name(cluster: str) -> str:
    """Return the name of the lock file of whoever carries out a switchover, or takes up one that was left."""
    return f"cluster-{cluster}.switchover.lock"


def over(record: Record, now: float, boot: str) -> bool:
    """True if its time is over; ``now``: the clock that never jumps, which begins with each boot. Pure.

    After a boot of ours repmgr may still be at work on its node; it was begun before, so it ends in time all the same.
    """
    if record.holder.boot != boot:
        return not record.repmgr or now >= RUN_LIMIT + MARGIN
    return now >= record.until


def keep(cluster: Cluster, record: Record | None) -> None:
    """Write it so that it is on disk; None: there is none any more. Raises OperationFailed."""
    path = _path(cluster)
    try:
        on_disk(partial(path.unlink, missing_ok=True) if record is None else partial(_write, path, record))
    except OSError as error:
        what = f"{path} cannot be written: {error}: nothing would be taken back if we were killed"
        raise OperationFailed(what, code="no_record", hint="repair the state directory") from None


def _write(path: Path, record: Record) -> None:
    holds.write_durably(path, json.dumps(asdict(record)))


def may_be_there_for(cluster: Cluster) -> bool:
    """False if there is certainly none, or was none just now; it is on disk before anything else is done."""
    return bool(cluster.state_dir) and may_be_there(_path(cluster))


def read(cluster: Cluster) -> Record | None:
    """Return the switchover of a cluster; None if there is none. Raises OperationFailed."""
    if not cluster.state_dir:
        return None
    path = _path(cluster)
    try:
        return _parsed(on_disk(partial(holds.read_text, path)))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, ArithmeticError, RecursionError) as error:
        what = f"{path} cannot be read: {error}"
        raise OperationFailed(what, code="no_record", hint=holds.way_out(error, path)) from None


def _parsed(text: str) -> Record:
    found = json.loads(text)
    record, holder = Record(**found), Holder(**found["holder"])
    if not math.isfinite(record.until) or not holds.MOST_PROCESS >= holder.process > 0:
        raise ValueError("a number in it cannot be")
    if record.place and not re.fullmatch(re.escape(PLACE) + "[0-9a-f]{16}", record.place):
        raise ValueError("it names no place of ours")
    repmgrs = tuple((int(node), str(directory), str(conf)) for node, directory, conf in record.repmgrs)
    return replace(record, holder=holder, paused=tuple(map(int, record.paused)), repmgrs=repmgrs)


def _path(cluster: Cluster) -> Path:
    return Path(cluster.state_dir) / f"cluster-{cluster.name}.switchover"
