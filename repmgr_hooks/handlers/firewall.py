"""The gateway's ports lead to the primary: DNAT and SNAT in our own chains, swapped in one transaction.

A port is opened by name. Ports that lead to another node than the primary are closed by the same transaction; those
that lead to it already stay open. Connections that still lead elsewhere lose their connection-tracking entry, and
their clients are reset at once (``netfilter/reset.py``); also those that were made between the look and the swap.

The swap depends on the rules alone. What conntrack and sysctl are for comes after it, and their failure is said.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.errors import NoSuchProgram, OperationFailed, Problem, did_you_mean, mistake
from repmgr_hooks.handlers import contract
from repmgr_hooks.netfilter.conntrack import Tracked, parse_conntrack
from repmgr_hooks.netfilter.iptables import Family
from repmgr_hooks.netfilter.rules import (
    Leading,
    dnat_rule,
    jumps,
    leads_to,
    led_by,
    once,
    own_rules,
    parse_rules,
    snat_rule,
    swap,
)
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster, Gateway
from repmgr_hooks.settings.schema import Identifier, OrNever
from repmgr_hooks.system.steps import DropConnections, Host, Program, Step
from repmgr_hooks.text import one_line

log = logging.getLogger(__name__)

on_tick = contract.looks_on_tick
helper = contract.never_helps
warnings = contract.no_warnings
housekeep = contract.no_housekeeping

LIMIT = 10.0
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
    """The nat table as ``iptables-save`` prints it, the connections to our ports, and whether the kernel forwards.

    ``tracked`` is None without a conntrack program, or if it fails; then ``unseen`` says why.
    ``snat_here``: whether this host has the address that nodes are to see.
    """

    nat: tuple[str, ...]
    tracked: tuple[Tracked, ...] | None
    forwarding: bool
    unseen: str = ""
    snat_here: bool = True


def validate(config: Config, cluster: Cluster) -> Iterable[Problem]:
    """The port must have a name in the gateway's section."""
    ports = cluster.gateway.ports
    if config.open not in ports:
        yield mistake(f"the gateway has no port {config.open!r}", did_you_mean(config.open, ports))


def fail_open_after(config: Config) -> float | None:
    """Return what the route says."""
    return None if config.fail_open_after == "never" else config.fail_open_after


def observe(config: Config, state: ClusterState, host: Host) -> Seen:
    """Read the nat table, the forwarding switch and, once the rules are right, the connection-tracking table.

    Raises OperationFailed if the nat table cannot be read.
    """
    gateway = state.cluster.gateway
    nat = nat_rules(gateway, host)
    try:
        forwards = forwarding(Family(gateway.address), host)
    except OperationFailed as error:
        log.warning("%s", error)
        forwards = False
    here = snat_here(gateway, host)
    if _changes(config, state, nat, here):
        return Seen(nat, (), forwards, snat_here=here)
    tracked, unseen = tracked_connections(gateway, host)
    return Seen(nat, tracked, forwards, unseen, here)


def fingerprint(state: ClusterState, host: Host) -> object:
    """What a look sees is the same while nobody changes a rule; every five minutes it is looked at all the same."""
    generation = host.rules_generation()
    if generation is None:
        return None
    family = Family(state.cluster.gateway.address)
    here = snat_here(state.cluster.gateway, host)
    return generation, forwarding(family, host), here, state.primary, host.now() // LOOK_ALL_THE_SAME


def nat_rules(gateway: Gateway, host: Host) -> tuple[str, ...]:
    """Read the rules of the nat table."""
    return parse_rules(nat_table(gateway, host))


def nat_table(gateway: Gateway, host: Host) -> str:
    """Read the nat table."""
    return host.run(Program(Family(gateway.address).save()), LIMIT)


def tracked_connections(gateway: Gateway, host: Host) -> tuple[tuple[Tracked, ...] | None, str]:
    """Read the connections to our ports; None, and why, if they cannot be seen; None without a conntrack program."""
    try:
        listing = host.run(_listing(gateway), LOOK_LIMIT)
    except NoSuchProgram as error:
        log.warning("%s: connections to a former primary are not cut", error)
        return None, ""
    except OperationFailed as error:
        return None, str(error)
    ports = gateway.ports.values()
    return tuple(found for found in parse_conntrack(listing) if found.flow.gateway_port in ports), ""


def snat_here(gateway: Gateway, host: Host) -> bool:
    """False if the address that nodes are to see is certainly none of this host's own."""
    return gateway.snat == MASQUERADE or host.route(gateway.snat).local is not False


