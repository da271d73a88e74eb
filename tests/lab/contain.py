"""A box that leaves nothing behind: own mounts, processes and network, all gone when its first process ends.

Run as ``contain.py PROGRAM ...``: PROGRAM runs in new mount, PID and network namespaces, with private /run and /mnt.
However it ends, even killed, the kernel removes every process, mount, namespace and rule that was made inside.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

MARK = "REPMGR_HOOKS_LAB"


def contained() -> bool:
    """True inside the box: process 1 is this file, so nothing of the machine's own can be seen or killed."""
    return MARK in os.environ and Path(__file__).name.encode() in Path("/proc/1/cmdline").read_bytes()


def contain(argv: list[str]) -> None:
    """Run ``argv`` inside the box instead of this process; returns at once if we are inside."""
    if contained():
        return
    box = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child=SIGKILL", "--mount-proc"]
    os.execvpe(box[0], [*box, sys.executable, str(Path(__file__)), *argv], {**os.environ, MARK: "1"})


def first_process(argv: list[str]) -> int:
    """Be process 1: prepare the mounts, start the program, reap orphans, return the program's exit code."""
    for place in ("/run", "/mnt"):
        if os.system(f"mount -t tmpfs -o mode=0755 tmpfs {place}") != 0:  # noqa: S605 - a constant command
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
