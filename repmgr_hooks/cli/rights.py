"""Whether whoever has typed a command may do what it does: said before anything is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from repmgr_hooks.cli.output import complain
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, UsageError


def refuse_without_rights(chosen: Iterable[ManagedCluster]) -> None:
    """Raise UsageError where a run would fail for want of rights, after attempts that take minutes."""
    if os.geteuid() != 0 and not may_change_rules() and any(managed.opened_ports for managed in chosen):
        raise UsageError("the rules of netfilter are root's to change, and nothing was done", hint="run it as root")


def may_change_rules() -> bool:
    """True if we have CAP_NET_ADMIN (number 12, linux/capability.h), as the service has."""
    status = Path("/proc/thread-self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(found and int(found[1], 16) & 1 << 12)


def complain_of_passfiles(chosen: Iterable[ManagedCluster]) -> None:
    """Say which of them may not be read: to libpq that is as if there were no password, and to us no node answers."""
    for file in {managed.cluster.postgres.passfile for managed in chosen} - {""}:
        try:
            Path(file).open("rb").close()
        except PermissionError:
            what = f"you may not read {file}: what is shown of the nodes is as if there were no password"
            complain(OperationFailed(what, hint="run it as root"))
        except OSError:
            pass  # whose file is missing learns that from check
