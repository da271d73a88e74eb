"""What labs begin with that are alike: made once, kept, and laid under each lab that has the same.

Kept are the databases when they are new, and what the first ``reconcile`` and a backup leave: these and what the
gateway has. ``tests/run`` keeps them for the time of the run, for all files; else they are kept for as long as the box
lasts.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
OF_DATABASES = ("pg_hba.conf", "postgresql-db1.conf")
OF_SERVICE = (*OF_DATABASES, "config.yaml", "barman.conf", "barman.d/main_backup.conf")
STATE = ("/var/lib/barman", "/var/log/barman", "/var/lib/repmgr-hooks")
"""What ``reconcile`` leaves on the gateway, beside its rules."""


def make_databases(lab: Lab) -> None:
    """Make the databases of a lab, or begin with those that were made for another; then start them."""
    with place_of(key(lab)) as kept:
        if not whole(kept):
            _make(lab)
            if lab.segment_mb <= LARGEST:
                _keep(lab, kept)
            lab.start_databases()
            return
    _lay(lab, kept)
    lab.start_databases()


def make_service(lab: Lab) -> None:
    """Make a cluster as the first ``reconcile`` leaves it, or begin with what it has left in another; Barman's
    receiver may have to be started by cron."""
    if not lab.kept_as_a_whole:
        make_databases(lab)
        lab.start_hosts()
        lab.reconcile()
        return
    with place_of(key_of_service(lab)) as kept:
        if not whole(kept):
            from tests.lab import barman  # which has to do with a lab that is there

            make_databases(lab)
            lab.reconcile()
            barman.back_up(lab, lab.db1)
            _keep_service(lab, kept)
            lab.start_databases()
            lab.start_hosts()
            return
    for place in STATE:
        shutil.rmtree(lab.gateway.path(place))
        layers.copy(kept / name(place), lab.gateway.path(place))
    _lay(lab, kept)
    lab.gateway.restore_nat((kept / "rules").read_text())
    lab.start_databases()
    lab.start_hosts()


@contextmanager
def place_of(kind: str) -> Iterator[Path]:
    """Where something is kept; who comes second waits, for to make it takes a processor some seconds."""
    kept = Path(os.environ.get(PLACE, "/run/templates"), kind)
    kept.mkdir(parents=True, exist_ok=True)
    with (kept / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield kept


def whole(kept: Path) -> bool:
    return (kept / "whole").exists()


def key(lab: Lab, files: tuple[str, ...] = OF_DATABASES) -> str:
    """Return what tells labs apart whose databases differ: a lab of another kind has other lines in pg_hba.conf."""
    text = "".join(map(lab.config, files))
    kind = f"{type(lab).__name__}-{lab.nodes}-{lab.six}-{lab.rpm}-{lab.segment_mb}"
    return f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def key_of_service(lab: Lab) -> str:
    return f"{key(lab, OF_SERVICE)}-{lab.newest_barman}-{lab.backend}"


def service_is_kept(lab: Lab) -> bool:
    """True if such a lab will begin with what ``reconcile`` has left in another."""
    with place_of(key_of_service(lab)) as kept:
        return whole(kept)


def _make(lab: Lab) -> None:
    lab.make_primary()
    for host in lab.databases[1:]:
        lab.make_standby(host)
    lab.put(lab.db1, f"{DATA}/alone.conf", "", owner="postgres")
    _stop(lab)


def _stop(lab: Lab) -> None:
    # The primary first: it ends when the standbys have all its WAL.
    for host in lab.databases:
        host.pg_ctl("stop", "-m", "fast")
        host.path(f"{DATA}/server.log").unlink()


def _keep(lab: Lab, kept: Path) -> None:
    for host in lab.databases:
        shutil.rmtree(kept / host.name, ignore_errors=True)  # of a run that was ended
        layers.copy(host.path(str(PLACE_OF_ALL)), kept / host.name)
    (kept / "whole").touch()


def _keep_service(lab: Lab, kept: Path) -> None:
    # As the service does once, when all has been well for 30 s: what has been shown is in the journal, and not looked
    # at again. It takes a second of a processor.
    lab.gateway.run("repmgr-hooks", "check-wal", "--deep", "--newest", "1GB", "--within", "15m")
    lab.gateway.barman("receive-wal", "--stop", "main_backup")
    _stop(lab)
    for place in STATE:
        shutil.rmtree(kept / name(place), ignore_errors=True)
        layers.copy(lab.gateway.path(place), kept / name(place))
    (kept / "rules").write_text(lab.gateway.saved_nat())
    _keep(lab, kept)


def name(place: str) -> str:
    return place.strip("/").replace("/", "-")


def _lay(lab: Lab, kept: Path) -> None:
    for host in lab.databases:
        layers.mount(kept / host.name, host.path(str(PLACE_OF_ALL)))
