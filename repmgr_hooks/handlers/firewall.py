"""The gateway's ports lead to the primary: DNAT and SNAT in our own chains, swapped in one transaction.

Which back end has them, iptables or nftables, is the configuration's affair (``system/rules.py``). Rules that the other
one has of ours are taken into account, and removed when the chosen one has the same.

A port is opened by name. Ports that lead to another node than the primary are closed by the same transaction; those
that lead to it already stay open. Connections that still lead elsewhere lose their connection-tracking entry, and
their clients are reset at once (``netfilter/reset.py``); also those that were made between the look and the swap.

The swap depends on the rules alone. What conntrack and sysctl are for comes after it, and their failure is said.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.errors import NoSuchProgram, OperationFailed, Problem, did_you_mean, mistake
from repmgr_hooks.handlers import contract
from repmgr_hooks.netfilter import backends
from repmgr_hooks.netfilter.backends import BACKENDS, leads_to
from repmgr_hooks.netfilter.conntrack import Tracked, parse_conntrack
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.netfilter.our_rules import Leading, OurRules
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster, Gateway
from repmgr_hooks.settings.schema import Identifier, OrNever
from repmgr_hooks.system import rules
from repmgr_hooks.system.rules import LIMIT
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import DropConnections, Host, Program, Step
from repmgr_hooks.text import one_line

log = logging.getLogger(__name__)

on_tick = contract.looks_on_tick
shared = contract.each_gateways_own
helper = contract.never_helps
warnings = contract.no_warnings
housekeep = contract.no_housekeeping

LOOK_LIMIT = 5.0
"""For a look at the connections, behind which other ports may wait."""
LOOK_ALL_THE_SAME = 300.0
CLOSE_WHILE_UNKNOWN = "close_while_unknown"
"""The kind of the step that the service takes when no primary has been known for long (``unknown``)."""


@dataclass(frozen=True)
class Config:
    """``{open: app}``; ``fail_open_after``: seconds after which the port opens even if what comes before has failed.

    Without it, and with ``never``, the port opens only when all before it has succeeded.
    """

    open: Identifier
    fail_open_after: Annotated[Any, OrNever(1, 3600)] = "never"


@dataclass(frozen=True)
class Seen:
    """Our rules, the connections to our ports, and whether the kernel forwards.

    ``tracked`` is None without a conntrack program, or if it fails; then ``unseen`` says why.
    ``snat_here``: whether this host has the address that nodes are to see; ``left``: rules of ours in another back end.
    ``serves``: whether clients come to this host: of several gateways, one has the address, and cuts connections.
    """

    ours: OurRules
    tracked: tuple[Tracked, ...] | None
    forwarding: bool
    unseen: str = ""
    snat_here: bool = True
    left: tuple[OurRules, ...] = ()
    serves: bool = True


def validate(config: Config, cluster: Cluster) -> Iterable[Problem]:
    """The port must have a name in the gateway's section."""
    ports = cluster.gateway.ports
    if config.open not in ports:
        yield mistake(f"the gateway has no port {config.open!r}", did_you_mean(config.open, ports))


def fail_open_after(config: Config) -> float | None:
    """Return what the route says."""
    return None if config.fail_open_after == "never" else config.fail_open_after


def observe(config: Config, state: ClusterState, host: Host) -> Seen:
    """Read our rules, the forwarding switch and, once the rules are right, what else there is: the rules that the other
    back end has, and the connection-tracking table.

    Where we have no rules yet, those of the other back end come first: they say which ports are open.
    Raises OperationFailed if our rules cannot be read.
    """
    gateway = state.cluster.gateway
    ours = rules.our_rules(state.cluster, host)
    try:
        forwards = forwarding(Family(gateway.address), host)
    except OperationFailed as error:
        log.warning("%s", error)
        forwards = False
    served = serves(gateway, host)
    seen = Seen(ours, (), forwards, "", snat_here(gateway, host), serves=served)
    if ours.there and _change(config, state, seen):
        return seen
    seen = replace(seen, left=tuple(rules.leftovers(state.cluster, host)))
    if not served or _change(config, state, seen) or any(each.leading for each in seen.left):
        return seen
    tracked, unseen = tracked_connections(gateway, host)
    return replace(seen, tracked=tracked, unseen=unseen)


def fingerprint(state: ClusterState, host: Host) -> object:
    """What a look sees is the same while nobody changes a rule; every five minutes it is looked at all the same."""
    generation = rules.generation(state.cluster, host)
    if generation is None:
        return None
    family = Family(state.cluster.gateway.address)
    gateway = state.cluster.gateway
    here = (snat_here(gateway, host), serves(gateway, host))
    return generation, forwarding(family, host), here, state.primary, host.now() // LOOK_ALL_THE_SAME


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
    ports = gateway.ports.values()
    tracked = (found for found in parse_conntrack(listing) if found.flow.gateway_port in ports)
    return tuple(found for found in tracked if not found.over), ""


def snat_here(gateway: Gateway, host: Host) -> bool:
    """False if the address that nodes are to see is certainly none of this host's own, and does not move between
    gateways: one that does is in the rules of each, because no client comes to a gateway that has not got it."""
    return bool(gateway.hosts) or gateway.snat == MASQUERADE or host.route(gateway.snat).local is not False


def forwarding(family: Family, host: Host) -> bool:
    """Ask the kernel whether it forwards."""
    return host.read(f"/proc/sys/{family.forwarding.replace('.', '/')}").strip() == "1"


