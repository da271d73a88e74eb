"""Can a password be sent in clear text? libpq gives it to whoever answers at a node's address and asks for it.

PostgreSQL's manual, 34.1.2: without ``require_auth`` or ``channel_binding`` the server chooses how it is asked for, and
without a verified certificate nobody knows who the server is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from psycopg import pq

from repmgr_hooks.checks.files import absent, unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import User
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.libpq import options, protects_password

EXPOSED = "whoever answers at a node's address can get the password in clear text"
TLS, SCRAM = "{channel_binding: require}", "{require_auth: scram-sha-256}"


def look(cluster: Cluster, service: User) -> Finding:
    """Look at the way from us to the nodes."""
    if safe := _protected(cluster):
        return safe
    topic = Topic("nodes.password", cluster.name)
    file = Path(cluster.postgres.passfile or f"{service.home}/.pgpass")
    try:
        if absent(file) or file.stat().st_size == 0:
            return topic.ok(f"no password is used: none is in {file}")
    except PermissionError as error:
        return unseen(topic, error)
    return topic.warn(EXPOSED, f"config.yaml: clusters.{cluster.name}.postgres: {way_out()}")


def written(cluster: Cluster) -> Iterator[Finding]:
    """Judge what is written; without ``passfile`` only the gateway knows whether a password is used."""
    if safe := _protected(cluster):
        yield safe
    elif cluster.postgres.passfile:
        hint = f"config.yaml: clusters.{cluster.name}.postgres: {TLS}, if the nodes have TLS; or {SCRAM}, with libpq 16"
        yield Topic("nodes.password", cluster.name).warn(EXPOSED, hint)


def _protected(cluster: Cluster) -> Finding | None:
    safe = Topic("nodes.password", cluster.name).ok("no password is sent in clear text, or to another server")
    return safe if protects_password(cluster.postgres.libpq) else None


def way_out() -> str:
    """Return what to write, as far as this libpq knows it."""
    if "require_auth" in options():
        return f"{SCRAM}; or, if the nodes have TLS: {TLS}"
    return f"{TLS}; it needs TLS at the nodes; libpq {pq.version() // 10000} has no require_auth, which is in 16"
