"""A program is started: forked, seen to have become the program, and, if it hangs before that, forked once more.

sh forks in a process that has threads, of which Python 3.12 and newer warns: a child may wait for ever for a lock that
another thread had, and its parent for the child (OProc.__init__ of sh 1.14 to 2.4 reads a pipe that exec closes). That
was seen (Python 3.14: ``status`` hung; the child had made its session already); why is not known.
So that it is rare: no ``_preexec_fn``, ``_uid`` or ``_cwd`` is used, which call more in the child, and no garbage is
collected there, where a connection that SQLite closes needs its locks. And so that it does no harm, it has a limit; but
for a child that waits for a disk that hangs (D in ps(1)), and one that the kernel hides from us (hidepid, where root
became another user; a /proc of another PID namespace): its start lasts as long as that does.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import sh

from repmgr_hooks.errors import NoSuchProgram, OperationFailed
from repmgr_hooks.system.steps import Program

BECOMES_LIMIT = 5.0
"""Seconds in which a forked child becomes the program. On a quiet machine true(1) has run to its end after 4 ms."""
TRIES = 2


def start(program: Program, **ends: Any) -> Any:
    """Start a program in a session of its own, and return what sh makes of it.

    ``ends``: what sh is to do with its stdin and what it writes. Raises OperationFailed, also when each child hangs
    before it is the program.
    """
    try:
        command: Any = sh.Command(program.argv[0])
    except sh.CommandNotFound:
        raise NoSuchProgram(f"{program.argv[0]}: no such program", hint="install it, or correct its path") from None
    for _ in range(TRIES):
        watch = _Watch()
        try:
            with _interrupted_afterwards(), COLLECTOR.off(), watch.watching():
                running = command(
                    *program.argv[1:],
                    **ends,
                    _env={**os.environ, "LC_ALL": "C.UTF-8", **program.env},
                    _bg=True,
                    _bg_exc=False,
                    _new_session=True,
                    _tty_in=False,
                    _tty_out=False,
                    _decode_errors="replace",
                )
        except sh.ForkException as error:
            _let_go(error)
            raise OperationFailed(
                f"{program}: cannot be started: {(str(error).strip() or 'no reason given').splitlines()[-1].strip()}",
                code="program_failed",
                hint="check its mode, and the interpreter that its first line names",
            ) from None
        except (OSError, RuntimeError) as error:  # no descriptors or processes are left, or no threads
            _let_go(error)
            raise OperationFailed(f"{program}: cannot be started: {error}", code="program_failed") from None
        except ValueError as error:  # of sh's: a child that has been killed told it no session
            if not _let_go(error):
                raise
            if not watch.killed:
                what = f"{program}: cannot be started: its process was killed before it was the program"
                raise OperationFailed(what, code="program_failed", hint="check this host's memory") from None
        if not watch.killed:
            return running
    what = f"{program}: cannot be started: {TRIES} times its process was not the program within {BECOMES_LIMIT:g} s"
    raise OperationFailed(what, code="timeout", hint="check this host's load, its memory, and the disk of the program")


class _Watch:
    """Kills a child of this thread that does not become the program in time."""

    def __init__(self) -> None:
        self.killed = False
        self._we = os.getpid()
        self._over = threading.Event()
        self._deciding = threading.Lock()
        self._children = Path(f"/proc/self/task/{threading.get_native_id()}/children")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Kill it when the time is up, or when the start is interrupted: nobody would end it."""
        try:
            threading.Thread(target=self._watch, name="start", daemon=True).start()
            yield
        except BaseException as error:
            if os.getpid() != self._we:  # sh ends its child at an Exception only: it would go on as a second one of us
                os._exit(255)
            if isinstance(error, KeyboardInterrupt):
                self._kill()
            raise
        finally:
            with self._deciding:
                self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(BECOMES_LIMIT):
            with self._deciding:
                if not self._over.is_set():
                    self._kill()

    def _kill(self) -> None:
        """Kill the child of this thread that has not become a program.

        Not only the newest: a thread inherits the children of others that end. Once it has been stopped, it runs
        nothing of a program that it becomes meanwhile: so none is killed, and none is started twice.
        """
        with suppress(OSError):  # a kernel may have no such list (CONFIG_PROC_CHILDREN)
            for child in map(int, self._children.read_text("ascii").split()):
                if _is_forked(child):
                    os.kill(child, signal.SIGSTOP)
                    hangs = _is_forked(child)
                    self.killed |= hangs
                    os.kill(child, signal.SIGKILL if hangs else signal.SIGCONT)


