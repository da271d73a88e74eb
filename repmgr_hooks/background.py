"""Work in a thread of its own: while something else is done, or so that nobody has to wait for its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import copy_context
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from repmgr_hooks import clock

T = TypeVar("T")
DISK_LIMIT = 2.0
"""Seconds for a file to be opened or written: a disk, or a server of files, may hang."""
Jobs = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


@contextmanager
def meanwhile(do: Callable[[threading.Event], object]) -> Iterator[None]:
    """Let ``do`` run in a thread; it gets an event that is set when it is to end, and is waited for."""
    over = threading.Event()
    thread = threading.Thread(target=copy_context().run, args=(do, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def begin(job: Callable[[], T]) -> Callable[[], T]:
    """Begin a job in a thread of its own; what is returned waits for its end, and returns or raises what it does."""
    return _begun(job).result


def together(*jobs: Callable[[], T]) -> list[T]:
    """Do jobs side by side, and return what they return; when one raises, the others have ended, too."""
    answers = [_begun(job) for job in jobs]
    for answer in answers:
        answer.exception()
    return [answer.result() for answer in answers]


def _begun(job: Callable[[], T]) -> Future[T]:
    answer: Future[T] = Future()
    work = partial(_do, answer, partial(copy_context().run, job))
    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError:  # there are no threads left
        work()
    return answer


class Aside:
    """A thread that does one job after the other; the caller waits for each for a limited time only."""

    def __init__(self, name: str) -> None:
        self._jobs: Jobs = SimpleQueue()
        self._late: Future[Any] | None = None
        self._ended = False
        threading.Thread(target=_do_all, args=(self._jobs,), name=name, daemon=True).start()

    def ask(self, job: Callable[[], T], limit: float) -> T:
        """Return what the job returns, or raise what it raises; TimeoutError if that takes longer than the limit.

        A job that is not begun by then is not done at all. While one that was begun is still not done, no other job is
        waited for.
        """
        if self._ended or self.stands_still():
            raise TimeoutError
        answer: Future[T] = Future()
        self._jobs.put((answer, partial(copy_context().run, job)))
        with suppress(TimeoutError):
            answer.exception(limit)
        if answer.done():
            return answer.result()
        if not answer.cancel():
            self._late = answer
        raise TimeoutError

    def stands_still(self) -> bool:
        """True while a job is still running that nobody waits for any more."""
        return self._late is not None and not self._late.done()

    def end(self) -> None:
        """End the thread when it has done what it was asked for."""
        self._ended = True
        self._jobs.put(None)


def begun(job: Callable[[], T]) -> Future[T]:
    """Begin a job in a thread of its own, and return where its result will stand."""
    answer: Future[T] = Future()
    jobs: Jobs = SimpleQueue()
    jobs.put((answer, partial(copy_context().run, job)))
    jobs.put(None)
    threading.Thread(target=_do_all, args=(jobs,), daemon=True).start()
    return answer


def on_disk(job: Callable[[], T]) -> T:
    """Return what a job returns that needs a disk. Raises TimeoutError for one that hangs: at once, after the first.

    What the job works with must be its own, for it may go on much later.
    """
    try:
        return _disk().ask(job, DISK_LIMIT)
    except TimeoutError:
        raise TimeoutError("the disk does not answer") from None


LISTED_FOR = 0.2
"""Seconds for which a list of the files in a directory holds: within these many clusters look for theirs."""


def may_be_there(path: Path) -> bool:
    """False if a file was not there within the last ``LISTED_FOR`` seconds; what cannot be seen may be there.

    Of a hundred clusters each looks every few seconds for files that are hardly ever there. Each would wake the thread
    of the disk, which costs more than a list of the directory for all of them.
    """
    now, listed = clock.monotonic(), _LISTED.get(path.parent)
    if listed is None or now - listed[0] >= LISTED_FOR:
        try:
            listed = _LISTED[path.parent] = now, frozenset(on_disk(partial(os.listdir, path.parent)))
        except OSError:
            return True
    return path.name in listed[1]


_LISTED: dict[Path, tuple[float, frozenset[str]]] = {}


@cache
def _disk() -> Aside:
    return Aside("disk")


def _do_all(jobs: Jobs) -> None:
    while entry := jobs.get():
        answer, job = entry
        if answer.set_running_or_notify_cancel():
            _do(answer, job)
        del entry, answer, job


def _do(answer: Future[Any], job: Callable[[], Any]) -> None:
    try:
        answer.set_result(job())
    except BaseException as error:  # whatever a plug-in raises: it is raised where the answer is waited for
        answer.set_exception(error)
