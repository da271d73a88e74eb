"""Programs are run here, and nowhere else (the only user of ``sh``)."""

from __future__ import annotations

import gc
import os
import re
import select
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sh

from repmgr_hooks import clock
from repmgr_hooks.errors import NoSuchProgram, OperationFailed, ProgramTimeout
from repmgr_hooks.system.answers import BUSY, Answers
from repmgr_hooks.system.login import Logins, Unavailable
from repmgr_hooks.system.output import Output
from repmgr_hooks.system.steps import Program
from repmgr_hooks.text import printable

PIECE = 65536
"""So many bytes are read of a program at once; by lines, as sh does it, one without end would be kept whole."""
MOST_OUTPUT = 48 * 1024 * 1024
"""200,000 lines of conntrack's, or the names of 400,000 files of WAL."""
MOST_ERRORS = 64 * 1024
HEAVY = threading.BoundedSemaphore(2)
"""So many heavy residents run at once: after ten failovers ten would follow WAL, and hold up the eleventh."""
KILLED_LIMIT = 5.0
"""Seconds in which a program that is killed ends; one that waits for a disk that hangs does not (D in ps(1))."""


class Programs:
    """The programs of one cluster: what some print is asked once, and some go on running. ``kill`` ends a session.

    ``ended`` is called when one that should go on running has ended. ``logins``: those that are kept open; ``answers``:
    those that are shared with other clusters.
    """

    def __init__(
        self,
        kill: Callable[[int], None] | None = None,
        ended: Callable[[], None] = lambda: None,
        logins: Logins | None = None,
        answers: Answers | None = None,
    ) -> None:
        self._kill, self._ended, self._logins = kill or _kill, ended, logins
        self._answers = answers or Answers()
        self._residents: dict[tuple[str, ...], _Resident] = {}
        self._left: dict[tuple[str, ...], int] = {}
        """What was killed and did not end, by its process."""

    def run(self, program: Program, limit: float) -> str:
        """Run a program in a session of its own and return its stdout; when the time is up, kill all it started.

        Raises OperationFailed with the command, the exit code and what it wrote.
        """
        if program.resident:
            return self._start_resident(program)
        if program.constant:
            return self._answers.constant(program, limit, partial(self._finish, program))
        if program.counted is not None:
            return self._answers.rules(program, partial(self._finish, program, limit))
        if program.good_for:
            return self._answers.recent(program, partial(self._finish, program, limit))
        return self._finish(program, limit)

    def _start_resident(self, program: Program) -> str:
        """Start a program that goes on running, and return what the one before it wrote; nothing while that runs.

        A thread of sh's reads what it writes and waits for it. When we have ended, nobody reads; init waits for it.
        Raises OperationFailed.
        """
        before = self._residents.get(program.argv)
        if before and not before.over.is_set():
            return ""
        if program.heavy and not HEAVY.acquire(blocking=False):
            raise OperationFailed(f"{program}: others of its kind run already", code=BUSY)
        started = _Resident()

        def over(*_: object) -> None:
            if program.heavy:
                HEAVY.release()
            started.over.set()
            self._ended()

        try:
            _start(program, **_written(program, started.output, started.output), _done=over)
        except OperationFailed:
            if program.heavy:
                HEAVY.release()
            raise
        self._residents[program.argv] = started
        return str(before.output) if before else ""

    def _finish(self, program: Program, limit: float) -> str:
        if self._logins and program.over:
            begun = clock.monotonic()
            try:
                return self._finish_there(program, limit, self._logins)
            except Unavailable:
                limit -= clock.monotonic() - begun
        if (left := self._left.pop(program.argv, None)) and not _ends(left, 0):
            self._left[program.argv] = left
            what = f"{program}: not tried again: process {left} was killed and has not ended"
            raise OperationFailed(what, code="timeout", hint="check the disk that it waits for")
        output, errors = _kept(program)
        running = _start(program, **_written(program, output, errors))
        # Not sh's own time-outs: one leaves grandchildren alive, the other (wait) may lose the end of the output.
        if too_late := not _ends(running.pid, max(limit, 0.1)):
            self._kill(running.pid)
            if not _ends(running.pid, KILLED_LIMIT):
                self._left[program.argv] = running.pid
                raise ProgramTimeout(program, limit, "it has not ended yet")
        code = 0
        try:
            running.wait()
        except sh.ErrorReturnCode as error:
            if too_late:
                raise ProgramTimeout(program, limit, printable(str(errors).strip())) from None
            code = error.exit_code
        return _judged(program, code, output, errors)

    def stay_logged_in(self, way: tuple[str, ...]) -> None:
        """Have a login open there, if any are kept open."""
        if self._logins:
            self._logins.stay(way)

    def _finish_there(self, program: Program, limit: float, logins: Logins) -> str:
        """Run it over a login that is open. Raises Unavailable if that cannot be, or has failed."""
        output, errors = _kept(program)
        line = " ".join(program.argv[len(program.over) :])
        try:
            answer = logins.run(program.over, line, program.stdin, limit)
        except TimeoutError:
            raise ProgramTimeout(program, limit) from None
        output.write(answer.output.encode(errors="replace"))
        errors.write(answer.errors.encode(errors="replace"))
        return _judged(program, answer.code, output, errors)


