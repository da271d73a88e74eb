"""The connections that clients have through our ports: where they lead, and the steps that cut those that must go."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache

from repmgr_hooks.errors import NoSuchProgram, OperationFailed
from repmgr_hooks.netfilter.conntrack import Tracked, lines_with, parse_conntrack
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.netfilter.our_rules import Leading
from repmgr_hooks.settings.cluster import Cluster, Gateway
from repmgr_hooks.settings.endpoint import Endpoint
from repmgr_hooks.system.rules import LIMIT
from repmgr_hooks.system.steps import DropConnections, Host, Program, Step
from repmgr_hooks.text import one_line

log = logging.getLogger(__name__)

LOOK_LIMIT = 5.0
"""For a look at the connections, behind which other ports may wait."""
GOOD_FOR = 60.0
"""Seconds for which looks take over a listing, which has the connections of all clusters: each looks every five
minutes."""


def tracked_connections(gateway: Gateway, host: Host) -> tuple[tuple[Tracked, ...] | None, str]:
    """Read the connections to our ports that are not over; None, and why, if they cannot be seen; None without a
    conntrack program.
    """
    try:
        listing = host.run(_listing(gateway), LOOK_LIMIT)
    except NoSuchProgram as error:
        log.warning("%s: connections to a former primary are not cut", error)
        return None, ""
    except OperationFailed as error:
        return None, str(error)
    return to_ports(listing, frozenset(gateway.ports.values())), ""


@lru_cache(1)
def to_ports(listing: str, ports: frozenset[int]) -> tuple[Tracked, ...]:
    """Return the connections to these ports that are not over.

    A look asks this for each port that a route opens, of the same listing. That has the connections of all clusters.
    """
    tracked = (found for line in lines_with(listing, ports) for found in parse_conntrack(line))
    return tuple(found for found in tracked if found.flow.gateway_port in ports and not found.over)


def leading(tracked: Iterable[Tracked] | None, led: set[Leading]) -> list[Leading]:
    """Return where connections lead that are tracked, or that may have come since through rules that ``led`` there."""
    if tracked is None:
        return []
    return sorted(led | {(found.flow.gateway_port, found.leads_to) for found in tracked})


def cut(cluster: Cluster, port: int, to: Endpoint) -> Step:
    """Return the step after which no connection of a port leads there, and who had one knows it."""
    gateway = cluster.gateway
    words = Family(gateway.address).delete_connections(gateway.address, port, to)
    forget = Program(words, tolerate="0 flow entries have been deleted", helper=True)
    drop = DropConnections(forget, gateway.reset_clients)
    name = next((name for name, number in gateway.ports.items() if number == port), str(port))
    what, node = f"reset connections of port {port} to {cluster.shown(to)}", cluster.node_at(to)
    return Step(what, drop, LIMIT, kind="reset_connections", target=name, node=node, helper=True)


def _listing(gateway: Gateway) -> Program:
    words = Family(gateway.address).list_connections(gateway.address)
    return Program(words, helper=True, good_for=GOOD_FOR)


def seeing(gateway: Gateway, unseen: str) -> list[Step]:
    """The step that is missing, and names the fault, while connections that lead elsewhere cannot be seen."""
    what = f"see which connections lead elsewhere, and cut them ({one_line(unseen, 300)})"
    step = Step(what, _listing(gateway), LOOK_LIMIT, kind="list_connections", helper=True)
    return [step] if unseen else []
