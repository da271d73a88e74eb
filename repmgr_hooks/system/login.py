"""Logins on other hosts that stay open: a new one takes longer than most of what is run there.

Only what may be run twice is run so, for a connection that breaks does not say what became of it. Then, and while there
is none yet, it is run by a login of its own; nobody waits for one to be opened.
"""

from __future__ import annotations

import json
import logging
import os
import select
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from repmgr_hooks import clock

log = logging.getLogger(__name__)

READ = "import json, sys; exec(json.loads(sys.stdin.readline()))"
SILENT_LIMIT = 30.0
"""Seconds without a word, of which there is one every 10 s (``there.py``); the first may take as long."""
BEGIN_LIMIT = 5.0
"""Seconds for the other side to say that it has begun something."""
UNUSED_LIMIT = 3600.0
AGAIN = 60.0
"""Seconds after which one that could not be opened, or broke, is opened again."""
CHUNK = 65536
MOST = 64 * 1024 * 1024
"""Bytes of one message."""
Start = Callable[[tuple[str, ...], int, int], Callable[[], None]]
"""Starts a program, with these descriptors as its stdin and stdout, and returns what ends it."""


class Unavailable(Exception):
    """There is no login, or it broke: whether something was run is not known."""


@dataclass(frozen=True)
class Answer:
    """How a line ended there."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class _Asked:
    begun: threading.Event = field(default_factory=threading.Event)
    answer: Future[Answer] = field(default_factory=Future)


class Login:
    """One that is open, or being opened; ``to`` is where it takes what is asked."""

    def __init__(self, to: int) -> None:
        os.set_blocking(to, False)
        self._to = os.fdopen(to, "wb", buffering=0)
        self._lock = threading.Lock()
        self._asked: dict[int, _Asked] = {}
        self._count = 0
        self.used = clock.monotonic()

    def run(self, line: str, stdin: str, limit: float) -> Answer:
        """Run a line of a shell there. Raises Unavailable, or TimeoutError; then it is ended."""
        self.used = now = clock.monotonic()
        asked = _Asked()
        with self._lock:
            self._count += 1
            number = self._count
            self._asked[number] = asked
        try:
            self.send({"number": number, "line": line, "stdin": stdin})
            if not asked.begun.wait(min(limit, BEGIN_LIMIT)):
                if limit < BEGIN_LIMIT:
                    raise TimeoutError
                self.close()
                raise Unavailable
            return asked.answer.result(max(now + limit - clock.monotonic(), 0.0))
        except TimeoutError:
            with suppress(Unavailable):
                self.send({"number": number})
            raise
        finally:
            self._asked.pop(number, None)

    def send(self, message: object) -> None:
        """Send something; the pipe may be full, because nothing is taken at the other end. Raises Unavailable."""
        data, end = json.dumps(message).encode() + b"\n", clock.monotonic() + BEGIN_LIMIT
        try:
            with self._lock:
                while data:
                    if not _is_ready(self._to.fileno(), select.POLLOUT, end - clock.monotonic()):
                        raise Unavailable
                    data = data[self._to.write(data) or 0 :]
        except (OSError, ValueError):  # broken, or closed
            raise Unavailable from None

    def hear(self, message: dict[str, Any]) -> None:
        """Take a message of the other side's."""
        asked = self._asked.get(message.get("number", 0))
        if asked and "begun" in message:
            asked.begun.set()
        elif asked:
            with suppress(InvalidStateError):
                asked.answer.set_result(Answer(int(message["code"]), str(message["output"]), str(message["errors"])))

    def close(self) -> None:
        """Let the other side end; who waits for an answer gets none."""
        with self._lock:
            self._to.close()
        for asked in list(self._asked.values()):
            with suppress(InvalidStateError):
                asked.answer.set_exception(Unavailable())
            asked.begun.set()


class Logins:
    """One for each way: the words that lead there, such as ssh. ``start`` starts the program that they are."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lock = threading.Lock()
        self._open: dict[tuple[str, ...], Login] = {}
        self._next: dict[tuple[str, ...], float] = {}
        """When one may be opened."""

    def run(self, way: tuple[str, ...], line: str, stdin: str, limit: float) -> Answer:
        """Run a line of a shell there. Raises Unavailable, and opens a login meanwhile; or TimeoutError."""
        if (login := self._opened(way)) is None:
            raise Unavailable
        return login.run(line, stdin, limit)

    def stay(self, way: tuple[str, ...]) -> None:
        """Have one open, whether or not something is run there soon; nobody waits for it."""
        if login := self._opened(way):
            login.used = clock.monotonic()

    def _opened(self, way: tuple[str, ...]) -> Login | None:
        """Return the one that is open; if there is none, begin to open it."""
        with self._lock:
            login = self._open.get(way)
            if login is None and clock.monotonic() >= self._next.get(way, 0.0):
                self._next[way] = float("inf")
                self._begin(way)
        return login

    def is_open(self, way: tuple[str, ...]) -> bool:
        """True if there is one."""
        return way in self._open

    def _begin(self, way: tuple[str, ...]) -> None:
        try:
            threading.Thread(target=self._keep, args=(way,), daemon=True).start()
        except RuntimeError:  # there are no threads left
            self._next[way] = clock.monotonic() + AGAIN

    def _keep(self, way: tuple[str, ...]) -> None:
        """Open one, and take what it says until it is over."""
        from importlib import resources  # it takes a while, and most commands open none

        try:
            with _started(self._start, way) as (to, said):
                login = Login(to)
                try:
                    login.send(resources.files(__package__).joinpath("there.py").read_text(encoding="utf-8"))
                    for message in _messages(said):
                        self._open[way] = login
                        login.hear(message)
                        if clock.monotonic() - login.used > UNUSED_LIMIT:
                            break
                finally:
                    self._open.pop(way, None)
                    login.close()
        except Exception as error:
            log.debug("the login by %s: %r", " ".join(way), error)
        finally:
            self._next[way] = clock.monotonic() + AGAIN


@contextmanager
def _started(start: Start, way: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Start the other side; return where it takes and where it says something. Whoever gets the first closes it."""
    (taken, to), (said, back) = os.pipe(), os.pipe()
    try:
        stop = start((*way, "python3", "-I", "-c", quote(READ)), taken, back)
    except BaseException:
        os.close(to)
        os.close(said)
        raise
    finally:
        os.close(taken)
        os.close(back)
    try:
        yield to, said
    finally:
        os.close(said)
        stop()


def _messages(said: int) -> Iterator[dict[str, Any]]:
    """Return what comes, until nothing does; a login may begin with a text. Raises ValueError for an odd message."""
    left = bytearray()
    while _is_ready(said, select.POLLIN, SILENT_LIMIT) and (chunk := os.read(said, CHUNK)):
        left += chunk
        if b"\n" in chunk:
            *lines, left = left.split(b"\n")
            yield from (dict(json.loads(line)) for line in lines if line.startswith(b"{"))
        if len(left) > MOST:
            raise ValueError("more than is read")


def _is_ready(descriptor: int, event: int, limit: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, event)
    return bool(poll.poll(1000 * max(limit, 0.0)))
