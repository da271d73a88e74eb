"""What the service saw last of each cluster, for others to read: ``serve-http`` answers load balancers from it.

One small file for each cluster, in a directory that systemd makes in memory (systemd.exec(5), RuntimeDirectory). It is
written only when something has changed. Its modification time is the moment until which it may be believed, on the
clock that runs since the boot and that nobody sets: a look that sees nothing new costs one system call.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from repmgr_hooks import clock
from repmgr_hooks.files import atomic_write
from repmgr_hooks.settings.endpoint import Endpoint

log = logging.getLogger(__name__)

BOOT = Path("/proc/sys/kernel/random/boot_id")
FILE = re.compile(r"cluster-([A-Za-z0-9_.-]{1,200})\.json")
KEPT = re.compile(r"cluster-([A-Za-z0-9_.-]{1,200})\.(json|look)")
"""These, and those of ``engine/last_look.py``."""
LARGEST = 256 * 1024
SYNCHRONOUS = ("sync", "quorum")
"""What pg_stat_replication calls a standby for which commits wait."""
SLACK = 20.0
"""Seconds that a look may take (``barman show-server`` of a server that is cut off) before it counts as not made."""

Numbers = tuple[tuple[str, dict[str, str], float], ...]


@dataclass(frozen=True)
class NodeSeen:
    """A node: ``lag`` is WAL of the primary that it has not replayed, in bytes; None if that is not known."""

    node: int
    host: str
    reachable: bool
    role: str
    timeline: int
    streaming: bool = False
    lag: int | None = None
    received_lag: int | None = None
    sync_state: str = ""
    """As in pg_stat_replication: ``async``, ``potential``, ``sync``, ``quorum``; empty if the node does not stream."""
    retained: int | None = None
    """WAL that Barman's slot keeps there, in bytes."""
    stale_primary: bool = False
    port: int = 0


@dataclass(frozen=True)
class PrimaryPosition:
    """A primary, and the ends of its WAL and of what Barman had of it on disk, in bytes.

    ``acknowledged``: that commits were waiting for Barman, as a synchronous standby.
    """

    node: int
    timeline: int
    lsn: int
    barman_lsn: int = 0
    acknowledged: bool = False


@dataclass(frozen=True)
class LastSeen:
    """A cluster at the last look: ``code`` and ``message`` say why a node is the primary, or why none is known."""

    cluster: str
    primary: int | None
    timeline: int
    code: str
    message: str
    nodes: tuple[NodeSeen, ...]
    interval: float = 0.0
    """Seconds between two looks."""
    slot: str = ""
    barman_streaming: bool | None = None
    """None: the cluster has no Barman."""
    barman_lag: int | None = None
    paused: bool = False
    in_step: bool = False
    """A step of a run is being taken; what was seen is from before it."""
    last_primary: PrimaryPosition | None = None
    """The primary when one was seen last, up to now."""
    numbers: Numbers = ()
    """What is for ``/metrics`` alone: each metric, its labels, and the value."""

    @property
    def valid_for(self) -> float:
        """Seconds after a look until it is too old."""
        return 2 * self.interval + SLACK

    def node(self, name: str) -> NodeSeen | None:
        """Return a node by its number or its address; of several on one host, by that and the port."""
        exact = [node for node in self.nodes if name in (str(node.node), str(Endpoint(node.host, node.port)))]
        found = exact or [node for node in self.nodes if node.host == name]
        return found[0] if len(found) == 1 else None


