"""What would go wrong in a failover, found now: one finding a line, with what to do about it.

Nothing is changed. What only root can see is looked at first; nodes and Barman are asked as the service's user, who
will do it. What cannot be known because something else is wrong is left out: one cause, one finding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from repmgr_hooks.background import together
from repmgr_hooks.checks import (
    alerts,
    barman,
    barman_logins,
    clients,
    conntrackd,
    end_to_end,
    failover_slots,
    files,
    foreign_rules,
    former_primary,
    from_hosts,
    gateways,
    kernel,
    nodes,
    passwords,
    pgbouncer,
    recovery,
    repmgr,
    routes,
    service,
    sshd,
)
from repmgr_hooks.checks.finding import Finding, Topic, bad
from repmgr_hooks.checks.repmgrd import confs_here, repmgrds_user
from repmgr_hooks.checks.users import User, acting_as, service_user
from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision
from repmgr_hooks.cluster.primary import cluster_state
from repmgr_hooks.cluster.repmgr_files import Identity, identities
from repmgr_hooks.config import Config
from repmgr_hooks.engine import drift, dry_run, selection
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.journal.finder import primary_finder
from repmgr_hooks.journal.hosts import last_heard
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.layers import AskedOnce
from repmgr_hooks.system.steps import Host

HostOf = Callable[[ManagedCluster], Host]


def findings(loaded: Config, journal: Journal | None, world_of: HostOf, send_event: bool = False) -> Iterator[Finding]:
    """Look at all that can be looked at here."""
    routes = sum(len(managed.routes) for managed in loaded.clusters.values())
    yield Topic("config.file", str(loaded.path)).ok(f"{len(loaded.clusters)} cluster(s), {routes} route(s)")
    user, repmgrd = service_user(loaded.state_dir), repmgrds_user()
    some_world = world_of(next(iter(loaded.clusters.values())))
    yield from files.look(loaded, user, repmgrd)
    yield from service.look(loaded, some_world, repmgrd)
    yield from sshd.let_in(some_world)
    firewalls = [managed.cluster.gateway for managed in loaded.clusters.values() if _uses(managed, "firewall")]
    families = {family.six: family for family in (Family(gateway.address) for gateway in firewalls)}
    backends = {six: {g.backend for g in firewalls if Family(g.address).six == six} for six in families}
    here = {six: list(kernel.look(family, backends[six], some_world)) for six, family in families.items()}
    yield from (finding for found in here.values() for finding in found)
    if any("iptables" in names for names in backends.values()):
        yield from kernel.backend(user, some_world)
    if firewalls:
        yield kernel.managers(Path("/"), loaded.service.monitor_interval)
    yield from alerts.seen(loaded)
    yield from former_primary.shared_hosts({name: managed.cluster for name, managed in loaded.clusters.items()})
    if not user.can_be_me:
        yield files.unseen(Topic("files.user", user.name), "nodes and Barman, as the service's user sees them")
    conf_files = confs_here()
    yield from repmgr.unreadable(conf_files)
    for managed in loaded.clusters.values():
        host = world_of(managed)
        kernels = here.get(Family(managed.cluster.gateway.address).six, [])
        yield from _cluster(loaded, managed, journal, host, user, kernels)
        known = _as_repmgr_knows(managed, host, user)
        heard = last_heard(journal, managed.cluster.name) if journal else []
        yield from repmgr.look(loaded, managed, conf_files, repmgrd, known, heard)
        yield from from_hosts.clocks(managed, heard)
        if send_event:
            yield from end_to_end.look(managed, conf_files, host, journal, known)
            with acting_as(user):
                sent = list(from_hosts.look(managed, host, journal)) if user.can_be_me else []
            yield from sent


def _as_repmgr_knows(managed: ManagedCluster, host: Host, user: User) -> Mapping[int, Identity]:
    """Ask the nodes, one after the other, until one says whom repmgr knows; nothing if none does."""
    if not user.can_be_me or bad(list(files.passfile(managed, user))):
        return {}
    with acting_as(user):
        for node in managed.cluster.nodes:
            with contextlib.suppress(OperationFailed):
                return identities(node, host, managed.cluster.postgres.timeout)
    return {}


def _cluster(
    loaded: Config, managed: ManagedCluster, journal: Journal | None, host: Host, user: User, kernels: list[Finding]
) -> Iterator[Finding]:
    cluster = managed.cluster
    yield from service.tracking(loaded, managed)
    yield from files.commands(managed, user)
    yield from routes.look(managed, loaded.service.monitor_interval)
    if journal:
        yield from service.of_cluster(managed, journal)
    chains: list[Finding] = []
    pair: list[Finding] = []
    if _uses(managed, "firewall"):
        chains += clients.addresses(cluster, host)
        pair = list(gateways.here(cluster, host))
        yield from pair
        chains += [*kernel.devices(cluster, host), *kernel.chains(cluster, host)]
    barmans = list(barman.passwords(cluster)) if cluster.barman else []
    secret = list(files.passfile(managed, user))
    if chains:
        yield from kernel.sharing(cluster, host)
    yield from (*chains, *barmans, *secret, *nodes.names(cluster, host))
    yield passwords.look(cluster, user)
    rules = list(foreign_rules.look(cluster, host)) if _uses(managed, "firewall") and not bad(chains) else []
    yield from rules
    if user.can_be_me and not bad(secret):
        forwards = all(found.level == "OK" for found in kernels if found.code == "kernel.forwarding")
        firewall = forwards and bool(chains) and all(found.level == "OK" for found in chains) and not bad(rules)
        yield from _outside(managed, journal, host, user, firewall, not bad([*chains, *barmans]), not bad(pair))


def _outside(
    managed: ManagedCluster, journal: Journal | None, real: Host, user: User, firewall: bool, way: bool, pair: bool
) -> Iterator[Finding]:
    """Look at the nodes, at Barman, and at what the routes lack.

    ``firewall``: whether the kernel and our chains are well; ``way``: whether Barman's way to the primary can be;
    ``pair``: whether conntrackd and keepalived are well.
    """
    cluster, host = managed.cluster, AskedOnce(real)
    finder = primary_finder(cluster, journal)
    with acting_as(user):  # with all threads, so each must have ended before that is over
        looked = nodes.look(managed, host, finder)
        decision = looked.decision if way else None
        by_model = any(getattr(action.config, "models", None) for action in managed.actions)
        behind, served, pooled, formers, logical, shared = together(
            lambda: _barman(cluster, host, decision, by_model),
            lambda: _served(managed, host, looked) if firewall else [],
            lambda: list(pgbouncer.findings(managed, host)),
            lambda: list(former_primary.look(cluster, looked.decision, host)),
            lambda: list(failover_slots.look(managed, looked.decision, host)) if looked.decision else [],
            lambda: list(gateways.others(cluster, looked.decision.primary_state if looked.decision else None, host)),
        )
    yield from nodes.findings(managed, looked, user)
    yield from shared
    if pair and cluster.gateway.hosts:
        yield from conntrackd.tables(cluster, looked.decision, real)
    yield from logical
    yield repmgr.version(managed, host, next((node.extension for node in looked.answers.values()), ""))
    yield from behind
    yield from served
    yield from (*pooled, *formers)
    if cluster.barman and looked.decision:
        yield from recovery.history(cluster, standbys_of(looked.decision), host)
    if looked.decision and looked.decision.primary is not None:
        well = {"firewall": firewall, "barman": way and not bad(behind)}
        yield _routes(managed, cluster_state(looked.decision, finder), host, well, user)


def _barman(cluster: Cluster, host: Host, decision: PrimaryDecision | None, by_model: bool) -> list[Finding]:
    if cluster.barman is None:
        return []
    found = list(barman.look(cluster, cluster.barman, host, decision, by_model))
    if decision is None or decision.primary is None or bad(found):
        return found  # each standby would only repeat what is wrong already
    return [*found, *barman_logins.look(cluster, cluster.barman, host, standbys_of(decision))]


def _served(managed: ManagedCluster, host: Host, looked: nodes.Looked) -> list[Finding]:
    served = [*clients.ways_back(managed.cluster, host, looked.answers)]
    if looked.decision and looked.decision.primary is not None and not bad(served):
        served += clients.writes(managed, host, looked.decision)
        served += clients.logins(managed, host, standbys_of(looked.decision), served)
    return served


def standbys_of(decision: PrimaryDecision) -> list[int]:
    """Return the nodes that answered and may be promoted."""
    return [state.node for state in decision.states if state.reachable and not (state.witness or state.is_primary)]


def _routes(managed: ManagedCluster, state: ClusterState, host: Host, well: Mapping[str, bool], user: User) -> Finding:
    """Say what a run would do now; of a handler that is not ``well`` it is known already why it would.

    Netfilter answers root alone, and Barman on another host the service's user, who has the ssh key.
    """
    name = managed.cluster.name
    topic = Topic("routes.state", name)
    chosen = selection.without_events(managed, host)
    looked_at = [item for item in chosen if item.action.on_tick and well.get(item.action.name, True)]
    found: list[Problem] = []
    for item in looked_at:
        with contextlib.nullcontext() if item.action.name == "firewall" else acting_as(user):
            found += dry_run.differences(dry_run.preview([item], state, host))
    missing = list(dict.fromkeys(found))
    if missing:
        hints = [*(problem.hint for problem in missing), f"repmgr-hooks reconcile --cluster {name}"]
        return topic.fail(f"not done: {'; '.join(map(str, missing))}", "; ".join(filter(None, hints)))
    if warnings := drift.warnings(managed, state, host):
        hints = [warning.hint for warning in warnings if warning.hint]
        return topic.warn("; ".join(map(str, warnings)), "; ".join(hints) or f"repmgr-hooks status --cluster {name}")
    return topic.ok("in the desired state")


def _uses(managed: ManagedCluster, handler: str) -> bool:
    return any(action.name == handler for action in managed.actions)
