"""One file of the spool: an event as the hook has written it, read without trust, for others may write there."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Mapping
from functools import partial

from repmgr_hooks.config import which_cluster
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import UsageError
from repmgr_hooks.event import Origin, Report, parse_event
from repmgr_hooks.settings.words import PLAIN_NAME

MAX_SIZE = 4096
WORDS = 5
ORIGIN = (PLAIN_NAME, r"[0-9]{20}-[0-9]{1,10}", r"-?[0-9]{1,11}\.[0-9]{3}")
"""What comes after the words of an event that another host has handed over: that host, its number there, and ...
... how many seconds its clock is ahead of ours."""


def read_event(name: str, directory: int, clusters: Mapping[str, ManagedCluster]) -> Report:
    """Return the event of a spool file, which anybody in its group may have written.

    Raises UsageError for what is not an event, and if the configuration does not say which cluster's it is; OSError.
    """
    cluster, *words = read_words(name, directory) or [""]
    origin = _origin(words[WORDS:])
    event = parse_event(words[:WORDS] if origin else words)
    try:
        return Report(which_cluster(clusters, cluster, event.node), event, origin)
    except UsageError as error:
        raise UsageError(f"{event}: {error}", hint=error.hint) from None


def _origin(words: list[str]) -> Origin | None:
    """Return who handed an event over (``forward/receive.py``); None if these words do not say so."""
    if len(words) != len(ORIGIN) or not all(map(partial(re.fullmatch, flags=re.ASCII), ORIGIN, words)):
        return None
    host, number, ahead = words
    return Origin(host, number, float(ahead))


def read_words(name: str, directory: int) -> list[str]:
    """Return the lines of a spool file. Raises UsageError for what is no such file; OSError."""
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
        return content.decode().split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise UsageError(f"cannot be read: {error}") from None
