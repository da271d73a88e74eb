"""Whether each standby would let Barman in, if that were the primary: pg_hba.conf is each node's own.

Else a failover is content until Barman's stream is to begin, and the applications wait for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from psycopg import conninfo

from repmgr_hooks.barman import archive
from repmgr_hooks.checks import barman_config
from repmgr_hooks.checks.clients import seen_as_client
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host

LIMIT = 5.0
NO_PASSWORD = "no password supplied"
"""libpq's words for a server that asks for one."""
STREAMS = "streaming_conninfo"
"""What the names of those connection strings end with by which WAL is streamed."""


def look(cluster: Cluster, settings: Barman, host: Host, standbys: Iterable[int]) -> Iterator[Finding]:
    """Log in on each of them as Barman does; not if Barman is elsewhere, or is seen there under another address."""
    try:
        ways = {} if settings.login else barman_config.ways(archive.shown(settings, host, constant=True))
    except OperationFailed:
        return  # it was said already
    for node in standbys:
        topic = Topic("barman.login", f"{settings.server} node {node}")
        if not ways or not seen_as_client(cluster, node, host):
            yield topic.ok("not tried as Barman: it sees this host under another address than Barman")
            continue
        straight = {name: _straight(cluster, node, name, text) for name, text in ways.items()}
        if all(straight.values()):
            yield _judged(topic, cluster, node, straight, host)
        else:
            yield topic.ok("not tried as Barman: its user stands elsewhere than in its connection string")


def _straight(cluster: Cluster, node: int, name: str, text: str) -> str:
    """Return how Barman would connect to the node, if it came straight to it; empty if the text does not say all."""
    there, parts = cluster.endpoint(node), barman_config.words_of(text)
    if not parts.get("user") or "service" in parts:
        return ""
    led = {"host": there.host, "hostaddr": there.host, "port": str(there.port)}
    streams = {"replication": "true"} if name.endswith(STREAMS) else {}
    return conninfo.make_conninfo("", **{**parts, **streams, **led})


def _judged(topic: Topic, cluster: Cluster, node: int, ways: dict[str, str], host: Host) -> Finding:
    visits = host.visit_each(ways, LIMIT)
    kept_out = {name: visit.error for name, visit in visits.items() if visit.stage == "connect" and visit.error}
    for name, error in kept_out.items():
        what = f"Barman's {name} could not log in if it were the primary: {error}"
        if "pg_hba.conf" in error:
            parts = conninfo.conninfo_to_dict(ways[name])
            database = "replication" if "replication" in parts else parts.get("dbname", parts["user"])
            source = host.route(cluster.endpoint(node).host).source or cluster.gateway.snat
            line = f"host {database} {parts['user']} {Family(source).exactly(source)} scram-sha-256"
            return topic.fail(what, f"in pg_hba.conf of node {node}, above any 'reject', then reload: {line}")
        if "max_wal_senders" in error:
            return topic.fail(what, f"raise max_wal_senders on node {node}, and restart it")
    # There may be a password for the gateway's port alone.
    if unknown := [error for error in kept_out.values() if NO_PASSWORD not in error]:
        what = f"whether Barman could log in if it were the primary is unknown: {unknown[0]}"
        return topic.warn(what, f"see the log of node {node}")
    return topic.ok("asks Barman for a password" if kept_out else "lets Barman in, as the primary does")