def _is_forked(child: int) -> bool:
    """Whether a process is there that has not become a program: PF_FORKNOEXEC, the 1 in the column F of ps(1)."""
    try:
        state, *_, flags = Path(f"/proc/{child}/stat").read_bytes().rpartition(b")")[2].split()[:7]
    except (OSError, ValueError):
        return False  # it has ended
    return state != b"Z" and bool(int(flags) & 0x40)


@contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """Let the first Ctrl-C wait until the program has been started; that may hang, and the second one does not.

    What it raises in a function that Python calls before or after a fork is printed and ignored (run_at_forkers): the
    command would go on, and the lock of logging's that such a function was to release would be kept for ever.
    """
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGINT)):
        yield  # no other thread is interrupted, nor is anybody who ignores it
        return
    came: list[int] = []

    def wait(number: int, frame: object) -> None:
        came.append(number)
        signal.signal(number, before)

    before = signal.signal(signal.SIGINT, wait)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


def _let_go(error: Exception) -> bool:
    """Close the pipes to a child that could not become the program, end it, and wait for it; False if there is none.

    sh (1.14 to 2.4) does nothing of that. One that names them otherwise goes on leaking them; until none is left, and
    the service ends to begin anew.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if type(child := frame.f_locals.get("self")).__name__ == "OProc" and frame.f_code.co_name == "__init__":
            process, names = vars(child), frame.f_locals
            for descriptor in _left_open(process, names) - {None}:
                with suppress(OSError):  # another version of sh has closed it
                    os.close(descriptor)
            if "pid" in process:
                with suppress(OSError):  # it has ended, and a thread of sh's has waited for it
                    (os.killpg if "sid" in names else os.kill)(process["pid"], signal.SIGKILL)
                    os.waitpid(process["pid"], 0)
                return True
    return False


def _left_open(process: dict[str, Any], names: Mapping[str, Any]) -> set[Any]:
    """Return the descriptors that are open, by how far OProc.__init__ has come."""
    ours = {process.get(f"_{name}_parent_fd") for name in ("stdin", "stdout", "stderr")}
    if "pid" not in process:
        pipes = {names.get(f"{name}_pipe_{end}") for name in ("session", "exc") for end in ("read", "write")}
        return ours | pipes | {process.get(f"_{name}_child_fd") for name in ("stdin", "stdout", "stderr")}
    if names.get("fork_exc"):
        return ours | {names.get("session_pipe_read"), names.get("session_pipe_write")}
    if "sid" not in names:
        return ours | {names.get("session_pipe_read")}
    return ours - {process.get("_stdin_parent_fd")} if process.get("_input_thread") else ours  # that closes it


class _Collector:
    """Collects no garbage while a thread of ours is about to fork: its child would, too.

    sh turns the collector off itself, and on again in the midst of another thread's fork; never, if none is forked. One
    that is off already it leaves alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forking: set[int] = set()
        self._before = False

    @contextmanager
    def off(self) -> Iterator[None]:
        """Until this thread has forked (on), or cannot: a start that hangs does not keep it off."""
        try:
            with self._lock:
                if not self._forking:
                    self._before = gc.isenabled()
                    gc.disable()
                self._forking.add(threading.get_ident())
            yield
        finally:
            self.on()

    def on(self) -> None:
        with self._lock:
            if threading.get_ident() in self._forking:
                self._forking.remove(threading.get_ident())
                if self._before and not self._forking:
                    gc.enable()


COLLECTOR = _Collector()
os.register_at_fork(after_in_parent=COLLECTOR.on)
