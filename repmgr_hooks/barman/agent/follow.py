"""Follows the records of WAL files as a recovery would, through every switchpoint, with pg_waldump.

pg_waldump knows one timeline. So the files of all of them are shown to it under one: the first file of a timeline holds
what came before the switchpoint too, and PostgreSQL's reader looks only that timelines do not go back. It checks the
sum of each record, the position of each page, and that each record names the one before it (xlogreader.c).
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from itertools import takewhile
from pathlib import Path
from typing import Any

from repmgr_hooks.barman.agent.files import damaged, is_packed, plain
from repmgr_hooks.barman.agent.files import place as place_of

PREFIX = ".repmgr-hooks-"
HEADER = struct.Struct("<HHIQI")
"""What each page begins with (xlog_internal.h, XLogPageHeaderData); the first of a file goes on (40 bytes in all)."""
PAGE, LARGEST_HEADER, GOES_ON = 8192, 40, 1


def follow(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what is wrong between two positions; empty if nothing is. ``names``: the files, in order.

    ``again``: in so many of the last files has to be looked once more, for a record goes on beyond them.
    """
    begun = time.monotonic()
    be_modest()
    waldump = program("pg_waldump", asked["version"])
    if not waldump:
        return {"problem": "", "unable": f"there is no pg_waldump of PostgreSQL {asked['version']}"}
    with scratch(asked["backup_directory"]) as place:
        files = {name: Path(place, f"00000001{name[8:]}") for name in asked["names"]}
        for name, path in files.items():
            try:
                provide(name, path, asked)
            except damaged() as error:
                return {"problem": f"{name} cannot be read to its end: {error}", "unable": ""}
            except Exception as error:
                return {"problem": "", "unable": f"{name} cannot be read: {error}"}
        words = [waldump, "--quiet", "-p", place, "-t", "1", "-s", asked["start"], "-e", asked["end"]]
        again = 1 + sum(1 for _ in takewhile(lambda path: not begins_record(path), reversed(list(files.values()))))
        left = max(asked["seconds"] - (time.monotonic() - begun), 1)
        try:
            ended = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=left,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"problem": "", "unable": f"pg_waldump did not end within {left:.0f} s"}
    said = ended.stderr.strip().replace("pg_waldump: ", "").replace("error: ", "")
    if ended.returncode < 0:
        return {"problem": "", "unable": f"pg_waldump was ended by signal {-ended.returncode}"}
    problem = (said or f"exit code {ended.returncode}") if ended.returncode else ""
    return {"problem": problem, "unable": "", "again": again}


def begins_record(path: Path) -> bool:
    """True if a record begins in a file: what the one from before needs of it (xlp_rem_len) does not fill it."""
    with path.open("rb") as file:
        _, flags, _, _, rest = HEADER.unpack(file.read(HEADER.size))
        size = file.seek(0, 2)
    headers = size // PAGE * LARGEST_HEADER
    return not (flags & GOES_ON) or rest < size - headers


def provide(name: str, path: Path, asked: dict[str, Any]) -> None:
    """Put a file there without compression; one that has none under a second name, which stays when Barman moves it."""
    found = Path(place_of(name, asked["directories"]))
    if is_packed(str(found)) or found.stat().st_size != asked["segment_size"] or not linked(found, path):
        with path.open("wb") as file:
            for chunk in plain(name, asked):
                file.write(chunk)
    if path.stat().st_size != asked["segment_size"]:
        raise ValueError(f"it has {path.stat().st_size} bytes, and a WAL file has {asked['segment_size']}")


def linked(found: Path, path: Path) -> bool:
    """Give a file a second name; False on another disk."""
    try:
        os.link(found, path)
    except OSError:
        return False
    return True


def scratch(directory: str) -> tempfile.TemporaryDirectory[str]:
    """Return a directory that is removed in the end; those of runs that were killed are removed now."""
    for left in Path(directory).glob(f"{PREFIX}*"):
        owner = left.name[len(PREFIX) :].partition("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", dir=directory)


def program(name: str, version: int) -> str:
    """Return a program of PostgreSQL's of that version, where packages put it, else one on the path; or nothing."""
    for place in (f"/usr/lib/postgresql/{version}/bin", f"/usr/pgsql-{version}/bin"):
        if Path(place, name).is_file():
            return f"{place}/{name}"
    found = shutil.which(name)
    if not found:
        return ""
    said = subprocess.run([found, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return found if f" {version}." in said.stdout or f" {version} " in f"{said.stdout.strip()} " else ""


def end_with_parent(number: int) -> None:
    """Have the kernel signal us when our parent ends (prctl(2), PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, number)


def be_modest() -> None:
    """Run with the lowest priority, and end, cleaned up, with the process that started us."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    end_with_parent(signal.SIGTERM)
    os.nice(19)
    if ionice := shutil.which("ionice"):
        words = [ionice, "-c", "3", "-p", str(os.getpid())]
        subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False)
