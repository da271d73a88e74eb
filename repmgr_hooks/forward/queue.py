"""The events that one gateway has not taken yet: a file each, in the order in which they came.

What is in the spool goes into the queue of every gateway before it leaves the spool, so a host that stops at any moment
has it in one or the other; it may be in both, and the gateway knows it by its number.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks.errors import UsageError
from repmgr_hooks.files import atomic_write
from repmgr_hooks.forward.letter import NUMBER, Letter, letter
from repmgr_hooks.hook import store

log = logging.getLogger(__name__)

NAME = re.compile(rf"([0-9]{{10}})-({NUMBER.pattern})", re.ASCII)
"""The place in the queue, which no clock that is set back can change, and the event's own number."""
PLACE = 11
"""Characters before the number."""
MOST = 20_000
"""Events that wait for a gateway at most; the oldest of more are given up."""
LAST = ".last"
"""The file that holds the event that the gateway took last."""
LIMIT = 4096


@dataclass(frozen=True)
class Queued:
    """An event in the queue: its file there, and what it says."""

    name: str
    letter: Letter


class GatewayQueue:
    """The queue of one gateway; only the forwarder writes there. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in directory.glob(f".{'[0-9]' * 10}-*"):  # by one that was killed while it wrote
            left.unlink()
        self._next = 1 + max((int(name[:10]) for name in self.names()), default=0)

    def names(self) -> list[str]:
        """Return the files of all events that wait, oldest first."""
        with os.scandir(self._directory) as found:
            return sorted(entry.name for entry in found if NAME.fullmatch(entry.name))

    def add(self, letters: Iterable[Letter]) -> None:
        """Add events at the end, unless they wait already; they are on the disk when this returns."""
        waiting = {name[PLACE:] for name in self.names()}
        for each in letters:
            if each.number not in waiting:
                store(str(self._directory), [each.cluster, *each.words], f"{self._next:010d}-{each.number}")
                self._next += 1

    def first(self, most: int) -> list[Queued]:
        """Return the oldest events."""
        found = (self._read(name) for name in self.names()[:most])
        return [each for each in found if each]

    def _read(self, name: str) -> Queued | None:
        """Return the event of a file; what a broken disk has made of one must not hold up the rest."""
        try:
            text = (self._directory / name).read_bytes()[:LIMIT]
            return Queued(name, letter(name[PLACE:], text.decode().split("\n")[:-1]))
        except FileNotFoundError:
            return None  # just given up
        except (UsageError, UnicodeDecodeError) as error:
            log.error("%s/%s is no event any more, and is removed: %s", self._directory, name, error)
            self.remove(name)
            return None

    def remove(self, name: str) -> None:
        """Take an event out."""
        (self._directory / name).unlink(missing_ok=True)

    def give_up_oldest(self, most: int = MOST) -> int:
        """Remove the oldest of more events than ``most``, and return how many those were."""
        names = self.names()
        for name in (more := names[: max(len(names) - most, 0)]):
            self.remove(name)
        return len(more)

    def note_taken(self, letter: Letter) -> None:
        """Keep what the gateway took last, for who wants to know whether events arrive; a full disk does without."""
        with suppress(OSError), atomic_write(self._directory / LAST) as file:
            file.write(letter.line())


def last_taken(directory: Path) -> str:
    """Return the event that a gateway took last, as a line; empty if it has taken none."""
    try:
        return (directory / LAST).read_text(errors="replace")[:LIMIT]
    except FileNotFoundError:
        return ""
