"""The worker's side of the spool: the files that ``hook.py`` left, and the FIFO that it knocks at.

Others may write here, so nothing is followed, nothing is waited for, and what stands in the way is moved aside and
named. All is done through one handle of the directory.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import logging
import os
import re
import select
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from repmgr_hooks import clock
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, UsageError
from repmgr_hooks.hook import WAKE, open_spool, remove
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.log import hint
from repmgr_hooks.service.event_file import read_event

log = logging.getLogger(__name__)
T = TypeVar("T")

NO_FIFO_WAIT = 1.0
TRIES = 3
TIDY_EVERY = 3600.0
LEFT_OVER_AGE = 7 * 86400.0
ASIDE = ".aside-"
PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors that are ours and not the file's: it is read later."""
LISTED = 20_000
"""Names that are read at once, of however many."""
BATCH = 500
"""Events that are taken in with one transaction; the worker looks up in between."""
NAMED = 5
"""Files that are named when they are refused or moved aside, of all that are taken in at once; others are counted."""


class Stored(NamedTuple, Generic[T]):
    """A file of the spool: what was read in it, when it was stored, and its name."""

    what: T
    received: float
    name: str


class Spool:
    """The spool of one state directory. Raises OperationFailed if it cannot be used."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "spool"
        self._passed_by: set[str] = set()
        """What can be neither removed nor moved aside; it is named once."""
        self.dropped = 0
        """Events that the last taking-in left out, for there were more than could be taken."""
        self._next_tidy = 0.0
        self._refused = 0
        self._fifo: int | None = None
        self._directory = self._opened()
        self._listen()

    def _opened(self) -> int:
        try:
            directory = open_spool(str(self._path), os.O_RDONLY)
            if os.fstat(directory).st_uid not in (0, os.geteuid()):
                os.close(directory)
                raise PermissionError("it belongs to another user")
        except OSError as error:
            raise OperationFailed(
                f"the spool {self._path} cannot be used: {error}", hint="check its owner and mode"
            ) from None
        return directory

    def _listen(self) -> None:
        """Make a FIFO of our own; without one, which is said once, the worker looks every second."""
        self._deafen_for_good()
        try:
            self._fifo = self._new_fifo()
            self._passed_by.discard(WAKE)
        except OSError as error:
            if WAKE not in self._passed_by:
                log.error(
                    "%s/%s cannot be made (%s); looking every %.0f s instead", self._path, WAKE, error, NO_FIFO_WAIT
                )
            self._passed_by.add(WAKE)

    def _new_fifo(self) -> int:
        for _ in range(TRIES):
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISFIFO(os.stat(WAKE, dir_fd=self._directory, follow_symlinks=False).st_mode):
                    os.unlink(WAKE, dir_fd=self._directory)  # one that a killed worker has left
                else:
                    self._move_aside(WAKE, "it is not the worker's FIFO")
            with contextlib.suppress(FileExistsError, FileNotFoundError):  # somebody is quicker: once more
                os.mkfifo(WAKE, dir_fd=self._directory)
                # Read and write: it never reports an end of file when the last writer leaves.
                fifo = os.open(WAKE, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=self._directory)
                status = os.fstat(fifo)
                if stat.S_ISFIFO(status.st_mode) and (status.st_uid, status.st_nlink) == (os.geteuid(), 1):
                    os.fchmod(fifo, 0o620)
                    return fifo
                os.close(fifo)
        raise OSError("something else is put there again and again")

    def deafen(self) -> None:
        """Stop listening: from now on ``event`` finds nobody and starts a worker itself."""
        if self._is_ours(WAKE, self._fifo):
            remove(WAKE, self._directory)

    def _deafen_for_good(self) -> None:
        self.deafen()
        if self._fifo is not None:
            os.close(self._fifo)
            self._fifo = None

    def close(self) -> None:
        """Stop listening, for good."""
        self._deafen_for_good()
        os.close(self._directory)

    def wait(self, seconds: float, also: int) -> bool:
        """Sleep until somebody knocks (True), the file descriptor ``also`` can be read, or the time is up."""
        fifo = [] if self._fifo is None else [self._fifo]
        return self._fifo in readable([also, *fifo], seconds if fifo else min(seconds, NO_FIFO_WAIT))

    def take_in(self, journal: Journal, clusters: Mapping[str, ManagedCluster], most: int = LISTED) -> int:
        """Move stored events into the journal, as ``take``."""
        return self.take(lambda name, directory: read_event(name, directory, clusters), journal.add_events, most)

    def take(self, read: Callable[[str, int], T], keep: Callable[[list[Stored[T]]], object], most: int = LISTED) -> int:
        """Move stored events elsewhere, oldest first, some at a time; return how many. Raises OperationFailed.

        ``read`` is given a file and its directory; a UsageError means that it is no event. ``keep`` has all of them on
        its disk when it returns. Of more than ``most`` the oldest are removed unread; ``dropped`` says how many.
        """
        self._refused = 0
        self._see_to_its_place()
        names = self._listed(lambda name: name[0] != "." and name != WAKE and name not in self._passed_by)
        self.dropped = max(len(names) - most, 0)
        for name in names[: self.dropped]:
            self._remove(name)
        batch = names[self.dropped :][:BATCH]
        keep(self._read(batch, read))
        for name in batch:
            if name not in self._passed_by:
                self._remove(name)
        if clock.monotonic() >= self._next_tidy:
            self._next_tidy = clock.monotonic() + TIDY_EVERY
            self._tidy(self._listed(lambda name: name[0] == "."))
        if self._refused > NAMED:
            log.error("%d more files refused or moved aside", self._refused - NAMED)
        return len(batch)

    def _listed(self, wanted: Callable[[str], bool]) -> list[str]:
        try:
            with os.scandir(self._directory) as found:
                return sorted(islice((entry.name for entry in found if wanted(entry.name)), LISTED))
        except OSError as error:
            raise OperationFailed(f"the spool {self._path} cannot be read: {error}", hint="check its disk") from None

    def _see_to_its_place(self) -> None:
        """Others could have put another directory or FIFO where ours was: then nobody would find us."""
        if not _same(self._directory, self._path):
            log.error("the spool %s is not the directory any more that it was; going on with a new one", self._path)
            make_spool(self._path)
            before, self._directory = self._directory, self._opened()
            os.close(before)
        if not self._is_ours(WAKE, self._fifo) or self._has_another_name():
            self._listen()

    def _has_another_name(self) -> bool:
        """A FIFO with two names is none that the hook writes to, and others could have made the second."""
        return self._fifo is not None and os.fstat(self._fifo).st_nlink != 1

    def _is_ours(self, name: str, opened: int | None) -> bool:
        return opened is not None and _same(opened, name, self._directory)

    def _read(self, names: Iterable[str], read: Callable[[str, int], T]) -> list[Stored[T]]:
        """Return the events of these files; what is none is named, or counted if there is much of it."""
        events = []
        for name in names:
            try:
                if not re.fullmatch(r"[0-9]{20}-[0-9]{1,10}", name, re.ASCII):
                    raise UsageError("this name is not one that the hook gives")
                found = read(name, self._directory)
                # Nothing has come later than now, whatever the file is called.
                events.append(Stored(found, min(int(name[:20]) / 1e9, clock.wall()), name))
            except FileNotFoundError:
                continue
            except UsageError as error:
                self._refuse(name, f"refused: {error}", error.hint)
            except OSError as error:
                if error.errno in PASSING:
                    raise OperationFailed(f"the event {name} cannot be read now: {error}") from None
                self._get_rid_of(name, f"cannot be read: {error.strerror}")
        return events

    def _refuse(self, name: str, why: str, what_to_do: str = "") -> None:
        self._refused += 1
        if self._refused <= NAMED:
            log.error("%s: %s", ascii(name).strip("'"), why, extra=hint(what_to_do))

    def _remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._directory)
        except FileNotFoundError:
            pass
        except OSError:
            self._get_rid_of(name, "cannot be removed")

    def _get_rid_of(self, name: str, why: str) -> None:
        """Move something aside; if that cannot be, pass it by from now on."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self._move_aside(name, why)
        except OSError:
            self._passed_by.add(name)
            self._refuse(name, f"{why}; it cannot be moved aside, and is skipped")

    def _move_aside(self, name: str, why: str) -> None:
        """Give something a hidden name, and say so. Raises OSError."""
        hidden = f"{ASIDE}{time.time_ns()}"
        os.rename(name, hidden, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        self._refuse(name, f"{why}; it is now {self._path}/{hidden}")

    def _tidy(self, hidden: Iterable[str]) -> None:
        """Remove hidden files that have been there for long: of a hook that died while it wrote, or moved aside.

        By the time of the last change of the file's status, which nobody can set.
        """
        for name in hidden:
            with contextlib.suppress(OSError):  # gone already, or a directory that is not empty
                status = os.stat(name, dir_fd=self._directory, follow_symlinks=False)
                if clock.wall() - status.st_ctime > LEFT_OVER_AGE:
                    is_directory = stat.S_ISDIR(status.st_mode)
                    (os.rmdir if is_directory else os.unlink)(name, dir_fd=self._directory)


def readable(descriptors: Iterable[int], seconds: float) -> list[int]:
    """Wait until something can be read, and return where that was; it is read. Not select(2): that ends at 1024."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    ready = [descriptor for descriptor, _ in poll.poll(1000 * max(seconds, 0))]
    for descriptor in ready:
        os.read(descriptor, 65536)
    return ready


def _same(opened: int, path: str | Path, directory: int | None = None) -> bool:
    """True if a file is still found where it was opened."""
    try:
        there, here = os.stat(path, dir_fd=directory, follow_symlinks=False), os.fstat(opened)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def make_spool(directory: Path) -> None:
    """Make the spool for the group of repmgrd's user, if it is missing (``tmpfiles.d`` does it on most machines).

    What else stands in its place is moved aside. Raises OperationFailed.
    """
    try:
        if os.path.lexists(directory):
            if stat.S_ISDIR(directory.lstat().st_mode):
                return
            aside = directory.with_name(f"{directory.name}{ASIDE}{time.time_ns()}")
            directory.rename(aside)
            log.error("%s is not a directory; it is now %s", directory, aside)
        directory.mkdir(parents=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            os.fchown(handle, -1, _repmgrds_group(directory.parent))
            os.fchmod(handle, 0o2770)
        finally:
            os.close(handle)
    except (OSError, LookupError) as error:
        raise OperationFailed(
            f"the spool {directory} cannot be made: {error}", hint="see config/tmpfiles.conf"
        ) from None


def _repmgrds_group(state_dir: Path) -> int:
    """The group that root has given the state directory to (config/tmpfiles.conf). Raises OSError, LookupError."""
    group = state_dir.stat().st_gid
    return group if group not in (0, os.getegid()) else grp.getgrnam("postgres").gr_gid
