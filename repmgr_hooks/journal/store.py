"""The journal's file, used through a thread of its own: a failover must not wait for its records."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from repmgr_hooks import clock
from repmgr_hooks.background import Aside
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.tables import OlderTables, connect, identity
from repmgr_hooks.lock import as_owner

log = logging.getLogger(__name__)

PATIENCE = 2.0
"""Seconds that whoever uses the journal waits for it in all; used up, they come back at the rate of one in ..."""
PATIENCE_BACK = 30.0
"""... so many seconds."""
QUICK, SLOW = 0.1, 0.5
"""Seconds that one use of it takes on a disk that works, and those that it may take on a slow one."""
CHECKED = 32 * 2**20
"""Bytes of a journal that are looked at when it is opened; a larger one takes too long."""
T = TypeVar("T")


class Store:
    """The file. Who uses it waits for a lock, or a disk, ``PATIENCE`` seconds in all; then only as a disk may need."""

    def __init__(self, path: Path, later: bool = False) -> None:
        """Open the file; with ``later`` that is tried again at each use, if it fails now."""
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._limit = -1.0
        self._patience, self._asked = PATIENCE, clock.monotonic()
        self._aside = Aside("journal")
        try:
            self._do(lambda db: None)
        except OperationFailed as error:
            if not later:
                self._aside.end()
                raise
            log.error("%s; going on without it", error)

    def _do(self, job: Callable[[sqlite3.Connection], T]) -> T:
        begun, free = clock.monotonic(), 0.0
        self._patience = min(self._patience + (begun - self._asked) / PATIENCE_BACK, PATIENCE)
        self._asked, patience = begun, self._patience
        try:
            answer = self._aside.ask(lambda: job(self._current(patience)), patience + SLOW)
            free = QUICK
            return answer
        except TimeoutError:
            raise self._unusable("it does not answer") from None
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error
        finally:
            self._patience = max(self._patience - max(clock.monotonic() - begun - free, 0.0), 0.0)

    def _unusable(self, error: object) -> OperationFailed:
        hint = "check the disk and the file's owner, or move a broken file away"
        # Of a file in a directory that is closed to us SQLite says only that it cannot open it.
        if isinstance(error, PermissionError) or (isinstance(error, sqlite3.OperationalError) and os.geteuid() != 0):
            hint = "run this as root; else check the file's owner"
        return OperationFailed(f"the journal {self._path} cannot be used: {error}", code="journal", hint=hint)

    def _current(self, busy_limit: float) -> sqlite3.Connection:
        """Return the connection; a new one if the file was moved away, or else we would write where nobody reads."""
        if self._db is None or identity(self._path) != self._file:
            if self._db:
                log.error("the journal %s is not the file any more that it was; going on with a new one", self._path)
            with as_owner(self._path.parent):  # root must not be led elsewhere by who may move the file away
                before, self._db, self._limit = self._db, connect(self._path, busy_limit), -1.0
            self._file = identity(self._path)
            if before:
                before.close()
        if (limit := round(1000 * busy_limit, -2)) != self._limit:
            self._db.execute(f"pragma busy_timeout = {limit:.0f}")
            self._limit = limit
        return self._db

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Return the answer to several queries, in one visit of the thread. Raises OperationFailed."""
        return self._do(question)

    def change(self, do: Callable[[sqlite3.Connection], T]) -> T:
        """One transaction, also for tables that another module looks after. Raises OperationFailed."""

        def transaction(db: sqlite3.Connection) -> T:
            with db:
                db.execute("begin immediate")
                return do(db)

        return self._do(transaction)

    def _write(self, statement: str, *values: object) -> int:
        """Make one change, and return how many rows it was for."""
        return self.change(lambda db: db.execute(statement, values).rowcount)

    def read(self, statement: str, *values: object) -> list[Any]:
        """Return the rows of a query."""
        return self.ask(lambda db: db.execute(statement, values).fetchall())

    def check(self, every_page: bool) -> None:
        """Look at the file. Raises OperationFailed for a broken one."""

        def pages(db: sqlite3.Connection) -> None:
            if not every_page:
                return
            (found,) = db.execute("pragma quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)

        self._do(pages)

    def close(self) -> None:
        """Close the file, after what is being done; it is not waited for long."""
        with suppress(OperationFailed):
            self._do(lambda db: db.close())
        self._aside.end()


S = TypeVar("S", bound=Store)


def opened(kind: type[S], path: Path, later: bool = False) -> S:
    """Open the file; a broken one is set aside, because a failover must not fail for it.

    Raises OperationFailed; with ``later`` it is opened when that is possible.
    """
    try:
        return _checked(kind, path, later)
    except OperationFailed as error:
        if not _is_broken(error):
            raise
        with as_owner(path.parent), _alone(path.parent):
            try:
                return _checked(kind, path, later)  # somebody else was quicker
            except OperationFailed as again:
                if not _is_broken(again):
                    raise
            _set_aside(path, error)
            return kind(path, later)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """One at a time sets a journal aside; after ``PATIENCE``, or where a directory cannot be locked, nobody waits."""
    with ExitStack() as stack:
        with suppress(OSError):
            handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, handle)
            end = clock.monotonic() + PATIENCE
            while clock.monotonic() < end:
                with suppress(BlockingIOError):
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                clock.sleep(0.02)
        yield


def _checked(kind: type[S], path: Path, later: bool) -> S:
    store = kind(path, later)
    try:
        store.check(path.exists() and path.stat().st_size < CHECKED)
    except OperationFailed as error:
        if not later or _is_broken(error):
            store.close()
            raise
    return store


def _is_broken(error: OperationFailed) -> bool:
    cause = error.__cause__
    return isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.OperationalError)


def _set_aside(path: Path, error: OperationFailed) -> None:
    aside = path.with_name(f"{path.name}.broken-{int(clock.wall())}")
    wrong = "of an older version" if isinstance(error.__cause__, OlderTables) else "broken"
    log.error("the journal is %s (%s); it is now %s, and a new one begins", wrong, error.__cause__, aside)
    try:
        # These first: who opens it between finds the old one, and waits for us.
        for rest in ("-wal", "-shm"):
            path.with_name(path.name + rest).unlink(missing_ok=True)
        path.rename(aside)
    except OSError as refused:
        what = f"{error}; and it cannot be set aside: {refused}"
        raise OperationFailed(what, code=error.code, hint=error.hint) from error
