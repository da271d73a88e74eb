"""One file of the spool: an event as the hook has written it, read without trust, for others may write there."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping

from repmgr_hooks.config import which_cluster
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import UsageError
from repmgr_hooks.event import Event, parse_event

MAX_SIZE = 4096


def read_event(name: str, directory: int, clusters: Mapping[str, ManagedCluster]) -> tuple[str, Event]:
    """Return the cluster and the event of a spool file, which anybody in its group may have written.

    Raises UsageError for what is not an event, and if the configuration does not say which cluster's it is; OSError.
    """
    try:
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise UsageError(f"cannot be read: {error.strerror}") from None  # a link, a socket
        raise
    try:
        status = os.fstat(opened)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise UsageError("cannot be read: it is not a file, or has another name too")
        content = os.read(opened, MAX_SIZE)
    finally:
        os.close(opened)
    try:
        cluster, *words = content.decode().split("\n")[:-1] or [""]
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot be read: {error}") from None
    event = parse_event(words)
    try:
        return which_cluster(clusters, cluster, event.node), event
    except UsageError as error:
        raise UsageError(f"{event}: {error}", hint=error.hint) from None
