"""The worker's side of the spool: the files that ``hook.py`` left, and the FIFO that it knocks at."""

from __future__ import annotations

import errno
import grp
import logging
import os
import re
import select
import stat
from collections.abc import Mapping
from pathlib import Path

from repmgr_hooks.config import which_cluster
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, UsageError
from repmgr_hooks.event import Event, parse_event
from repmgr_hooks.hook import WAKE
from repmgr_hooks.journal.journal import Journal

log = logging.getLogger(__name__)

MAX_SIZE = 4096


class Spool:
    """The spool of one state directory. Raises OperationFailed if it cannot be used."""

    def __init__(self, state_dir: Path) -> None:
        self._directory = state_dir / "spool"
        self._strange: set[str] = set()
        """What cannot be removed, such as a directory; it is named once."""
        fifo = self._directory / WAKE
        try:
            fifo.unlink(missing_ok=True)
            os.mkfifo(fifo)
            # Read and write: it never reports an end of file when the last writer leaves. No link is followed: others
            # may write here.
            self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW)
            if not stat.S_ISFIFO(os.fstat(self._fifo).st_mode):
                raise OSError(f"{fifo} is no FIFO any more")
            os.fchmod(self._fifo, 0o620)
        except (OSError, LookupError) as error:
            raise OperationFailed(
                f"the spool {self._directory} cannot be used: {error}; see to its owner and mode"
            ) from None

    def deafen(self) -> None:
        """Stop listening: from now on ``event`` finds nobody and starts a worker itself."""
        (self._directory / WAKE).unlink(missing_ok=True)

    def close(self) -> None:
        """Stop listening, for good."""
        self.deafen()
        os.close(self._fifo)

    def wait(self, seconds: float, also: int) -> bool:
        """Sleep until somebody knocks (True), the file descriptor ``also`` can be read, or the time is up."""
        ready, _, _ = select.select([self._fifo, also], [], [], max(seconds, 0))
        for fd in ready:
            os.read(fd, 65536)
        return self._fifo in ready

    def take_in(self, journal: Journal, clusters: Mapping[str, ManagedCluster]) -> int:
        """Move every stored event into the journal, oldest first; return how many."""
        files = sorted(entry for entry in self._directory.iterdir() if entry.name[0] != "." and entry.name != WAKE)
        for file in files:
            if file.name not in self._strange:
                self._take(file, journal, clusters)
        return len(files) - len(self._strange)

    def _take(self, file: Path, journal: Journal, clusters: Mapping[str, ManagedCluster]) -> None:
        try:
            if not re.fullmatch(r"[0-9]{20}-[0-9]{1,10}", file.name, re.ASCII):
                raise UsageError("this name is not one that the hook gives")
            cluster, event = read_event(file, clusters)
        except UsageError as error:
            log.error("%s: refused: %s", ascii(file.name).strip("'"), error)
        else:
            journal.add_event(cluster, event, int(file.name[:20]) / 1e9, file.name)
        try:
            file.unlink(missing_ok=True)
        except OSError:
            self._strange.add(file.name)


def read_event(file: Path, clusters: Mapping[str, ManagedCluster]) -> tuple[str, Event]:
    """Return the cluster and the event of a spool file, which anybody in its group may have written.

    Raises UsageError for what is not an event, and if the configuration does not say which cluster's it is.
    """
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor) as opened:
            cluster, *words = opened.read(MAX_SIZE).split("\n")[:-1] or [""]
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot be read: {error}") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise UsageError(f"cannot be read: {error}") from None
        raise OperationFailed(f"the event {file} cannot be read now: {error}") from None
    event = parse_event(words)
    try:
        return which_cluster(clusters, cluster, event.node), event
    except UsageError as error:
        raise UsageError(f"{event}: {error}") from None


def make_spool(directory: Path) -> None:
    """Make the spool for the group of repmgrd's user, if it is missing (``tmpfiles.d`` does it on most machines).

    Raises OperationFailed.
    """
    if directory.exists():
        return
    try:
        directory.mkdir(parents=True)
        owner = directory.parent.stat().st_uid if os.geteuid() == 0 else -1
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        os.fchown(handle, owner, grp.getgrnam("postgres").gr_gid)
        os.fchmod(handle, 0o2770)
        os.close(handle)
    except (OSError, LookupError) as error:
        raise OperationFailed(f"the spool {directory} cannot be made: {error}; see config/tmpfiles.conf") from None