def plan(config: Config, state: ClusterState, seen: Seen) -> list[Step]:
    """Return the steps after which the port leads to the primary and nothing of ours leads elsewhere."""
    cluster, primary = state.cluster, state.primary_host
    family, gateway = Family(cluster.gateway.address), cluster.gateway
    steps = []
    change = _change(config, state, seen)
    if change:
        what = f"route port {config.open} to node {state.primary} ({primary})"
        swap = rules.change(cluster, seen.ours.backend, change)
        steps.append(Step(what, swap, LIMIT, kind="open_port", target=config.open, node=state.primary))
    steps += [_remove(cluster, ours) for ours in seen.left]
    if not seen.forwarding:
        switch = Program(("sysctl", "-w", f"{family.forwarding}=1"), helper=True)
        steps.append(Step("let the kernel forward", switch, LIMIT, kind="enable_forwarding", helper=True))
    led = set().union(*(ours.leading for ours in [seen.ours, *seen.left])) if change or seen.left else set()
    if not seen.serves:
        return steps
    right = (primary, gateway.address)
    cuts = [_cut(cluster, port, host) for port, host in _leading(seen.tracked, led) if host not in right]
    return [*steps, *cuts, *_seeing(gateway, seen.unseen)]


def _remove(cluster: Cluster, left: OurRules) -> Step:
    """A failure keeps no other port from being led."""
    away = rules.change(cluster, left.backend, BACKENDS[left.backend].removal(cluster, left), helper=True)
    what = f"remove our rules from {left.backend}: now {cluster.gateway.backend} has them"
    return Step(what, away, LIMIT, kind="remove_rules", target=left.backend, helper=True)


def fence(cluster: Cluster, stale_primaries: Sequence[int], host: Host) -> list[Step]:
    """Return the steps after which no port and no connection leads to these nodes. Raises OperationFailed."""
    gateway, hosts = cluster.gateway, [cluster.nodes[node].host for node in stale_primaries]
    there = [rules.our_rules(cluster, host), *rules.leftovers(cluster, host)]
    led = set().union(*(ours.leading for ours in there))
    names = " and ".join(f"node {node}" for node in stale_primaries)
    ports = {port for port, address in led if address in hosts}
    steps = _closing(cluster, there, f"close what leads to {names}", "close_ports", ports, hosts)
    if not serves(gateway, host):
        return steps
    # As in ``observe``: the connections are looked at when no rule leads there any more.
    tracked, unseen = ((), "") if steps else tracked_connections(gateway, host)
    left = led if steps else set()
    cuts = [_cut(cluster, port, address) for port, address in _leading(tracked, left) if address in hosts]
    return [*steps, *cuts, *_seeing(gateway, unseen)]


def close(cluster: Cluster, names: Sequence[str], host: Host) -> list[Step]:
    """Return the steps that close these ports; established connections are left alone.

    Raises OperationFailed.
    """
    there = [rules.our_rules(cluster, host), *rules.leftovers(cluster, host)]
    what = f"close port {' and '.join(names)}: no primary is known"
    return _closing(cluster, there, what, CLOSE_WHILE_UNKNOWN, {cluster.gateway.ports[name] for name in names})


def _closing(
    cluster: Cluster,
    there: Iterable[OurRules],
    what: str,
    kind: str,
    ports: Collection[int],
    hosts: Collection[str] = (),
) -> list[Step]:
    named = " ".join(sorted(name for name, number in cluster.gateway.ports.items() if number in ports))
    changes = ((ours.backend, backends.close(cluster, ours, ports, hosts)) for ours in there)
    return [
        Step(what, rules.change(cluster, backend, text), LIMIT, kind=kind, target=named)
        for backend, text in changes
        if text
    ]


def _leading(tracked: Iterable[Tracked] | None, led: set[Leading]) -> list[Leading]:
    """Return where connections lead that are tracked, or that may have come since through rules that ``led`` there."""
    if tracked is None:
        return []
    return sorted(led | {(found.flow.gateway_port, found.leads_to) for found in tracked})


def _cut(cluster: Cluster, port: int, host: str) -> Step:
    gateway = cluster.gateway
    node = next((number for number, node in cluster.nodes.items() if node.host == host), None)
    words = Family(gateway.address).delete_connections(gateway.address, port, host)
    forget = Program(words, tolerate="0 flow entries have been deleted", helper=True)
    drop = DropConnections(forget, gateway.reset_clients)
    name = next((name for name, number in gateway.ports.items() if number == port), str(port))
    what = f"reset connections of port {port} to {host}"
    return Step(what, drop, LIMIT, kind="reset_connections", target=name, node=node, helper=True)


def _listing(gateway: Gateway) -> Program:
    return Program(Family(gateway.address).list_connections(gateway.address), helper=True)


def _seeing(gateway: Gateway, unseen: str) -> list[Step]:
    """The step that is missing, and names the fault, while connections that lead elsewhere cannot be seen."""
    what = f"see which connections lead elsewhere, and cut them ({one_line(unseen, 300)})"
    step = Step(what, _listing(gateway), LOOK_LIMIT, kind="list_connections", helper=True)
    return [step] if unseen else []


def _change(config: Config, state: ClusterState, seen: Seen) -> str:
    """Return the change that opens the port and closes those that lead elsewhere; empty if all of ours is right."""
    ports = [leads_to(state.cluster, ours) for ours in (seen.ours, *seen.left)]
    still_open = {name for where in ports for name, node in where.items() if node == state.primary}
    return backends.lead(state.cluster, seen.ours, still_open | {config.open}, state.primary_host, seen.snat_here)
