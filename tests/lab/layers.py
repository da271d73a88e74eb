"""Directories that hold what others hold, without a copy: what is written there stays above it, in the lab's memory."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

BASE = Path("/mnt")
"""Where the hosts are: in memory."""
ETC = Path("/run/etc-of-machine")
"""A copy, the one of a box: a container's own /etc is in layers, and the kernel lays no more than two over another."""


def mount_etc(place: Path) -> None:
    """Give a host an /etc that is as the machine's."""
    if not ETC.exists():
        copy(Path("/etc"), ETC)
    mount(ETC, place)


def mount(below: Path, place: Path) -> None:
    """Let a directory of a host hold what ``below`` does, which stays as it is."""
    place.mkdir(parents=True, exist_ok=True)
    layer = BASE / "layers" / str(place.relative_to(BASE)).replace("/", "-")
    changes, work = layer / "changes", layer / "work"
    for directory in (changes, work):
        directory.mkdir(parents=True)
    # The whole has the owner and the mode of what is above (overlayfs.rst, "Upper and Lower").
    shutil.copystat(below, changes)
    os.chown(changes, below.stat().st_uid, below.stat().st_gid)
    # Else a directory of what is below cannot be renamed (overlayfs.rst, "renaming directories").
    options = f"lowerdir={below},upperdir={changes},workdir={work},redirect_dir=on"
    run("mount", "-t", "overlay", "-o", options, "overlay", str(place))


def empty() -> None:
    """Take away all hosts, and all that is mounted there.

    To remove one file after the other takes a processor longer than to make them.
    """
    run("umount", "--lazy", str(BASE))
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(BASE))


def copy(source: Path, target: Path) -> None:
    # Without what is zero, as is most of a new file of WAL.
    run("cp", "-a", "--sparse=always", str(source), str(target))


def run(*words: str) -> None:
    subprocess.run(words, stdin=subprocess.DEVNULL, timeout=60, check=True)
