"""Whether the worker makes progress with a cluster.

For others, when it last looked is the time of an empty file; a look that sees nothing new leaves no more.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.background import on_disk
from repmgr_hooks.settings.cluster import Cluster

ALLOWED = 300.0
"""Seconds in which a loop must get on besides what it waits for: a look at Barman runs several programs, each with a
limit of its own."""

AWAY_AFTER = 300.0
"""Seconds: a run, in which there is no look, takes less."""
KNOWN = "known"


class Progress:
    """The time by which a loop must have made progress; after it, it counts as stuck."""

    def __init__(self) -> None:
        self.stood_still = False
        """Whether it has stood still, until somebody takes this back: the whole machine may have."""
        self.last = clock.monotonic()
        """When there was some."""
        self._due = self.last + ALLOWED

    def expect(self, seconds: float = 0.0) -> None:
        """Note progress; the next may take this long."""
        self.stood_still |= self.stands_still()
        self.last = clock.monotonic()
        self._due = self.last + seconds + ALLOWED

    @contextlib.contextmanager
    def waiting(self, what: str, seconds: float) -> Iterator[None]:
        """A step, or a wait, that takes at most so many seconds."""
        self.expect(seconds)
        try:
            yield
        finally:
            self.expect()

    def stands_still(self) -> bool:
        """True if it should have made progress by now."""
        return clock.monotonic() > self._due


def write_heartbeat(state_dir: Path, cluster: str) -> None:
    """Note that the worker has just looked; what cannot be noted is seen as a look that was not made."""
    with contextlib.suppress(OSError):
        on_disk(partial(_touch, _path(state_dir, cluster)))


def _touch(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        os.utime(handle, (clock.wall(), clock.wall()))
    finally:
        os.close(handle)


def forget_heartbeats(state_dir: Path, clusters: Collection[str]) -> None:
    """Remove those of other clusters: they would be taken for clusters that are looked at no more. Raises OSError."""
    for path in state_dir.glob("cluster-*.looked"):
        if path.name.removeprefix("cluster-").removesuffix(".looked") not in clusters:
            path.unlink(missing_ok=True)


def saw_primary(cluster: Cluster) -> None:
    """Note that the primary is known now, if there are several gateways."""
    if cluster.gateway.hosts and cluster.state_dir:
        with contextlib.suppress(OSError):
            on_disk(partial(_touch, _path(Path(cluster.state_dir), cluster.name, KNOWN)))


def knew_primary_at(cluster: Cluster) -> float | None:
    """Return when this one of several gateways last knew the primary, in seconds since the epoch; None if never."""
    try:
        return on_disk(_path(Path(cluster.state_dir), cluster.name, KNOWN).stat).st_mtime
    except OSError:
        return None


def forget_that_primary_was_known(cluster: Cluster) -> None:
    """As if it had never been known; what cannot be removed counts again after a restart."""
    if cluster.state_dir:
        with contextlib.suppress(OSError):
            on_disk(partial(_path(Path(cluster.state_dir), cluster.name, KNOWN).unlink, missing_ok=True))


def is_away(cluster: Cluster) -> bool:
    """True if this is one of several gateways, and it has not known the primary for long, or the clock was set."""
    if not cluster.gateway.hosts or not cluster.state_dir:
        return False
    known = knew_primary_at(cluster)
    return known is None or abs(clock.wall() - known) > AWAY_AFTER


def last_heartbeat(state_dir: Path, cluster: str) -> float | None:
    """Return when the worker last looked, in seconds since the epoch; None if it never did."""
    try:
        return _path(state_dir, cluster).stat().st_mtime
    except OSError:
        return None


def _path(state_dir: Path, cluster: str, what: str = "looked") -> Path:
    return state_dir / f"cluster-{cluster}.{what}"