def forwarding(family: Family, host: Host) -> bool:
    """Ask the kernel whether it forwards."""
    return host.read(f"/proc/sys/{family.forwarding.replace('.', '/')}").strip() == "1"


def plan(config: Config, state: ClusterState, seen: Seen) -> list[Step]:
    """Return the steps after which the port leads to the primary and nothing of ours leads elsewhere."""
    gateway, primary = state.cluster.gateway, state.primary_host
    family = Family(gateway.address)
    steps = []
    changes = _changes(config, state, seen.nat, seen.snat_here)
    if changes:
        steps.append(
            Step(
                f"route port {config.open} to node {state.primary} ({primary})",
                Program(family.restore(), stdin=changes),
                LIMIT,
                kind="open_port",
                target=config.open,
                node=state.primary,
            )
        )
    if not seen.forwarding:
        switch = Program(("sysctl", "-w", f"{family.forwarding}=1"), helper=True)
        steps.append(Step("let the kernel forward", switch, LIMIT, kind="enable_forwarding", helper=True))
    led = led_by(own_rules(gateway, seen.nat)) if changes else set()
    right = (primary, gateway.address)
    cuts = [_cut(state.cluster, port, host) for port, host in _leading(seen.tracked, led) if host not in right]
    return [*steps, *cuts, *_seeing(gateway, seen.unseen)]


def fence(cluster: Cluster, stale_primaries: Sequence[int], host: Host) -> list[Step]:
    """Return the steps after which no port and no connection leads to these nodes. Raises OperationFailed."""
    gateway, hosts = cluster.gateway, [cluster.nodes[node].host for node in stale_primaries]
    family = Family(gateway.address)
    ours = own_rules(gateway, nat_table(gateway, host).splitlines())
    ends = tuple(f"--to-destination {family.socket(address, cluster.postgres.port)}" for address in hosts)
    # All rules of such a port: what stands behind the first would come to light without it.
    ports = {port for rule in ours if rule.endswith(ends) for port, _ in led_by([rule])}
    kept = [rule for rule in ours if not rule.endswith(ends) and not any(port in ports for port, _ in led_by([rule]))]
    steps = []
    if kept != ours:
        names = " and ".join(f"node {node}" for node in stale_primaries)
        close = Program(family.restore(), stdin=swap(gateway, kept))
        closed = " ".join(sorted(name for name, number in gateway.ports.items() if number in ports))
        steps.append(Step(f"close what leads to {names}", close, LIMIT, kind="close_ports", target=closed))
    led = led_by(ours) if kept != ours else set()
    # As in ``observe``: the connections are looked at when no rule leads there any more.
    tracked, unseen = tracked_connections(gateway, host) if kept == ours else ((), "")
    cuts = [_cut(cluster, port, address) for port, address in _leading(tracked, led) if address in hosts]
    return [*steps, *cuts, *_seeing(gateway, unseen)]


def close(cluster: Cluster, names: Sequence[str], host: Host) -> list[Step]:
    """Return the step that closes these ports; established connections are left alone.

    Raises OperationFailed.
    """
    gateway = cluster.gateway
    ours, numbers = own_rules(gateway, nat_table(gateway, host).splitlines()), {gateway.ports[name] for name in names}
    kept = [rule for rule in ours if not any(port in numbers for port, _ in led_by([rule]))]
    if kept == ours:
        return []
    what = f"close port {' and '.join(names)}: no primary is known"
    shut, closed = Program(Family(gateway.address).restore(), stdin=swap(gateway, kept)), " ".join(sorted(names))
    return [Step(what, shut, LIMIT, kind=CLOSE_WHILE_UNKNOWN, target=closed)]


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


def _changes(config: Config, state: ClusterState, nat: tuple[str, ...], snat_here: bool) -> str:
    """Return the input for ``iptables-restore --noflush``; empty if every rule of ours is right.

    With ``--noflush``, naming a user chain flushes that chain alone, inside the same transaction.
    """
    cluster = state.cluster
    still_open = {name for name, node in leads_to(cluster, nat).items() if node == state.primary}
    wanted = [
        dnat_rule(cluster, name, state.primary_host)
        for name in cluster.gateway.ports
        if name in still_open | {config.open}
    ]
    wanted.append(snat_rule(cluster, state.primary_host, snat_here))
    wrong_jumps = [line for jump in jumps(cluster.gateway) for line in once(jump, nat.count(jump))]
    if sorted(own_rules(cluster.gateway, nat)) == sorted(wanted) and not wrong_jumps:
        return ""
    return swap(cluster.gateway, [*wrong_jumps, *wanted])
