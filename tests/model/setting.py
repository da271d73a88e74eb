"""The configuration that the model runs with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repmgr_hooks import config
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.handlers import firewall
from repmgr_hooks.settings.cluster import FlapLimit, Node
from tests.model.cluster import Placed, places

LOADED = config.load(Path(__file__).resolve().parents[2] / "config/config.yaml")
TICK = LOADED.service.monitor_interval
SHORT = {"fail_open_after": 10, "start_timeout": 5}
"""In seconds: simulated waiting costs real time too, for every look is a real one."""


READERS = 54323


def managed(size: int, backend: str, if_none: str = "", placed: Placed = "apart") -> ManagedCluster:
    """The cluster and the routes of config/config.yaml, with so many nodes; no change of the primary is held back.

    With ``if_none`` there is a port for readers too, second in the first route and last in the other.
    """
    main = LOADED.clusters["main"]
    gateway = replace(main.cluster.gateway, backend=backend)
    where = places(size, placed).items()
    nodes = {
        number: Node(host, port=port if port != main.cluster.postgres.port else None) for number, (host, port) in where
    }
    cluster = replace(main.cluster, nodes=nodes, gateway=gateway, promotion_timeout=1, flap_limit=FlapLimit(1000, 600))
    routes = [Route(route.on, tuple(map(_hurried, route.do))) for route in main.routes]
    if if_none:
        options = firewall.Config("readers", to="standbys", if_none=if_none)  # type: ignore[arg-type]
        assert options.readers
        more = replace(gateway, ports={**gateway.ports, "readers": READERS})
        cluster = replace(cluster, gateway=more, readers={"readers": options.readers})
        action = replace(routes[0].do[0], config=options, title="firewall {open: readers, to: standbys}", path="r")
        first, second, *others = routes
        first = Route(first.on, (first.do[0], action, *first.do[1:]))
        second = Route(second.on, (*second.do, replace(action, path="s")))
        routes = [first, second, *others]
    return ManagedCluster(cluster, tuple(routes))


def _hurried(action: Action) -> Action:
    shorter = {name: value for name, value in SHORT.items() if hasattr(action.config, name)}
    return replace(action, config=replace(action.config, **shorter))
