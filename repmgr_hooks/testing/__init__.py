"""A test kit for handlers: whether one keeps the contract, in a few states of a cluster and a world of its author's.

With pytest, a test file names the plugin, and each check is a test of its own:

    pytest_plugins = ["repmgr_hooks.testing.plugin"]

    def test_primary_file(handler_check):
        handler_check(primary_file, {"path": "/run/primary"}, World)

Without it, ``examine`` returns what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.engine.routes import Action
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.handlers.contract import Handler
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host
from repmgr_hooks.testing.checks import CHECKS
from repmgr_hooks.testing.host import NotScripted, ScriptedHost, ended
from repmgr_hooks.testing.subject import CLUSTER, Fault, Subject, options, usual_states

__all__ = ["CHECKS", "CLUSTER", "ScriptedHost", "cluster_of", "ended", "examine", "subject_of", "usual_states"]


def cluster_of(text: Mapping[str, Any]) -> Cluster:
    """Return a cluster, written as in the configuration. Raises Fault."""
    cluster: Cluster = options(Cluster, text, "cluster")
    return cluster


def subject_of(
    handler: Handler,
    given: Mapping[str, Any],
    world: Callable[[], Host],
    cluster: Cluster | None = None,
    states: Mapping[str, ClusterState] | None = None,
) -> Subject:
    """Return what is tested: a handler with options, written as in a route. Raises Fault."""
    there = cluster or cluster_of(CLUSTER)
    name = getattr(handler, "__name__", "handler").rpartition(".")[2]
    action = Action(name, handler, options(handler.Config, given, name), f"{name} {given}")
    return Subject(action, there, world, states or usual_states(there))


def examine(
    handler: Handler,
    given: Mapping[str, Any],
    world: Callable[[], Host],
    cluster: Cluster | None = None,
    states: Mapping[str, ClusterState] | None = None,
    checks: Mapping[str, Callable[[Subject], None]] = CHECKS,
) -> list[str]:
    """Return what is wrong with a handler: for each check the first fault; nothing if it keeps them all."""
    found = []
    for name, check in checks.items():
        try:
            check(subject_of(handler, given, world, cluster, states))
        except Fault as fault:
            found.append(f"{name}: {fault}")
        except OperationFailed as error:
            found.append(f"{name}: 'observe' fails, and nothing is wrong in the world: {error}")
        except NotScripted as error:
            found.append(f"{name}: {error}")
    return found
