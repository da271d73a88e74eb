"""The databases of a lab when they are new: made once, kept, and laid under those of each lab that has the same.

``tests/run`` keeps them for the time of the run, for all files; else they are kept for as long as the box lasts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab import layers
from tests.lab.versions import DATA

if TYPE_CHECKING:
    from tests.lab import Lab

PLACE = "REPMGR_HOOKS_TEMPLATES"
"""The variable of the environment that says where they are kept."""
LARGEST = 16
"""MB of a WAL file; with larger ones to copy takes longer than to make."""
PLACE_OF_ALL = Path(DATA).parent
"""Not the data directory itself: some tests remove that, and have it made anew."""


def make_databases(lab: Lab) -> None:
    """Make the databases of a lab, or begin with those that were made for another; then start them."""
    kept = Path(os.environ.get(PLACE, "/run/templates"), key(lab))
    kept.mkdir(parents=True, exist_ok=True)
    # Who comes second waits: to make them takes a processor some seconds.
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / "whole").exists():
            _make(lab)
            if lab.segment_mb <= LARGEST:
                _keep(lab, kept)
            lab.start_databases()
            return
    for host in lab.databases:
        layers.mount(kept / host.name, host.path(str(PLACE_OF_ALL)))
    lab.start_databases()


def key(lab: Lab) -> str:
    """Return what tells labs apart whose databases differ: a lab of another kind has other lines in pg_hba.conf."""
    files = "".join(map(lab.config, ("pg_hba.conf", "postgresql-db1.conf")))
    kind = f"{type(lab).__name__}-{lab.nodes}-{lab.six}-{lab.rpm}-{lab.segment_mb}"
    return f"{kind}-{hashlib.sha256(files.encode()).hexdigest()[:12]}"


def _make(lab: Lab) -> None:
    lab.make_primary()
    for host in lab.databases[1:]:
        lab.make_standby(host)
    lab.put(lab.db1, f"{DATA}/alone.conf", "", owner="postgres")
    # The primary first: it ends when the standbys have all its WAL.
    for host in lab.databases:
        host.pg_ctl("stop", "-m", "fast")
        host.path(f"{DATA}/server.log").unlink()


def _keep(lab: Lab, kept: Path) -> None:
    for host in lab.databases:
        shutil.rmtree(kept / host.name, ignore_errors=True)  # of a run that was ended
        layers.copy(host.path(str(PLACE_OF_ALL)), kept / host.name)
    (kept / "whole").touch()
