"""Whether the parts of a configuration are consistent: what no single value can show."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping, Sequence

from repmgr_hooks.alerts import receivers
from repmgr_hooks.alerts.receivers import Receiver
from repmgr_hooks.cluster.gateways import ALIVE_FOR
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import did_you_mean
from repmgr_hooks.settings import libpq
from repmgr_hooks.settings.backoff import Backoff
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster
from repmgr_hooks.settings.document import Document
from repmgr_hooks.settings.libpq import TAKE_OUT
from repmgr_hooks.settings.yaml_text import join


def check_cluster(document: Document, cluster: Cluster, path: str) -> None:
    """Record what does not go together within one cluster: addresses, ports, chains, nodes."""
    versions = {ipaddress.ip_address(node.host).version for node in cluster.nodes.values()}
    if versions != {ipaddress.ip_address(cluster.gateway.address).version}:
        message = "mixes IPv4 and IPv6: netfilter cannot translate one into the other"
        document.problem(join(path, "nodes"), message, "use one kind for all")
    snat = cluster.gateway.snat
    if snat != MASQUERADE and ipaddress.ip_address(snat).version not in versions:
        document.problem(join(path, "gateway.snat_address"), "must be of the same kind as the nodes' (IPv4 or IPv6)")
    if snat != cluster.gateway.address and snat in [node.host for node in cluster.nodes.values()]:
        document.problem(join(path, "gateway.snat_address"), f"{snat} is a node's", "name one of this host's own")
    ends = [cluster.shown(cluster.endpoint(number)) for number in cluster.nodes]
    ports = [str(port) for port in cluster.gateway.ports.values()]
    for what, values, hint in (("nodes", ends, "give each a 'port' of its own"), ("gateway.ports", ports, "")):
        for value in sorted({value for value in values if values.count(value) > 1}):
            document.problem(join(path, what), f"{value} appears twice", hint)
    if cluster.gateway.chains.dnat == cluster.gateway.chains.snat:
        document.problem(join(path, "gateway.chains"), "dnat and snat must be two chains")
    for name in cluster.unknown.close if cluster.unknown else ():
        if name not in cluster.gateway.ports:
            hint = did_you_mean(name, cluster.gateway.ports)
            document.problem(join(path, "unknown.close"), f"the gateway has no port {name!r}", hint)
    _check_nodes(document, cluster, path)
    _check_gateways(document, cluster, path)
    _check_barmans(document, cluster, path)
    _check_former_primary(document, cluster, path)
    for name, value in cluster.postgres.libpq.items():
        if wrong := libpq.problem(name, value):
            document.problem(f"{path}.postgres.{name}", wrong.message, wrong.hint)
    if cluster.barman and cluster.barman.server == "all":
        hint = "name the one of this cluster"
        document.problem(join(path, "barman.server"), "'all' are all servers to Barman", hint)


def _check_nodes(document: Document, cluster: Cluster, path: str) -> None:
    """A witness may be on the gateway's host, as long as our own rules do not lead us away from it."""
    address = cluster.gateway.address
    if all(node.witness for node in cluster.nodes.values()):
        document.problem(join(path, "nodes"), "all are witnesses: none can be the primary")
    for number, node in cluster.nodes.items():
        if node.witness and node.shell:
            document.problem(f"{path}.nodes.{number}", "'shell' is of no use: a witness restores nothing", TAKE_OUT)
        if node.host == address and not node.witness:
            hint = "give the gateway an address of its own"
            document.problem(join(path, "gateway.address"), f"{address} is node {number}'s", hint)
        elif node.host == address and (port := cluster.endpoint(number).port) in cluster.gateway.ports.values():
            message = f"{port} of {address} is node {number}'s own"
            document.problem(join(path, "gateway.ports"), message, "choose another port")


def _check_gateways(document: Document, cluster: Cluster, path: str) -> None:
    """Several gateways have an address of their own each, and one that is given to one of them."""
    hosts, address = cluster.gateway.hosts, cluster.gateway.address
    where = join(path, "gateway.hosts")
    if len(hosts) == 1:
        document.problem(where, "names one gateway", "name each of them; with a single gateway leave it out")
    if address in hosts:
        hint = "'address' is the one that keepalived gives to one of them"
        document.problem(where, f"{address} cannot be a gateway's own", hint)
    for host in sorted({host for host in hosts if hosts.count(host) > 1}):
        document.problem(where, f"{host} appears twice")
    if hosts and {ipaddress.ip_address(host).version for host in hosts} != {ipaddress.ip_address(address).version}:
        document.problem(where, "must be of the same kind as 'address' (IPv4 or IPv6)")


def _check_barmans(document: Document, cluster: Cluster, path: str) -> None:
    """A Barman of its own has a slot of its own, and then there is one on each gateway."""
    if cluster.barman is None:
        return
    where, hosts, given = join(path, "barman.gateways"), cluster.gateway.hosts, cluster.barman.gateways
    for address in (address for address in given if address not in hosts):
        hint = did_you_mean(address, hosts) or "they are its keys, each gateway's own address"
        document.problem(join(where, address), "is no gateway under 'gateway.hosts'", hint)
    for address in (address for address, here in given.items() if not (here.slot_name or here.command)):
        document.problem(join(where, address), "says nothing", "give it a 'slot_name' or a 'command', or take it out")
    slots = [each.slot_name for each in given.values() if each.slot_name]
    for slot in sorted({slot for slot in slots if slots.count(slot) > 1}):
        document.problem(where, f"slot {slot} appears twice", "each Barman reads a slot of its own")
    without = [host for host in hosts if host not in given or not given[host].slot_name]
    if slots and without:
        hint = "give each gateway the slot of its own Barman; if there is one Barman for all, give none"
        document.problem(where, f"no 'slot_name' for {' and '.join(without)}", hint)
    if slots and cluster.barman.slot_name != Barman.slot_name:
        document.problem(join(path, "barman.slot_name"), "is of no use: each gateway has its own", TAKE_OUT)


