"""The gateway's ports lead to the primary: DNAT and SNAT in our own chains, swapped in one transaction.

Which back end has them, iptables or nftables, is the configuration's affair (``system/rules.py``). Rules that the other
one has of ours are taken into account, and removed when the chosen one has the same.

A port is opened by name. Ports that lead to another node than the primary are closed by the same transaction; those
that lead to it already stay open. Connections that still lead elsewhere lose their connection-tracking entry, and
their clients are reset at once (``netfilter/reset.py``); also those that were made between the look and the swap, and
those of a port that is configured no more.

A port for readers (``to: standbys``) shares its new connections between the standbys that ``cluster/readers.py`` finds
fit, each with a rule that takes one of so many in turn. A port that leads to the primary waits for none of that.

The swap depends on the rules alone. What conntrack and sysctl are for comes after it, and their failure is said.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Literal

from repmgr_hooks import clock
from repmgr_hooks.cluster import readers
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.errors import OperationFailed, Problem, did_you_mean, mistake
from repmgr_hooks.handlers import contract
from repmgr_hooks.netfilter import backends
from repmgr_hooks.netfilter.backends import BACKENDS, leads_to, spread_over
from repmgr_hooks.netfilter.conntrack import Tracked
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.netfilter.our_rules import OurRules
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster, Gateway, Readers
from repmgr_hooks.settings.libpq import TAKE_OUT
from repmgr_hooks.settings.schema import Amount, Identifier, OrNever
from repmgr_hooks.settings.words import amount
from repmgr_hooks.system import rules
from repmgr_hooks.system.rules import LIMIT
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host, Program, Step
from repmgr_hooks.system.tracked import cut, leading, seeing, tracked_connections

log = logging.getLogger(__name__)

on_tick = contract.looks_on_tick
shared = contract.each_gateways_own
warnings = contract.no_warnings
housekeep = contract.no_housekeeping

LOOK_ALL_THE_SAME = 300.0
MAX_LAG = "64MB"
FRESH_FOR = 300.0
"""Seconds after a change of the primary in which it does not keep the readers that it had as a standby."""
CLOSE_WHILE_UNKNOWN = "close_while_unknown"
"""The kind of the step that the service takes when no primary has been known for long (``unknown``)."""


@dataclass(frozen=True)
class Config:
    """``{open: app}``; ``fail_open_after``: seconds after which the port opens even if what comes before has failed.

    Without it, and with ``never``, the port opens only when all before it has succeeded. ``to: standbys`` makes it a
    port for readers (``cluster/readers.py``).
    """

    open: Identifier
    fail_open_after: Annotated[Any, OrNever(1, 3600)] = "never"
    to: Literal["primary", "standbys"] = "primary"
    max_lag: Amount | None = None
    if_none: Literal["primary", "close"] | None = None

    @property
    def readers(self) -> Readers | None:
        """How the port is led, if it is one for readers."""
        if self.to == "primary":
            return None
        return Readers(amount(self.max_lag or MAX_LAG), self.if_none or "primary")


@dataclass(frozen=True)
class Seen:
    """Our rules, the connections to our ports, and whether the kernel forwards.

    ``tracked`` is None without a conntrack program, or if it fails; then ``unseen`` says why.
    ``snat_here``: whether this host has the address that nodes are to see; ``left``: rules of ours in another back end.
    ``serves``: whether clients come to this host: of several gateways, one has the address, and cuts connections.
    ``fresh``: whether the primary may have been a standby just now.
    """

    ours: OurRules
    tracked: tuple[Tracked, ...] | None
    forwarding: bool
    unseen: str = ""
    snat_here: bool = True
    left: tuple[OurRules, ...] = ()
    serves: bool = True
    fresh: bool = False


def validate(config: Config, cluster: Cluster) -> Iterable[Problem]:
    """The port must have a name in the gateway's section."""
    ports = cluster.gateway.ports
    if config.to == "primary" and (config.max_lag or config.if_none):
        yield mistake("'max_lag' and 'if_none' are for 'to: standbys'")
    if config.to == "standbys" and config.fail_open_after != "never":
        yield mistake("'fail_open_after' is of no use with 'to: standbys': such a port waits for no action", TAKE_OUT)
    if config.open not in ports:
        yield mistake(f"the gateway has no port {config.open!r}", did_you_mean(config.open, ports))


