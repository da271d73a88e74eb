"""The gateway's end: ``receive-event`` stores what a database host hands over, and can do nothing else.

It runs as the forced command of that host's key, which says whose it is. What comes may be anything: it is read in
limits of size and time, and what the client has asked for (SSH_ORIGINAL_COMMAND) is not looked at.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from itertools import islice

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed, UsageError
from repmgr_hooks.forward.letter import LONGEST, MOST_EVENTS, clock_in, read
from repmgr_hooks.hook import store, wake
from repmgr_hooks.text import one_line

LIMIT = 60.0
"""Seconds for a letter to come."""
PIECE = 4096
FULL = 20_000
"""Events in the spool at which no more are taken: the service takes more away in a minute."""


def receive(source: int, host: str, spool: str, say: Callable[[str], None]) -> None:
    """Store each event that comes, and say so when it is on the disk. Raises UsageError, OperationFailed."""
    lines = _lines(source, clock.monotonic() + LIMIT)
    ahead = clock_in(next(lines, "")) - clock.wall()
    try:
        if _is_full(spool):
            raise OperationFailed(f"more than {FULL} events wait in {spool}", hint="start repmgr-hooks.service here")
        events = 0
        for line in islice(lines, MOST_EVENTS):
            _store(line, host, ahead, spool, say)
            events += 1
        if next(lines, None) is not None:
            raise UsageError(f"more than {MOST_EVENTS} events in one letter; the rest is not read")
    except OSError as error:
        raise OperationFailed(f"cannot store in {spool}: {error}", hint="check its disk, owner and mode") from None
    finally:
        wake(spool)
    if not events:
        raise UsageError("the letter has no event")


def _store(line: str, host: str, ahead: float, spool: str, say: Callable[[str], None]) -> None:
    """Store one event: with the host and its number there, by which the journal knows it again."""
    try:
        letter = read(line)
    except UsageError as error:
        number = line.partition("\t")[0]
        say(f"refused {one_line(number, 50)} {one_line(str(error))}")
        return
    store(spool, [letter.cluster, *letter.words, host, letter.number, f"{ahead:.3f}"])
    say(f"taken {letter.number}")


def _is_full(spool: str) -> bool:
    with os.scandir(spool) as found:
        return sum(1 for _ in islice(found, FULL + 1)) > FULL


def _lines(source: int, end: float) -> Iterator[str]:
    """Yield each line that ends, until the input does. Raises UsageError for one that is too long, or no text."""
    rest = b""
    while True:
        while b"\n" in rest:
            line, _, rest = rest.partition(b"\n")
            yield _text(line)
        if len(rest) > LONGEST:
            raise UsageError(f"a line is longer than {LONGEST} bytes; the rest is not read")
        poll = select.poll()
        poll.register(source, select.POLLIN)
        if not poll.poll(max(1000 * (end - clock.monotonic()), 0)):
            raise OperationFailed(f"the letter has not ended within {LIMIT:.0f} s")
        piece = os.read(source, PIECE)
        if not piece:
            return  # what does not end in a line break has been cut off, and comes again
        rest += piece


def _text(line: bytes) -> str:
    if len(line) > LONGEST:
        raise UsageError(f"a line is longer than {LONGEST} bytes; the rest is not read")
    try:
        return line.decode("ascii")
    except UnicodeDecodeError:
        raise UsageError("a line is no plain text; the rest is not read") from None
