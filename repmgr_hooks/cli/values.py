"""The values of options, as their text on the command line is read."""

from __future__ import annotations

import argparse
import re

from repmgr_hooks.catalogue import is_node_id, shorten
from repmgr_hooks.settings.words import AMOUNT, PLAIN_NAME
from repmgr_hooks.settings.words import amount as in_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

UNITS = {"s": 1, "m": 60, "h": 3600}
LONGEST_PAUSE = 720 * 3600
LONGEST_REASON = 200


def path(text: str) -> Path:
    """Return a path."""
    from pathlib import Path  # for those commands alone that are given one

    return Path(text)


def duration(text: str) -> int:
    """Return the seconds of ``90s``, ``30m`` or ``2h``. Raises ArgumentTypeError."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and len(number) < 8 and unit in UNITS):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a time such as 90s, 30m or 2h")
    seconds = int(number) * UNITS[unit]
    if not 0 < seconds <= LONGEST_PAUSE:
        raise argparse.ArgumentTypeError(f"{text} is not between 1s and 720h")
    return seconds


def wal_amount(text: str) -> int:
    """Return the bytes of ``1GB``. Raises ArgumentTypeError."""
    if not AMOUNT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not an amount in PostgreSQL's units, such as 1GB")
    return in_bytes(text)


def amount(text: str) -> int:
    """Return a number of runs. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a number of runs")
    return int(text)


def node_id(text: str) -> int:
    """Return the number of a node. Raises ArgumentTypeError."""
    if not is_node_id(text):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a repmgr node id, a whole number from 1")
    return int(text)


def host_name(text: str) -> str:
    """Return the name of a host. Raises ArgumentTypeError."""
    if not re.fullmatch(PLAIN_NAME, text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a plain name (letters, digits, _ . -)")
    return text


def reason(text: str) -> str:
    """Return what stands on a line of ``status``. Raises ArgumentTypeError."""
    if len(text) > LONGEST_REASON:
        raise argparse.ArgumentTypeError(f"{len(text)} characters are more than {LONGEST_REASON}; write less")
    return text


def event_number(text: str) -> int:
    """Return the number of an event in the journal. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not the number of an event; see 'history'")
    return int(text)


class Version(argparse.Action):
    """It is looked up only when it is asked for: that takes as long as a bare Python."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        from importlib.metadata import version

        print(parser.prog, version("repmgr_hooks"))
        parser.exit()
