"""The other end of a login that stays open: ``login.py`` sends this text to the ``python3`` there (3.9 or newer).

It runs lines of a shell, as ssh does, side by side, and ends with the login. It says what it has begun, how that has
ended, and now and then that it is there; all are lines of JSON.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import Any

ALIVE_EVERY = 10.0
CHUNK = 65536
RUNNING: dict[int, subprocess.Popen[bytes]] = {}
SAYING = threading.Lock()


def serve() -> None:
    """Do what is asked for, until the other side is gone; then nothing of it goes on."""
    left = b""
    say()
    while True:
        ready, _, _ = select.select([0], [], [], ALIVE_EVERY)
        if not ready:
            say()
            continue
        chunk = os.read(0, CHUNK)
        if not chunk:
            end_all()
        *lines, left = (left + chunk).split(b"\n")
        for line in lines:
            take(json.loads(line))


def take(asked: dict[str, Any]) -> None:
    """Begin a line, or end one."""
    number = asked["number"]
    if "line" not in asked:
        end(number)
        return
    say(number=number, begun=True)
    words = ["sh", "-c", asked["line"]]
    pipe = subprocess.PIPE
    RUNNING[number] = subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
    threading.Thread(target=wait_for, args=(number, asked["stdin"].encode()), daemon=True).start()


def wait_for(number: int, given: bytes) -> None:
    """Say how a line has ended."""
    output, errors = (text.decode(errors="replace") for text in RUNNING[number].communicate(given))
    say(number=number, code=RUNNING.pop(number).returncode, output=output, errors=errors)


def say(**message: Any) -> None:
    """Send a message; what cannot be sent ends all."""
    line = json.dumps(message).encode() + b"\n"
    try:
        with SAYING:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    except OSError:
        end_all()


def end(number: int) -> None:
    """Kill what a line has started."""
    if running := RUNNING.get(number):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(running.pid, signal.SIGKILL)


def end_all() -> None:
    """Kill all, and end."""
    for number in list(RUNNING):
        end(number)
    os._exit(0)


if __name__ == "__main__":
    try:
        serve()
    finally:  # also when it was asked something odd, or nothing can be started any more
        end_all()
