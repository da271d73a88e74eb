"""How wide the terminal is, for help and for lines that are folded."""

from __future__ import annotations

import argparse
import os
import sys


def formatter(prog: str) -> argparse.HelpFormatter:
    """Return what formats help. Without a width argparse asks for it with each argument, through shutil, which takes as
    long to import as all the rest: it brings every compressor."""
    return argparse.HelpFormatter(prog, width=columns() - 2)


def columns() -> int:
    """Return how wide the terminal is, as ``shutil.get_terminal_size`` does."""
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given):
        return int(given)
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (AttributeError, ValueError, OSError):
        return 80
