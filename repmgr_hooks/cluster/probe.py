"""Can a client write? A visit through each port, as the role that the configuration names; what it showed; and why not.
Through a port for readers: can it read?

What a visit does, and why just that, stands in ``system/client.py``.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from psycopg import conninfo

from repmgr_hooks.cluster.login import address_in, in_english
from repmgr_hooks.cluster.probe_from import visit_from
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.endpoint import Endpoint
from repmgr_hooks.system import client
from repmgr_hooks.system.steps import Host, Sql
from repmgr_hooks.system.visit import LATE, Visit

CAUSE_LIMIT = 5.0
PROTECTION = ("channel_binding", "require_auth", "sslmode", "sslrootcert")
FOREIGN_RULE = "repmgr-hooks check names the rule that stands before ours"
UNFIT = "repmgr-hooks status --cluster {} says of each standby why"
DROPPED = "repmgr-hooks check names what drops or diverts the packets"
# Ends the session of a visit that was late: one that waits for a standby does not notice that its client has gone
# (syncrep.c, SyncRepWaitForLSN looks at cancel and terminate alone). First, what it waits for.
END = """
select wait_event, current_setting('synchronous_standby_names'), pg_terminate_backend(pid)
  from pg_stat_activity where pid = %s and application_name = %s
"""


class ProbeCode(enum.Enum):
    """What a visit showed."""

    WRITES = "writes"
    READS = "reads"
    READS_ON_PRIMARY = "reads_on_primary"
    """Through a port for readers, which leads there for want of a standby."""
    CLOSED = "closed"
    SILENT = "silent"
    REJECTED = "rejected"
    NO_PASSWORD = "no_password"
    NO_CONNECTION_LEFT = "no_connection_left"
    STANDBY = "standby"
    ELSEWHERE = "elsewhere"
    READ_ONLY = "read_only"
    COMMIT_WAITS = "commit_waits"
    DISK_FULL = "disk_full"
    FAILED = "failed"


@dataclass(frozen=True)
class Probe:
    """What a client found behind a port. ``node``: who answered; ``origin``: from where, empty for this host.

    ``message`` and ``hint`` say what is wrong and what to do, and are empty if nothing is. ``reader``: it did not
    try to write.
    """

    port: str
    code: ProbeCode
    node: int | None = None
    seconds: float = 0.0
    message: str = ""
    hint: str = ""
    origin: str = ""
    reader: bool = False

    @property
    def writes(self) -> bool:
        """True if a client can write."""
        return self.code is ProbeCode.WRITES

    @property
    def served(self) -> bool:
        """True if a client can do what the port is for."""
        return self.code in (ProbeCode.WRITES, ProbeCode.READS, ProbeCode.READS_ON_PRIMARY)

    @property
    def good(self) -> bool:
        """True if it can, and where it should."""
        return self.served and not self.message

    @property
    def does(self) -> str:
        """What the port is for."""
        return "read" if self.reader else "write"

    @property
    def name(self) -> str:
        """The port, and from where it was tried."""
        return f"port {self.port}" + (f" from {self.origin}" if self.origin else "")

    def __str__(self) -> str:
        if self.served:
            return f"{self.name}: a client {self.does}s on node {self.node}" + (f": {self.message}" * (not self.good))
        return f"{self.name}: no client can {self.does}: {self.message}"


def probe(cluster: Cluster, ports: Iterable[str], host: Host) -> list[Probe]:
    """Visit through each of these ports, side by side; and from elsewhere, if the configuration names a place."""
    names, settings = list(ports), cluster.client
    visits = host.visit_each({name: way_through(cluster, name) for name in names}, settings.timeout)
    found = [judge(cluster, name, visits[name], host) for name in names]
    for name in names if settings.shell else ():
        visit = visit_from(cluster, way_through(cluster, name, passfile=False), host)
        found.append(replace(judge(cluster, name, visit, host), origin=" ".join(settings.shell)))
    return found


def judge(cluster: Cluster, port: str, visit: Visit, host: Host) -> Probe:
    """Say what a visit showed; of one that was late in its commit, ask the node why, and end its session."""
    node = cluster.node_at(Endpoint(visit.server, visit.port))
    event, standbys = "", ""
    if visit.stage == "commit" and visit.error == LATE and node is not None:
        event, standbys = _end(node, visit.pid, host)
    reader = port in cluster.readers
    code = _code(visit, node, event, reader)
    if code is ProbeCode.FAILED and visit.rejected:
        visit = replace(visit, error=in_english(visit.error, cluster, host))
        code = _code(visit, node, event, reader)
    message, hint = _words(cluster, port, code, visit, node, standbys)
    return Probe(port, code, node, visit.seconds, message, hint, reader=reader)


def merged(probes: Iterable[Probe]) -> list[Probe]:
    """Return what is wrong, the ports together that lack the same: one cause is said once."""
    ports: dict[tuple[str, str], list[Probe]] = {}
    for found in probes:
        if not found.good:
            ports.setdefault((found.message, found.origin), []).append(found)
    return [replace(same[0], port=", ".join(found.port for found in same)) for same in ports.values()]


def led_astray(probes: Iterable[Probe], primary: int | None) -> list[Probe]:
    """Return the same; a client that writes, or would write, on another node than the primary is not served there."""
    code = ProbeCode
    there = (code.WRITES, code.READS_ON_PRIMARY, code.COMMIT_WAITS, code.READ_ONLY, code.DISK_FULL)
    return [
        replace(found, code=ProbeCode.ELSEWHERE, message=f"it leads to node {found.node}", hint=FOREIGN_RULE)
        if found.code in there and primary not in (None, found.node)
        else found
        for found in probes
    ]


def _end(node: int, pid: int, host: Host) -> tuple[str, str]:
    try:
        rows = host.fetch(Sql(node, END, (pid, client.APPLICATION)), CAUSE_LIMIT)
    except OperationFailed:
        return "", ""
    return (rows[0][0] or "", rows[0][1] or "") if rows else ("", "")


def _code(visit: Visit, node: int | None, event: str, reader: bool) -> ProbeCode:
    """libpq's own words are English, for nobody calls setlocale(3) here; a server's are made so by ``login.py``."""
    if reader and visit.stage == "ask" and (visit.in_recovery or visit.read_only) and not visit.error:
        reads = ProbeCode.READS if visit.in_recovery else ProbeCode.READS_ON_PRIMARY
        return reads if node is not None else ProbeCode.ELSEWHERE
    if visit.stage == "done":
        return ProbeCode.WRITES if node is not None else ProbeCode.ELSEWHERE
    if visit.in_recovery:
        return ProbeCode.STANDBY
    if visit.read_only:
        return ProbeCode.READ_ONLY
    if visit.error == LATE:
        return ProbeCode.COMMIT_WAITS if event == "SyncRep" else ProbeCode.SILENT
    if visit.sqlstate == "53100" or "No space left on device" in visit.error:
        return ProbeCode.DISK_FULL
    full = r"too many (connections|clients)|remaining connection slots"
    if visit.sqlstate == "53300" or re.search(full, visit.error):
        return ProbeCode.NO_CONNECTION_LEFT
    if "Connection refused" in visit.error:
        return ProbeCode.CLOSED
    rejected = r"pg_hba\.conf|authentication failed|no password|not permitted to log in"
    if visit.sqlstate[:2] == "28" or re.search(rejected, visit.error):
        return ProbeCode.NO_PASSWORD if "no password supplied" in visit.error else ProbeCode.REJECTED
    if re.search(r"timeout expired|timed out|No route to host|unreachable", visit.error):
        return ProbeCode.SILENT
    return ProbeCode.FAILED


def _words(
    cluster: Cluster, port: str, code: ProbeCode, visit: Visit, node: int | None, standbys: str
) -> tuple[str, str]:
    """Return what is wrong and what to do."""
    role, number, there = cluster.client.user, cluster.gateway.ports[port], f"on node {node}"
    reconcile = f"repmgr-hooks reconcile --cluster {cluster.name}"
    match code:
        case ProbeCode.WRITES | ProbeCode.READS:
            return "", ""
        case ProbeCode.READS_ON_PRIMARY:
            return "it is the primary, for no standby is fit for readers", UNFIT.format(cluster.name)
        case ProbeCode.CLOSED if port in cluster.readers and cluster.readers[port].if_none == "close":
            return "it is closed, for no standby is fit for readers", UNFIT.format(cluster.name)
        case ProbeCode.CLOSED:
            return f"nothing answers on {cluster.gateway.address}:{number} (connection refused)", reconcile
        case ProbeCode.SILENT:
            at = "" if visit.stage == "connect" else f", once logged in on node {node}"
            return f"no answer within {cluster.client.timeout} s{at}", DROPPED
        case ProbeCode.NO_CONNECTION_LEFT:
            return visit.error, _room(visit.error, cluster)
        case ProbeCode.REJECTED | ProbeCode.NO_PASSWORD:
            return visit.error, _entry(visit.error, cluster)
        case ProbeCode.STANDBY:
            what = f"it leads to node {node}, which is in recovery"
            return what, f"{FOREIGN_RULE}; else {reconcile}"
        case ProbeCode.ELSEWHERE:
            what = f"it leads to {cluster.shown(Endpoint(visit.server, visit.port))}, which is not one of the nodes"
            return what, FOREIGN_RULE
        case ProbeCode.READ_ONLY:
            return f"sessions of {role} on node {node} are read-only", f"{there}: {_writable(visit.read_only, cluster)}"
        case ProbeCode.COMMIT_WAITS:
            what = f"commits on node {node} wait for a synchronous standby: synchronous_standby_names = '{standbys}'"
            now = "alter system set synchronous_standby_names = ''; select pg_reload_conf();"
            return what, f"start a standby that it names; or, without its safety, {there}: {now}"
        case ProbeCode.DISK_FULL:
            return visit.error, f"{there}, make room where that file is: df -h"
        case ProbeCode.FAILED if "not currently accepting connections" in visit.error:
            return visit.error, f"on the primary: alter database {cluster.client.dbname} allow_connections true;"
        case ProbeCode.FAILED if "permission denied for database" in visit.error:
            return visit.error, f"on the primary: grant connect on database {cluster.client.dbname} to {role};"
        case ProbeCode.FAILED:
            return visit.error or "an unknown failure", f"psql '{way_through(cluster, port)}'"


def _entry(error: str, cluster: Cluster) -> str:
    settings = cluster.client
    if "not permitted to log in" in error:
        return f"on the primary: alter role {settings.user} login;"
    seen = address_in(error)
    if "pg_hba.conf" in error and seen:
        line = f"host {settings.dbname} {settings.user} {Family(seen).exactly(seen)} scram-sha-256"
        return f"in pg_hba.conf of every node, above any 'reject', then reload: {line}"
    file = settings.passfile or "the service's .pgpass"
    return f"check the role's password, and its line in {file}: *:*:{settings.dbname}:{settings.user}:PASSWORD"


def _room(error: str, cluster: Cluster) -> str:
    """The limit of a role, of a database, or of the server (proc.c, miscinit.c, postinit.c)."""
    role, dbname = cluster.client.user, cluster.client.dbname
    who = "select usename, client_addr, state, count(*) from pg_stat_activity group by 1, 2, 3"
    if 'for role "' in error:  # not: slots are reserved "for roles with the SUPERUSER attribute" (16 and newer)
        return f"on the primary: alter role {role} connection limit -1; or see who holds them: {who}"
    if "for database" in error:
        return f"on the primary: alter database {dbname} connection limit -1; or see who holds them: {who}"
    return f"on the primary, see who holds them: {who}; or raise max_connections there and on every standby"


def _writable(source: str, cluster: Cluster) -> str:
    role, dbname, setting = cluster.client.user, cluster.client.dbname, "default_transaction_read_only"
    places = {
        "user": f"alter role {role} reset {setting}",
        "database": f"alter database {dbname} reset {setting}",
        "database user": f"alter role {role} in database {dbname} reset {setting}",
        "global": f"alter role all reset {setting}",
    }
    return f"{places.get(source, f'alter system set {setting} = off; select pg_reload_conf()')};"


def way_through(cluster: Cluster, port: str, passfile: bool = True) -> str:
    """Return how a client connects through a port; through one for readers it does not mean to write, even where it
    could.
    """
    settings, gateway = cluster.client, cluster.gateway
    reading = {"options": "-c default_transaction_read_only=on"} if port in cluster.readers else {}
    return conninfo.make_conninfo(
        host=gateway.address,
        # Else libpq would take that of the environment (PGHOSTADDR).
        hostaddr=gateway.address,
        port=gateway.ports[port],
        user=settings.user,
        dbname=settings.dbname,
        **reading,
        **({"passfile": settings.passfile} if settings.passfile and passfile else {}),
        **(_protection(cluster) if passfile else {}),
    )


def way_to(cluster: Cluster, node: int, port: str) -> str:
    """Return how a client of a port would connect to a node, if it came straight to it."""
    there, settings = cluster.endpoint(node), way_through(cluster, port)
    return conninfo.make_conninfo(settings, host=there.host, hostaddr=there.host, port=there.port)


def _protection(cluster: Cluster) -> dict[str, str]:
    """What keeps a password from going out in clear on the way to the nodes does so here; but a port has no name."""
    libpq = cluster.postgres.libpq
    kept = {name: str(libpq[name]) for name in PROTECTION if name in libpq}
    if kept.get("sslmode") == "verify-full":
        kept["sslmode"] = "verify-ca"
    return kept