def _kept(program: Program) -> tuple[Output, Output]:
    """Return what takes its output, and its errors."""
    return Output(MOST_OUTPUT if program.whole else MOST_ERRORS), Output(MOST_ERRORS)


def _written(program: Program, output: Output, errors: Output) -> dict[str, Any]:
    return {"_in": program.stdin, "_out": output, "_err": errors, "_out_bufsize": PIECE, "_err_bufsize": PIECE}


def _judged(program: Program, code: int, output: Output, errors: Output) -> str:
    """Return what a program has written, if that is what was asked for. Raises OperationFailed."""
    if code and not (program.tolerate and re.search(program.tolerate, str(errors))):
        said = str(errors).strip() or str(output).strip() or "nothing written"
        raise OperationFailed(f"{program}: exit code {code}: {printable(said)}", code="program_failed")
    if program.whole and not output.whole:
        what = f"{program}: wrote {output.size} bytes; at most {output.most} are read"
        raise OperationFailed(what, code="program_failed")
    if program.expect and not re.search(program.expect, str(output)):
        said = printable(str(output).strip())
        what = f"{program}: answered 0, but its output is not what was asked for: {said}"
        raise OperationFailed(what, code="program_failed")
    return str(output)


@dataclass(frozen=True)
class _Resident:
    """A program that goes on running: the little of what it writes that is kept, and whether it has ended."""

    output: Output = field(default_factory=lambda: Output(MOST_ERRORS))
    over: threading.Event = field(default_factory=threading.Event)


def start_login(words: tuple[str, ...], stdin: int, stdout: int) -> Callable[[], None]:
    """Start the program that a login is, and return what ends it. Raises OperationFailed."""
    running = _start(Program(words), _in=stdin, _out=stdout, _err=Output(MOST_ERRORS))
    return lambda: None if _ends(running.pid, 0) else _kill(running.pid)


def _start(program: Program, **ends: Any) -> Any:
    """Start a program in a session of its own; ``ends``: what sh is to do with its stdin and what it writes, and at its
    end. Raises OperationFailed.

    sh forks in a process that has threads, of which Python 3.12 and newer warns: a child could wait for ever for a lock
    that another thread had. Its child takes none: until it becomes the program (OProc.__init__ of sh 1.14 to 2.4) it
    sets signals, makes a session, writes to a pipe, moves and closes descriptors. What Python and glibc lock for
    themselves meanwhile (memory, imports, logging) they set free in a child (PyOS_AfterFork_Child, fork(2)). No
    ``_preexec_fn``, ``_uid`` or ``_cwd`` may be used: those call more. No garbage may be collected there either, for a
    connection that SQLite closes needs its locks: sh turns that off for a fork, and on again in the midst of another
    thread's; so a child turns it off for itself. All the same a child was seen once (Python 3.14) that had made its
    session and waited for a lock; its parent waits for it without a limit. Why is not known.
    """
    try:
        command: Any = sh.Command(program.argv[0])
    except sh.CommandNotFound:
        raise NoSuchProgram(f"{program.argv[0]}: no such program", hint="install it, or correct its path") from None
    try:
        with _interrupted_afterwards():
            return command(
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
            f"{program}: cannot be started: {str(error).splitlines()[-1].strip()}",
            code="program_failed",
            hint="check its mode, and the interpreter that its first line names",
        ) from None
    except (OSError, RuntimeError) as error:  # no descriptors or processes are left, or no threads
        raise OperationFailed(f"{program}: cannot be started: {error}", code="program_failed") from None


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


def _let_go(error: Exception) -> None:
    """Close the pipes to a child that could not become the program, and wait for it: sh (1.14 to 2.4) does neither.

    A sh that names them otherwise goes on leaking them; until none is left, and the service ends to begin anew.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        child = frame.f_locals
        if "session_pipe_read" in child:
            with suppress(AttributeError, KeyError):
                ours = [getattr(child["self"], f"_{name}_parent_fd") for name in ("stdin", "stdout", "stderr")]
                for descriptor in (*ours, child["session_pipe_read"], child["session_pipe_write"]):
                    os.close(descriptor)
                os.waitpid(child["self"].pid, 0)


def _ends(process: int, limit: float) -> bool:
    """Wait for the end of a process, which is one of our children; False if it does not end in time."""
    try:
        handle = os.pidfd_open(process)
    except ProcessLookupError:
        return True  # somebody has waited for it
    except OSError:
        return False  # there is no descriptor to see it with
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(1000 * limit))
    finally:
        os.close(handle)


def _kill(session: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)


os.register_at_fork(after_in_child=gc.disable)
