"""Programs are run here, and nowhere else; start.py starts them."""

from __future__ import annotations

import os
import re
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import sh

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed, ProgramTimeout
from repmgr_hooks.system.answers import BUSY, NOT_ROOT, Answers
from repmgr_hooks.system.login import Logins, Unavailable
from repmgr_hooks.system.output import Output
from repmgr_hooks.system.start import start
from repmgr_hooks.system.steps import Program
from repmgr_hooks.text import printable

PIECE = 65536
"""So many bytes are read of a program at once; by lines, as sh does it, one without end would be kept whole."""
MOST_OUTPUT = 48 * 1024 * 1024
"""200,000 lines of conntrack's, or the names of 400,000 files of WAL."""
MOST_ERRORS = 64 * 1024
HEAVY = threading.BoundedSemaphore(2)
"""So many heavy residents run at once: after ten failovers ten would follow WAL, and hold up the eleventh."""
FOR_EVER = 1e6
"""Seconds, eleven days: what waits so long begins anew."""
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

        A thread of sh's reads what it writes. When we have ended, nobody reads; init waits for it.
        Raises OperationFailed.
        """
        before = self._residents.get(program.argv)
        if before and not before.over.is_set():
            return ""
        if program.heavy and not HEAVY.acquire(blocking=False):
            raise OperationFailed(f"{program}: others of its kind run already", code=BUSY)
        started = _Resident()
        try:
            running = start(program, **_written(program, started.output, started.output))
            waits = threading.Thread(target=self._wait_for, args=(program, running, started), daemon=True)
            try:
                waits.start()
            except RuntimeError as error:  # there are no threads left
                self._kill(running.pid)
                raise OperationFailed(f"{program}: killed: nobody could wait for it: {error}") from None
        except BaseException:
            if program.heavy:
                HEAVY.release()
            raise
        self._residents[program.argv] = started
        return str(before.output) if before else ""

    def _wait_for(self, program: Program, running: Any, resident: _Resident) -> None:
        """Wait for its end, and say so at once: sh looks for it once a second (output_thread of sh 1.14 to 2.4)."""
        while not _ends(running.pid, FOR_EVER):
            clock.sleep(1.0)  # there is no descriptor to see it with
        try:
            with suppress(sh.ErrorReturnCode):
                running.wait()  # and for what it has written, 2 s at most
        finally:
            if program.heavy:
                HEAVY.release()
            resident.over.set()
            self._ended()

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
        running = start(program, **_written(program, output, errors))
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
        try:
            return _judged(program, code, output, errors)
        finally:
            output.forget()

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
        kind = NOT_ROOT if "(you must be root)" in said else "program_failed"
        raise OperationFailed(f"{program}: exit code {code}: {printable(said)}", code=kind)
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
    running = start(Program(words), _in=stdin, _out=stdout, _err=Output(MOST_ERRORS))
    return lambda: None if _ends(running.pid, 0) else _kill(running.pid)


def _ends(process: int, limit: float) -> bool:
    """Wait for the end of a process, which is one of our children; False if it does not end in time, in seconds."""
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