def fail_open_after(config: Config) -> float | None:
    """Return what the route says."""
    return None if config.fail_open_after == "never" else config.fail_open_after


def helper(config: Config) -> bool:
    """Nothing waits for readers: a kernel that cannot share connections (xt_statistic) keeps nobody from writing."""
    return config.to == "standbys"


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
    here, served = snat_here(gateway, host), serves(gateway, host)
    known = state.last_known
    fresh = known.primary != state.primary or 0 <= clock.wall() - known.since < FRESH_FOR
    seen = Seen(ours, (), forwards, "", here, fresh=fresh, serves=served)
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
    fitness = [(r.node, r.fitness) for port in state.cluster.readers for r in readers.readings(state, port)]
    again = clock.turn(state.cluster.name, host.now(), LOOK_ALL_THE_SAME)
    return generation, forwarding(family, host), here, state.primary, fitness, again


def snat_here(gateway: Gateway, host: Host) -> bool:
    """False if the address that nodes are to see is certainly none of this host's own, and does not move between
    gateways: one that does is in the rules of each, because no client comes to a gateway that has not got it."""
    return bool(gateway.hosts) or gateway.snat == MASQUERADE or host.route(gateway.snat).local is not False


def forwarding(family: Family, host: Host) -> bool:
    """Ask the kernel whether it forwards."""
    return host.read(f"/proc/sys/{family.forwarding.replace('.', '/')}").strip() == "1"


def plan(config: Config, state: ClusterState, seen: Seen) -> list[Step]:
    """Return the steps after which the port leads to the primary, or to fit standbys, and nothing of ours elsewhere."""
    cluster, gateway = state.cluster, state.cluster.gateway
    steps = []
    if change := _change(config, state, seen):
        steps.append(_opening(config, state, seen, rules.change(cluster, seen.ours.backend, change)))
    steps += [_remove(cluster, ours) for ours in seen.left]
    if not seen.forwarding:
        switch = Program(("sysctl", "-w", f"{Family(gateway.address).forwarding}=1"), helper=True)
        steps.append(Step("let the kernel forward", switch, LIMIT, kind="enable_forwarding", helper=True))
    if not seen.serves:
        return steps
    led = set().union(*(ours.leading for ours in [seen.ours, *seen.left])) if change or seen.left else set()
    spread = _spread_now(cluster, seen)
    stay: dict[int, Collection[int]] = dict.fromkeys(gateway.ports.values(), (state.primary,))
    stay |= {gateway.ports[port]: readers.stay(state, port, spread[port], seen.fresh) for port in cluster.readers}
    there = [(port, to) for port, to in leading(seen.tracked, led) if to.host != gateway.address]
    cuts = [cut(cluster, port, to) for port, to in there if cluster.node_at(to) not in stay.get(port, ())]
    return [*steps, *cuts, *seeing(gateway, seen.unseen)]


def _opening(config: Config, state: ClusterState, seen: Seen, swap: Program) -> Step:
    cluster = state.cluster
    if config.to == "primary":
        what = f"route port {config.open} to node {state.primary} ({cluster.shown(cluster.endpoint(state.primary))})"
        return Step(what, swap, LIMIT, kind="open_port", target=config.open, node=state.primary)
    to = readers.spread(state, config.open, _spread_now(cluster, seen)[config.open])
    nodes = " and ".join(f"node {node}" for node in to)
    what = f"route port {config.open} to {nodes}" if to else f"close port {config.open}: no standby is fit for readers"
    return Step(what, swap, LIMIT, kind="spread_port", target=config.open)


