"""Which versions this machine has: the one place where that is asked, and what hangs on it."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

PLACES = Path("/usr/lib/postgresql")
"""Where Debian keeps a directory for each version of PostgreSQL."""

KEEPS_LOCKS = "lock_directory_cleanup = false\n"
"""What ``check`` wants in barman.conf from Barman 3.10 on, and older ones warn of."""


def postgresql() -> str:
    """Return the newest version of PostgreSQL that has repmgr; nothing on a machine without one.

    >>> postgresql() == "" or postgresql().isdigit()
    True
    """
    found = [library.parts[-3] for library in PLACES.glob("*/lib/repmgr.so")]
    return max(found, key=int, default="")


BARMAN = "import barman.version; print(barman.version.__version__)"


@cache
def barman(python: str | Path) -> tuple[int, int]:
    """Return the version of the Barman of a Python, as far as anything hangs on it.

    Asked of its module: ``barman --version`` imports all else too, which takes twenty times as long.
    """
    said = subprocess.run(
        [python, "-c", BARMAN], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
    )
    major, minor, *_ = said.stdout.split(".")
    return int(major), int(minor)


def repmgr() -> str:
    """Return repmgr's version, such as 5.3."""
    said = subprocess.run(
        ["repmgr", "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
    )
    return ".".join(said.stdout.split()[1].split(".")[:2])


POSTGRESQL = postgresql()
DATA = f"/var/lib/postgresql/{POSTGRESQL}/main"
BINARIES = f"{PLACES}/{POSTGRESQL}/bin"
