"""Sees whether a handler reaches outside by itself: by each call of a built-in function (``sys.setprofile``).

Whatever Python does outside itself is a call of a built-in function in the end, whichever library it is made through;
and it is stopped before it happens, with the line of the handler that makes it.
"""

from __future__ import annotations

import datetime
import gc
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FrameType
from typing import Any, cast

from repmgr_hooks.engine.asking import PLUG_IN_LIMIT
from repmgr_hooks.system.steps import Host

MOST_CALLS = 1000
LIMITED = frozenset({"run", "fetch", "fetch_each", "ask_consoles", "visit_each", "answers"})
"""What a host does within a limit, its last argument."""
CLOCKS = ("time", "monotonic", "perf_counter", "process_time", "thread_time", "clock_gettime", "localtime", "gmtime")
NOW = frozenset({"now", "utcnow", "today"})
PROGRAMS = ("fork", "exec", "spawn", "posix_spawn", "system", "popen", "kill", "wait")
PURE = frozenset(
    {"fspath", "sysconf", "WIFEXITED", "WEXITSTATUS", "WIFSIGNALED", "WTERMSIG", "getpid"}
    | {"_path_normpath", "_path_splitroot_ex"}
)
"""What ``posix`` has that looks at nothing outside this process."""
MODULES = {
    "_posixsubprocess": "a program",
    "_sqlite3": "a file",
    "sqlite3": "a file",
    "_socket": "a socket",
    "select": "a wait",
}
KINDS = {"_socket.socket": "a socket", "select.poll": "a wait", "select.epoll": "a wait", "_random.Random": "chance"}
PLAN = frozenset({"the clock", "a wait", "a program", "a file", "a socket", "a thread", "chance", "the environment"})
"""What ``plan`` may not reach: it has its arguments."""
OBSERVE = frozenset({"a wait", "a program", "a file", "a socket"})
"""What ``observe`` reaches through its host alone, where each has a limit."""
NOTHING: frozenset[str] = frozenset()


class Reached(BaseException):
    """A handler reaches outside. No Exception, so that no handler takes it for a failure of its own."""


class Supervision:
    """While it lasts, what is ``forbidden`` is stopped, and stands in ``found`` even if the handler hides it."""

    def __init__(self, module: object, part: str, forbidden: frozenset[str]) -> None:
        self._file, self._part, self._forbidden = getattr(module, "__file__", None), part, forbidden
        self.found: list[str] = []
        self.uses = 0
        """How often the host was used."""
        self._over = False

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch over this thread, and those that it starts.

        Not over the garbage collector, which runs what others have hooked into it (Hypothesis asks for the time).
        """
        before, of_threads, collects = sys.getprofile(), threading.getprofile(), gc.isenabled()
        gc.disable()
        threading.setprofile(self._called)
        sys.setprofile(self._called)
        try:
            yield
        finally:
            sys.setprofile(before)
            threading.setprofile(of_threads)
            self._over = True
            if collects:
                gc.enable()

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """What the host does is not the handler's doing."""
        watching = sys.getprofile()
        sys.setprofile(None)
        try:
            yield
        finally:
            sys.setprofile(watching)

    def supervised(self, host: Host) -> Host:
        """Return a host of which each use is seen."""
        return cast(Host, _Supervised(host, self))

    def use(self, name: str, method: Callable[..., Any], *args: Any) -> Any:
        """The handler uses its host."""
        if self._over:
            self._stop(sys._getframe(1), f"has returned, and its host is used ({name})")
        with self._aside():
            self.uses += 1
            if self.uses > MOST_CALLS:
                self._stop(sys._getframe(1), f"uses the host more than {MOST_CALLS} times")
            limit = args[-1] if args else None
            if name in LIMITED and not (isinstance(limit, int | float) and 0 < limit <= PLUG_IN_LIMIT):
                what = (
                    f"gives the host ({name}) the limit {limit}; it must be above 0, and at most {PLUG_IN_LIMIT:.0f} s"
                )
                self._stop(sys._getframe(1), what)
            return method(*args)

    def _called(self, frame: FrameType, event: str, function: object) -> None:
        what = _reaches(function) if event == "c_call" else _environment(frame) if event == "call" else ""
        if what and what in self._forbidden and not _is_import(frame):
            name = getattr(function, "__qualname__", "os.environ")
            self._stop(frame, f"reaches {what} ({name})")

    def _stop(self, frame: FrameType | None, what: str) -> None:
        self.found.append(f"'{self._part}' {what}{self._place(frame)}")
        raise Reached(self.found[-1])

    def _place(self, frame: FrameType | None) -> str:
        lines = [f"{f.f_code.co_filename}:{line}" for f, line in traceback.walk_stack(frame)]
        return next((f" at {line}" for line in lines if self._file and line.startswith(f"{self._file}:")), "")


class _Supervised:
    def __init__(self, host: Host, supervision: Supervision) -> None:
        self._host, self._supervision = host, supervision

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._host, name)
        if not callable(method):
            return method
        return lambda *args, **named: self._supervision.use(name, method, *args, *named.values())


def _reaches(function: object) -> str:
    """Return what a built-in function reaches; empty if nothing."""
    module, name = getattr(function, "__module__", None), getattr(function, "__name__", "")
    if not module:  # a method
        owner = getattr(function, "__self__", None)
        return _of_kind(owner if isinstance(owner, type) else type(owner), name)
    if module == "time":
        return "a wait" if name == "sleep" else "the clock" if name.startswith(CLOCKS) else ""
    if module == "posix":
        return "" if name in PURE else "chance" if name == "urandom" else _of_posix(name)
    if module == "_thread":
        return "a thread" if name.startswith("start") else ""
    if module in ("io", "_io"):
        return "a file" if name.startswith("open") else ""
    return MODULES.get(module, "")


@cache
def _of_kind(kind: type, method: str) -> str:
    """Return what a method reaches of an object that is written in C."""
    if issubclass(kind, datetime.date):
        return "the clock" if method in NOW else ""
    bases = [f"{base.__module__}.{base.__name__}" for base in kind.__mro__]
    return next((KINDS[base] for base in bases if base in KINDS), "")


def _of_posix(name: str) -> str:
    return "a program" if name.startswith(PROGRAMS) else "a file"


def _environment(frame: FrameType) -> str:
    return "the environment" if frame.f_code.co_qualname == "_Environ.__getitem__" else ""


def _is_import(frame: FrameType) -> bool:
    """What Python does to import a module happens once, and is no part of an answer."""
    return any(f.f_code.co_filename.startswith("<frozen importlib") for f, _ in traceback.walk_stack(frame))
