"""What would go wrong at 3 a.m., found now: one finding a line, with what mends it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from repmgr_hooks.checks import alerts
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.config import Config
from repmgr_hooks.handlers import slot
from repmgr_hooks.handlers.firewall import Family
from repmgr_hooks.routes import Managed


def findings(loaded: Config) -> list[Finding]:
    """Look at all that can be looked at here."""
    routes = sum(len(managed.routes) for managed in loaded.clusters.values())
    read = Finding("OK", f"{loaded.path}: {len(loaded.clusters)} cluster(s), {routes} route(s)")
    return [read, *_programs(loaded), *_tracking(loaded), *alerts.seen(loaded)]


def _programs(loaded: Config) -> Iterator[Finding]:
    for name in sorted({name for managed in loaded.clusters.values() for name in _needed(managed)}):
        if shutil.which(name) is None:
            yield Finding("FAIL", f"{name} is not installed", "the routes need it")
    if shutil.which("conntrack") is None:
        why = "conntrack is not installed: after a failover, open connections go on to the old primary"
        yield Finding("WARN", why, "apt install conntrack")


def _needed(managed: Managed) -> set[str]:
    names = {action.name for action in managed.actions}
    iptables = Family(managed.cluster.gateway.address).iptables
    programs = {f"{iptables}-save", f"{iptables}-restore"} if "firewall" in names else set()
    return programs | ({managed.cluster.barman.command[0]} if "barman" in names and managed.cluster.barman else set())


def _tracking(loaded: Config) -> Iterator[Finding]:
    for name, managed in loaded.clusters.items():
        slots = [action.config for action in managed.actions if isinstance(action.config, slot.Config)]
        if any(config.keep == "track" for config in slots) and not loaded.service.tick:
            why = f"clusters.{name}: 'keep: track' with 'tick: 0': the standbys' slots are never advanced"
            yield Finding("FAIL", why, "set tick to 5")
