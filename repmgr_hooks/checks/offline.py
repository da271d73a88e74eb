"""What a configuration file alone shows, on any machine: no network, no program, no other file, no user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from repmgr_hooks.checks import clients, passwords, routes
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.config import Config
from repmgr_hooks.forward.settings import DatabaseHost

NEVER_SEEN = ("nodes", "Barman", "repmgr.conf", "netfilter", "users", "other files")


def findings(loaded: Config) -> Iterator[Finding]:
    """Judge what was loaded with ``here=False``."""
    count = sum(len(managed.routes) for managed in loaded.clusters.values())
    yield Topic("config.file", str(loaded.path)).ok(f"{len(loaded.clusters)} cluster(s), {count} route(s)")
    for managed in loaded.clusters.values():
        yield routes.events(managed)
        yield from routes.look(managed, loaded.service.monitor_interval)
        yield from passwords.written(managed.cluster)
        yield clients.role(managed.cluster)


def of_database_host(loaded: DatabaseHost, path: Path) -> Finding:
    """Judge the file of a database host."""
    where = ", ".join(loaded.gateways)
    return Topic("config.file", str(path)).ok(f"a database host that hands events to {where}")


def not_looked_at(loaded: Sequence[Config]) -> str:
    """Say on one line what ``check`` on the gateway looks at besides.

    >>> from pathlib import Path; from repmgr_hooks.config import Service
    >>> not_looked_at([Config(Path("-"), Service(), {}, ("/usr/local/bin/page",))])
    'not looked at: /usr/local/bin/page, nodes, Barman, repmgr.conf, netfilter, users, other files'
    """
    named = dict.fromkeys(name for one in loaded for name in one.unseen)
    return f"not looked at: {', '.join((*named, *NEVER_SEEN))}"
