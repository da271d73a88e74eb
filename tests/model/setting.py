"""The configuration that the model runs with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repmgr_hooks import config
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.settings.cluster import FlapLimit, Node

LOADED = config.load(Path(__file__).resolve().parents[2] / "config/config.yaml")
TICK = LOADED.service.monitor_interval
SHORT = {"fail_open_after": 10, "start_timeout": 5}
"""In seconds: simulated waiting costs real time too, for every look is a real one."""


def managed(size: int, backend: str) -> ManagedCluster:
    """The cluster and the routes of config/config.yaml, with so many nodes; no change of the primary is held back."""
    main = LOADED.clusters["main"]
    gateway = replace(main.cluster.gateway, backend=backend)
    nodes = {number: Node(f"10.0.0.{10 + number}") for number in range(1, size + 1)}
    cluster = replace(main.cluster, nodes=nodes, gateway=gateway, promotion_timeout=1, flap_limit=FlapLimit(1000, 600))
    return ManagedCluster(cluster, tuple(Route(route.on, tuple(map(_hurried, route.do))) for route in main.routes))


def _hurried(action: Action) -> Action:
    shorter = {name: value for name, value in SHORT.items() if hasattr(action.config, name)}
    return replace(action, config=replace(action.config, **shorter))
