"""A pause is also kept in a small file: it is heeded while the journal cannot be read, and taken over by a new one."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.background import on_disk
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.files import atomic_write
from repmgr_hooks.journal.maintenance import Maintenance, Pause
from repmgr_hooks.text import one_line

log = logging.getLogger(__name__)

MOST = 10_000
BEFORE, AFTER = "cluster-", ".paused"


def pause_of(cluster: str, journal: Maintenance | None, state_dir: Path) -> Pause | None:
    """Return the pause of a cluster, if it has one that is not over."""
    try:
        if journal:
            return journal.paused(cluster)
    except OperationFailed as error:
        log.error("%s", error)
    return known(state_dir, cluster)


def keep(state_dir: Path, cluster: str, pause: Pause | None) -> None:
    """Keep what the journal says too; if that fails, say so."""
    path = _path(state_dir, cluster)
    try:
        if pause is None:
            path.unlink(missing_ok=True)
            return
        with atomic_write(path) as file:
            json.dump(pause._asdict(), file)
    except OSError as error:
        log.error("%s cannot be written: %s; the journal alone knows of the pause", path, error)


def paused_among(clusters: Iterable[str], journal: Maintenance, state_dir: Path) -> list[str]:
    """Return which of these clusters are paused, if that was kept; the file alone may be an old one."""
    return [name for name in all_known(state_dir).keys() & clusters if pause_of(name, journal, state_dir)]


def all_known(state_dir: Path) -> dict[str, Pause]:
    """Return the pauses that were kept, of those that are not over, by their clusters."""
    try:
        names = on_disk(partial(os.listdir, state_dir))
    except OSError as error:
        log.error("which clusters are paused cannot be read: %s", error)
        return {}
    clusters = [name[len(BEFORE) : -len(AFTER)] for name in names if name.startswith(BEFORE) and name.endswith(AFTER)]
    return {cluster: pause for cluster in clusters if (pause := known(state_dir, cluster))}


def known(state_dir: Path, cluster: str) -> Pause | None:
    """Return the pause that was kept, if it is not over."""
    try:
        given = json.loads(on_disk(partial(_read, _path(state_dir, cluster))))
        until = None if given["until"] is None else float(given["until"])
        pause = Pause(until, one_line(str(given["reason"]), MOST), float(given["since"]))
        return pause if lasts(pause) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        log.error("whether %s is paused cannot be read: %s", cluster, error)
        return None


def _read(path: Path) -> str:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, encoding="utf-8") as file:
        return file.read(MOST)


def lasts(pause: Pause) -> bool:
    """True if a pause is not over."""
    return pause.until is None or pause.until > clock.wall()


def until_when(moment: float | None) -> str:
    """Return the end of a pause in words."""
    return "until it is resumed" if moment is None else f"until {time.strftime('%H:%M:%S', time.localtime(moment))}"


def _path(state_dir: Path, cluster: str) -> Path:
    return state_dir / f"{BEFORE}{cluster}{AFTER}"