def _spread_now(cluster: Cluster, seen: Seen) -> dict[str, tuple[int, ...]]:
    """Return where ports for readers lead now; any back end may have written it."""
    there = [spread_over(cluster, ours) for ours in (seen.ours, *seen.left)]
    return {port: next(filter(None, (each[port] for each in there)), ()) for port in cluster.readers}


def _remove(cluster: Cluster, left: OurRules) -> Step:
    away = rules.change(cluster, left.backend, BACKENDS[left.backend].removal(cluster, left), helper=True)
    what = f"remove our rules from {left.backend}: now {cluster.gateway.backend} has them"
    return Step(what, away, LIMIT, kind="remove_rules", target=left.backend, helper=True)


def fence(cluster: Cluster, stale_primaries: Sequence[int], host: Host) -> list[Step]:
    """Return the steps after which no port and no connection leads to these nodes. Raises OperationFailed."""
    gateway, leads_there = cluster.gateway, partial(cluster.is_of, stale_primaries)
    there = [rules.our_rules(cluster, host), *rules.leftovers(cluster, host)]
    led = set().union(*(ours.leading for ours in there))
    names = " and ".join(f"node {node}" for node in stale_primaries)
    ports = {port for port, to in led if leads_there(to)} - {gateway.ports[name] for name in cluster.readers}
    steps = _closing(cluster, there, f"close what leads to {names}", "close_ports", ports, stale_primaries)
    if not serves(gateway, host):
        return steps
    # As in ``observe``: the connections are looked at when no rule leads there any more.
    tracked, unseen = ((), "") if steps else tracked_connections(gateway, host)
    left = led if steps else set()
    cuts = [cut(cluster, port, to) for port, to in leading(tracked, left) if leads_there(to)]
    return [*steps, *cuts, *seeing(gateway, unseen)]


def leave_silent(cluster: Cluster, states: Sequence[NodeState], host: Host) -> list[Step]:
    """Return the steps after which no port for readers leads to a node that does not answer, if others do.

    For the time in which no primary is known. Raises OperationFailed.
    """
    steps = []
    for ours in (rules.our_rules(cluster, host), *rules.leftovers(cluster, host)):
        now = spread_over(cluster, ours)
        spread = {port: readers.answering(states, nodes) for port, nodes in now.items()}
        if change := backends.respread(cluster, ours, spread):
            names = " ".join(port for port in spread if spread[port] != now[port])
            what = f"take nodes that do not answer out of port {names}"
            swap = rules.change(cluster, ours.backend, change)
            steps.append(Step(what, swap, LIMIT, kind="spread_port", target=names))
    return steps


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
    nodes: Collection[int] = (),
) -> list[Step]:
    named = " ".join(sorted(name for name, number in cluster.gateway.ports.items() if number in ports))
    changes = ((ours.backend, backends.close(cluster, ours, ports, nodes)) for ours in there)
    return [
        Step(what, rules.change(cluster, backend, text), LIMIT, kind=kind, target=named)
        for backend, text in changes
        if text
    ]


def _change(config: Config, state: ClusterState, seen: Seen) -> str:
    """Return the change that opens the port and closes those that lead elsewhere; empty if all of ours is right.

    Another port for readers stays as it is, unless the rules are written anyway: then what leads to a node that is gone
    or stale leads there no more.
    """
    cluster = state.cluster
    ports = [leads_to(cluster, ours) for ours in (seen.ours, *seen.left)]
    opened = {name for where in ports for name, node in where.items() if node == state.primary}
    spread = _spread_now(cluster, seen)
    if config.to == "primary":
        opened.add(config.open)
        # A kernel that cannot share what another back end has shared must not keep this port closed.
        spread = {port: spread_over(cluster, seen.ours)[port] or nodes[:1] for port, nodes in spread.items()}
    else:
        spread[config.open] = readers.spread(state, config.open, spread[config.open])
    if not backends.lead(cluster, seen.ours, opened, state.primary, seen.snat_here, spread):
        return ""
    spread = {port: readers.without_lost(state, port, nodes) for port, nodes in spread.items()}
    return backends.lead(cluster, seen.ours, opened, state.primary, seen.snat_here, spread)