class Publisher:
    """Writes the file of one cluster. What cannot be written grows old, and is then not believed."""

    def __init__(self, directory: Path, cluster: str) -> None:
        self.directory = directory
        self._path = directory / f"cluster-{cluster}.json"
        self._written: LastSeen | None = None
        self._failed = False
        self._until = 0, 0

    def publish(self, seen: LastSeen, longer: float = 0.0) -> None:
        """Write what was seen just now, if that is something else than before; it holds so many seconds ``longer``."""
        self._until = believed_until(seen.valid_for + longer)
        self._put(seen)

    def renew(self, numbers: Numbers) -> None:
        """Write other numbers to what was seen last, which may be believed no longer for that."""
        if self._written and self._written.numbers != numbers:
            self._put(replace(self._written, numbers=numbers))

    def _put(self, seen: LastSeen) -> None:
        try:
            if seen == self._written:
                os.utime(self._path, ns=self._until, follow_symlinks=False)
            else:
                self._write(seen)
            self._written, self._failed = seen, False
        except OSError as error:
            self._written = None
            if not self._failed:
                log.error("serve-http cannot be shown what was seen: %s", error)
            self._failed = True

    def _write(self, seen: LastSeen) -> None:
        # Not asdict: it copies deeply, which takes longer than all else here, for each look at a cluster that works.
        nodes, last = [vars(node) for node in seen.nodes], seen.last_primary and vars(seen.last_primary)
        data = {"boot": boot_id(BOOT), **vars(seen), "nodes": nodes, "last_primary": last}
        if len(text := json.dumps(data)) > LARGEST:
            # No more is read. What load balancers are answered goes before what is for /metrics alone.
            text = json.dumps({**data, "numbers": ()})
        with atomic_write(self._path) as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
            file.flush()
            os.utime(file.fileno(), ns=self._until)

    def extend(self, seconds: float) -> None:
        """Let what was seen last hold during a step that may take so long; the routes follow it, too."""
        if self._written:
            self.publish(replace(self._written, in_step=True), seconds)


@lru_cache(9)
def boot_id(path: Path) -> str:
    """Return what the kernel calls this boot. Raises OSError."""
    return path.read_text().strip()


def believed_until(seconds: float) -> tuple[int, int]:
    """Return the times of a file that may be believed for so many seconds, as ``os.utime`` takes them."""
    moment = int((clock.since_boot() + seconds) * 1e9)
    return moment, moment


def forget_others(directory: Path, clusters: Iterable[str]) -> None:
    """Remove the files of clusters that the configuration no longer has. Raises OSError."""
    for path in directory.iterdir():
        found = KEPT.fullmatch(path.name)
        if found and found[1] not in clusters:
            path.unlink(missing_ok=True)


def read_all(directory: Path) -> Iterator[tuple[str, LastSeen | None, float]]:
    """Yield each cluster's name, what was seen of it (None: nothing that may be believed now), and for how long it may.

    Seconds below 0: since when it no longer may.
    """
    try:
        paths = sorted(directory.iterdir())
    except OSError:
        return
    for path in paths:
        if found := FILE.fullmatch(path.name):
            seen, left = _read(path)
            yield found[1], seen if left > 0 else None, left


def _read(path: Path) -> tuple[LastSeen | None, float]:
    try:
        with open(path, "rb", opener=without_links) as file:
            until = os.fstat(file.fileno()).st_mtime_ns / 1e9
            seen = _of(json.loads(file.read(LARGEST)))
    except (OSError, ValueError, TypeError, RecursionError):
        return None, 0.0
    return seen, until - clock.since_boot() if seen else 0.0


def without_links(path: str, flags: int) -> int:
    """Open a file that may be nothing else."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _of(data: Any) -> LastSeen | None:
    """Return it, or None if it is of another boot: that clock began anew. Raises ValueError, TypeError."""
    if not isinstance(data, dict) or data.pop("boot", "") != boot_id(BOOT):
        return None
    last = data.pop("last_primary", None)
    nodes = tuple(NodeSeen(**node) for node in data.pop("nodes"))
    numbers = tuple((metric, dict(labels), float(value)) for metric, labels, value in data.pop("numbers", ()))
    return LastSeen(**data, nodes=nodes, last_primary=PrimaryPosition(**last) if last else None, numbers=numbers)