def _check_former_primary(document: Document, cluster: Cluster, path: str) -> None:
    """A node is stopped and rejoined through its ``shell``."""
    settings = cluster.former_primary
    if settings is None:
        return
    without = [number for number, node in cluster.nodes.items() if not (node.witness or node.shell)]
    if without and (settings.rejoin or not settings.fence.program):
        nodes = " and ".join(f"nodes.{number}" for number in without)
        hint = f"give {nodes} a 'shell' that runs as PostgreSQL's user there: [ssh, -o, BatchMode=yes, ...]"
        document.problem(join(path, "former_primary"), f"needs a shell on each node, which is missing in {nodes}", hint)
    hosts = [node.host for node in cluster.nodes.values()]
    for host in sorted({host for host in hosts if hosts.count(host) > 1} if settings.fence.program else ()):
        what = f"would switch off {host}, and each node on it"
        hint = f"{TAKE_OUT}; each node is stopped through its 'shell'"
        document.problem(join(path, "former_primary.fence.program"), what, hint)
    if not settings.rejoin and settings.clone != "never":
        document.problem(join(path, "former_primary.clone"), "is of no use with 'rejoin: false'", TAKE_OUT)


def check_retry(document: Document, retry: Backoff) -> None:
    """Record a first delay that is longer than the longest one."""
    if retry.initial_delay > retry.max_delay:
        document.problem(
            "retry", f"'initial_delay' ({retry.initial_delay} s) must not be above 'max_delay' ({retry.max_delay} s)"
        )


def check_shared(document: Document, clusters: Mapping[str, ManagedCluster]) -> None:
    """What two clusters must not share: a chain is swapped whole, so each belongs to one cluster."""
    seen: dict[tuple[object, ...], str] = {}
    hosts = sorted({host for managed in clusters.values() for host in managed.cluster.gateway.hosts})
    for name, managed in clusters.items():
        for path, what, *value in _claims(managed.cluster, hosts):
            if seen.get((what, *value), name) != name:
                message = f"{what}{value[0]} is already that of cluster {seen[what, *value]!r}"
                document.problem(f"clusters.{name}.{path}", message)
            seen.setdefault((what, *value), name)


def check_interval(document: Document, interval: int, clusters: Mapping[str, ManagedCluster]) -> None:
    """Record looks that are too rare for a gateway to be seen by the others (``gateways.ALIVE_FOR``)."""
    if not 1 <= interval <= ALIVE_FOR / 3 and any(managed.cluster.gateway.hosts for managed in clusters.values()):
        what = f"{interval} s is not 1 to {ALIVE_FOR / 3:.0f} s: with several gateways, they watch each other"
        document.problem("monitor_interval", what, "monitor_interval: 5")


def check_alerts(document: Document, told: Sequence[Receiver], clusters: Mapping[str, ManagedCluster]) -> None:
    """Record receivers that are wrong or named twice, and messages that nobody would receive."""
    for index, target in enumerate(told):
        for problem in receivers.validate(target):
            document.problem(f"alerts[{index}]", problem.message, problem.hint)
        if target in told[:index]:
            document.problem(f"alerts[{index}]", f"{target.name} appears twice")
    for name, managed in clusters.items():
        for action in (action for action in managed.actions if action.name == "notify"):
            where = f"clusters.{name}.routes{action.path}.notify"
            if not told:
                hint = "name a receiver there, or take the action out"
                document.problem(where, "there is no receiver under 'alerts'", hint)
            elif not any(target.takes(action.config.severity) for target in told):
                what = "nobody receives it: each receiver under 'alerts' has 'severity: critical'"
                document.problem(where, what, "notify: {severity: critical}")


def _claims(cluster: Cluster, hosts: Sequence[str]) -> Iterator[tuple[object, ...]]:
    """Yield where something stands, what it is, and the value that is this cluster's alone.

    A witness may hold the votes of several clusters, each in a database of its own; and two hosts of Barman's may have
    servers of the same name. Which Barman is run may depend on the gateway: ``hosts`` are those of all clusters.
    """
    gateway, nodes = cluster.gateway, cluster.nodes
    yield from (("gateway", "chain ", chain) for chain in (gateway.chains.dnat, gateway.chains.snat))
    yield from (("gateway", "port ", f"{gateway.address}:{port}") for port in gateway.ports.values())
    yield from (
        ("nodes", "port ", "{}:{}".format(*cluster.endpoint(n))) for n, node in nodes.items() if not node.witness
    )
    if barman := cluster.barman:
        for host in gateway.hosts or hosts or ("",):
            here = barman.seen_from(host)
            # What is run by ssh is the same Barman from each gateway, also of clusters that share none.
            yield "barman", "server ", barman.server, "" if here.login else host, here.command
