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
from repmgr_hooks.system.visit import LATE

LIMIT = 5.0
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
        yield _judged(topic, cluster, node, {name: _straight(cluster, node, name, ways[name]) for name in ways}, host)


def _straight(cluster: Cluster, node: int, name: str, text: str) -> str:
    """Return how Barman would connect to the node, if it came straight to it; empty if the text names no user."""
    there, parts = cluster.endpoint(node), barman_config.words_of(text)
    if not parts.get("user"):
        return ""
    kept = {key: value for key, value in parts.items() if key not in ("host", "hostaddr", "port", "service")}
    kept |= {"replication": "true"} if name.endswith(STREAMS) else {}
    return conninfo.make_conninfo("", **{**kept, "host": there.host, "port": str(there.port)})


def _judged(topic: Topic, cluster: Cluster, node: int, ways: dict[str, str], host: Host) -> Finding:
    visits = host.visit_each({name: way for name, way in ways.items() if way}, LIMIT)
    for name, visit in visits.items():
        if visit.stage == "connect" and visit.rejected:
            parts = conninfo.conninfo_to_dict(ways[name])
            database = "replication" if "replication" in parts else parts.get("dbname", parts["user"])
            source = host.route(cluster.endpoint(node).host).source or cluster.gateway.snat
            line = f"host {database} {parts['user']} {Family(source).exactly(source)} scram-sha-256"
            hint = f"in pg_hba.conf of node {node}, above any 'reject', then reload: {line}"
            if "pg_hba.conf" not in visit.error:
                hint = f"check role {parts['user']}, and max_wal_senders and max_connections of node {node}"
            return topic.fail(f"Barman's {name} could not log in if it were the primary: {visit.error}", hint)
    if any(visit.error == LATE for visit in visits.values()):
        what = f"whether Barman could log in if it were the primary is unknown: {LATE}"
        return topic.warn(what, "repmgr-hooks check")
    # Asked for a password that there is only for the gateway's port, it is let in all the same.
    return topic.ok("lets Barman in, as the primary does")
