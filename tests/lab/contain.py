"""A box that leaves nothing behind: own mounts, processes, shared memory and network, gone with whoever started it.

Run as ``contain.py PROGRAM ...``: PROGRAM runs in new mount, PID, IPC and network namespaces, with private /run, /mnt
and /dev/shm. However it ends, even killed, the kernel removes every process, mount, namespace, rule and piece of shared
memory (PostgreSQL leaves its own when it is killed) that was made inside.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

MARK = "REPMGR_HOOKS_LAB"
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""The beginning of a command that the kernel ends when the thread that started it has ended, however that was."""


def contained() -> bool:
    """True inside the box: process 1 is this file, so nothing of the machine's own can be seen or killed."""
    return MARK in os.environ and Path(__file__).name.encode() in Path("/proc/1/cmdline").read_bytes()


def outside() -> dict[str, str]:
    """Return the environment of somebody outside: what it starts gets a box of its own."""
    return {key: value for key, value in os.environ.items() if key != MARK}


def contain(argv: list[str]) -> None:
    """Run ``argv`` inside the box, and end as it ended; returns at once if we are inside.

    This process stays beside the box, as its parent: ``unshare --fork`` blocks SIGINT and SIGTERM for as long as it
    waits (util-linux 2.38, sys-utils/unshare.c), so whoever ended it by these would leave the box running.
    """
    if contained():
        return
    box = ["unshare", "--mount", "--pid", "--ipc", "--net", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(
        [*DIES_WITH_US, *box, sys.executable, str(Path(__file__)), *argv], env={**os.environ, MARK: "1"}
    )
    code = process.wait()
    sys.exit(code if code >= 0 else 128 - code)


def first_process(argv: list[str]) -> int:
    """Be process 1: prepare the mounts, start the program, reap orphans, return the program's exit code."""
    for place, mode in (("/run", "0755"), ("/mnt", "0755"), ("/dev/shm", "1777")):
        if os.system(f"mount -t tmpfs -o mode={mode} tmpfs {place}") != 0:  # noqa: S605 - a constant command
            return 1
    program = os.posix_spawnp(argv[0], argv, os.environ)
    while True:
        process, status = os.wait()
        if process == program:
            return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    if not (contained() and os.getpid() == 1):
        contain(sys.argv[1:])
        os.execvp(sys.argv[1], sys.argv[1:])
    code = first_process(sys.argv[1:])
    sys.exit(code if code >= 0 else 128 - code)
