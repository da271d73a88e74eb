"""The configuration as the command line names it: which file, which cluster, and how that is reached."""

from __future__ import annotations

import argparse

from repmgr_hooks import config
from repmgr_hooks.config import Config, which_cluster
from repmgr_hooks.config_file import names, of_gateway
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import UsageError
from repmgr_hooks.event import Event
from repmgr_hooks.system.answers import Answers
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.login import Logins


def configured(arguments: argparse.Namespace) -> Config:
    """Read the configuration file of a gateway. Raises UsageError."""
    return config.load(of_gateway(arguments.config))


def world_of(managed: ManagedCluster, logins: Logins | None = None, answers: Answers | None = None) -> LocalHost:
    """Return the host through which a cluster is reached.

    ``logins``: those that are kept open for it; ``answers``: those that it shares with other clusters.
    """
    return LocalHost(managed.cluster.conninfos(), logins=logins, answers=answers)


def choose(loaded: Config, name: str | None, event: Event | None) -> list[ManagedCluster]:
    """Return the cluster of an event; without one, the named cluster, or all of them. Raises UsageError."""
    if event is None:
        return [loaded.clusters[key] for key in names.named(loaded.path, loaded.clusters, name)]
    name = which_cluster(loaded.clusters, name, event.node)
    nodes = loaded.clusters[name].cluster.nodes
    if event.node not in nodes:
        known = ", ".join(str(node) for node in nodes)
        raise UsageError(f"{loaded.path}: clusters.{name}.nodes has no node {event.node} (it has {known})")
    return [loaded.clusters[name]]
