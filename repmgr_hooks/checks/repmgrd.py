"""The repmgrds of this machine: who they run as, and in which environment what they call is run."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from repmgr_hooks.checks.files import absent
from repmgr_hooks.checks.users import User, user_called, user_of
from repmgr_hooks.cluster.repmgr_files import files_here

ACCOUNTS = ("postgres", "enterprisedb")
"""Debian's and PGDG's, and that of EDB's server."""
GIVEN = re.compile(r"\0(?:-f\0?|--config-file[=\0])(/[^\0]+)")
"""The file that repmgrd was told to read, in its command line."""


@dataclass(frozen=True)
class Daemon:
    """A repmgrd: who it runs as, its environment, and the file that it was given."""

    user: User
    environment: Mapping[str, str]
    conf: Path | None = None
    no_new_privileges: bool = False


def running() -> Iterator[Daemon]:
    """Return every repmgrd of this machine, as far as we may look."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "repmgrd":
                yield _daemon(process)
        except (OSError, KeyError):
            continue  # it has ended meanwhile, or its user has no name


def _daemon(process: Path) -> Daemon:
    status = (process / "status").read_text()
    groups = re.search(r"^Groups:(.*)$", status, re.MULTILINE)
    user = user_of(process.stat().st_uid)
    user = replace(user, groups=tuple(map(int, groups[1].split()))) if groups else user
    try:
        pairs = (process / "environ").read_text(errors="replace").split("\0")
        environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    except PermissionError:
        environment = usual(user)
    given = GIVEN.search((process / "cmdline").read_text(errors="replace"))
    return Daemon(user, environment, Path(given[1]) if given else None, "NoNewPrivs:\t1" in status)


def usual(user: User) -> dict[str, str]:
    """Return the environment that systemd gives to a service (systemd.exec(5))."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    names = {"LOGNAME": user.name, "USER": user.name, "HOME": user.home, "SHELL": "/bin/sh"}
    return {"PATH": path, "LANG": "C.UTF-8", **names}


def likely(daemons: Iterable[Daemon]) -> Daemon | None:
    """Return the one of a user that packages make, else the first: anybody can run a program of that name."""
    return min(daemons, key=lambda daemon: daemon.user.name not in ACCOUNTS, default=None)


def repmgrds_user() -> User:
    """Return who repmgrd runs as; if none runs here, the user that packages make for PostgreSQL."""
    daemon = likely(running())
    found = daemon.user if daemon else next(filter(None, map(user_called, ACCOUNTS)), None)
    return found or user_of(os.geteuid())


def daemon_of(conf: Path) -> Daemon:
    """Return the repmgrd that was given this file, by whichever name; if none runs, what systemd would start."""
    user, real = repmgrds_user(), os.path.realpath(conf)
    given = (daemon for daemon in running() if daemon.conf and os.path.realpath(daemon.conf) == real)
    return likely(given) or Daemon(user, usual(user), conf)


def confs_here() -> list[Path]:
    """Return every repmgr.conf that stands where packages and people put it, and each that a repmgrd here was given.

    Anybody can run a program of that name, and name a file.
    """
    given = [daemon.conf for daemon in running() if daemon.conf and daemon.user.name in ("root", *ACCOUNTS)]
    return sorted({*files_here(), *(Path(os.path.realpath(conf)) for conf in given if not absent(conf))})
