"""Whether whoever has typed a command may do what it does: said before anything is changed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import UsageError


def refuse_without_rights(chosen: Iterable[ManagedCluster]) -> None:
    """Raise UsageError where a run would fail for want of rights, after attempts that take minutes."""
    if os.geteuid() != 0 and not may_change_rules() and any(managed.opened_ports for managed in chosen):
        raise UsageError("the rules of netfilter are root's to change, and nothing was done", hint="run it as root")


def may_change_rules() -> bool:
    """True if we have CAP_NET_ADMIN (number 12, linux/capability.h), as the service has."""
    status = Path("/proc/thread-self/status").read_text()
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(found and int(found[1], 16) & 1 << 12)
