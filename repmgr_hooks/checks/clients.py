"""What clients get: the gateway's address, the way back from each node, and a write through each port."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.probe import ProbeCode, judge, led_astray, merged, probe, way_to
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.handlers.firewall import snat_here
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host

LIMIT = 2.0
CANNOT = (ProbeCode.REJECTED, ProbeCode.NO_CONNECTION_LEFT, ProbeCode.FAILED)
"""What a login shows that would be so after a promotion, too; a line of the passfile may be for the gateway alone."""


def addresses(cluster: Cluster, host: Host) -> Iterator[Finding]:
    """Look whether this host has the addresses that its rules speak of."""
    gateway, example = cluster.gateway, next(iter(cluster.nodes.values())).host
    topic, way = Topic("gateway.address", cluster.name), host.route(example)
    if gateway.hosts and not serves(gateway, host):
        yield topic.ok(f"{gateway.address} is not on this host now, and may be: it is one of several gateways")
    elif host.route(gateway.address).local is not False:
        yield topic.ok(f"{gateway.address} is an address of this host's")
    else:
        what = f"this host has no address {gateway.address}: no client can connect to it here"
        device = way.device or "DEVICE"
        yield topic.fail(what, f"ip address add {Family(gateway.address).exactly(gateway.address)} dev {device}")
    topic = Topic("gateway.snat", cluster.name)
    if gateway.snat != gateway.address and not snat_here(gateway, host):
        what = (
            f"this host has no address {gateway.snat} for the nodes to see: they see {way.source or 'another'} instead"
        )
        yield topic.fail(what, f"config.yaml: clusters.{cluster.name}.gateway: {{snat_address: {way.source}}}")


def ways_back(cluster: Cluster, host: Host, nodes: Iterable[int]) -> Iterator[Finding]:
    """Try whether each of these nodes, which answer us, also answers the address from which it will see clients."""
    gateway = cluster.gateway
    if gateway.snat == MASQUERADE or not snat_here(gateway, host) or not serves(gateway, host):
        return
    for number in nodes:
        topic, (node, port) = Topic("gateway.snat", f"{cluster.name} node {number}"), cluster.endpoint(number)
        source = host.route(node).source
        if source in ("", gateway.snat) or host.answers(gateway.snat, node, port, LIMIT):
            yield topic.ok(f"answers packets from {gateway.snat}, the address that it sees as every client's")
            continue
        what = f"answers {source}, but nothing from {gateway.snat}, the address that it sees as every client's"
        hint = f"config.yaml: clusters.{cluster.name}.gateway: {{snat_address: {source}}}; pg_hba.conf must let it in"
        yield topic.fail(what, hint)


def writes(managed: ManagedCluster, host: Host, decision: PrimaryDecision) -> Iterator[Finding]:
    """Log in and write, or read, through each port that a route opens."""
    cluster = managed.cluster
    topic = Topic("client.write", cluster.name)
    probes = led_astray(probe(cluster, managed.opened_ports, host), decision.primary)
    wrong = merged(probes)
    if wrong:
        say = topic.warn if all(found.served for found in wrong) else topic.fail
        yield say("; ".join(map(str, wrong)), wrong[0].hint)
    else:
        yield topic.ok("; ".join(f"{found} ({found.seconds:.2f} s)" for found in probes))
    yield role(cluster)


def logins(
    managed: ManagedCluster, host: Host, standbys: Iterable[int], known: Iterable[Finding] = ()
) -> Iterator[Finding]:
    """Log in on each of these standbys as a client: pg_hba.conf is each node's own, and is read after a promotion.

    What the primary says too, for roles and databases are the same everywhere, is mended as one of the ``known``
    findings says.
    """
    remedies = {finding.hint for finding in known if finding.hint}
    cluster, ports, nodes = managed.cluster, managed.opened_ports, list(standbys)
    if not ports or cluster.client.user == cluster.postgres.user:
        return
    ways = {str(node): way_to(cluster, node, ports[-1]) for node in nodes if seen_as_client(cluster, node, host)}
    visits = host.visit_each(ways, cluster.client.timeout) if ways else {}
    for node in nodes:
        topic = Topic("client.login", f"{cluster.name} node {node}")
        if str(node) not in visits:
            yield topic.ok("not tried as a client: it sees this host under another address than clients")
            continue
        found = judge(cluster, ports[-1], visits[str(node)], host)
        if found.hint in remedies:
            yield topic.ok(f"says to {cluster.client.user} what the primary says")
        elif found.code is ProbeCode.FAILED and visits[str(node)].stage == "ask":
            # Once logged in; as for a role whose transactions are serializable, which a standby refuses.
            yield topic.ok(f"lets {cluster.client.user} in, as the primary does")
        elif found.code in CANNOT:
            yield topic.fail(f"no client could log in if it were the primary: {found.message}", found.hint)
        elif found.served or found.code is ProbeCode.STANDBY:
            yield topic.ok(f"lets {cluster.client.user} in, as the primary does")
        else:
            yield topic.warn(
                f"whether a client could log in if it were the primary is unknown: {found.message}", found.hint
            )


def seen_as_client(cluster: Cluster, node: int, host: Host) -> bool:
    """Whether the node sees us under the address of a client, or one that it must let in for the probe."""
    source = host.route(cluster.endpoint(node).host).source
    return bool(cluster.gateway.hosts) or cluster.gateway.snat in (source, MASQUERADE)


def role(cluster: Cluster) -> Finding:
    """Judge as whom the ports are tried."""
    user, topic = cluster.client.user, Topic("client.role", cluster.name)
    if user == cluster.postgres.user:
        what = f"tried as {user}, repmgr's own role: what an application may do is not known"
        return topic.warn(what, f"config.yaml: clusters.{cluster.name}.probe: {{user: ROLE, dbname: DATABASE}}")
    return topic.ok(f"tried as {user}")
