"""Each PgBouncer that a route names: whether it can be held and let go, and whether its clients outlast a hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from psycopg.conninfo import conninfo_to_dict

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.engine.hold import pgbouncers_of
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.handlers import pgbouncer as handler
from repmgr_hooks.system.consoles import DATABASE
from repmgr_hooks.system.pgbouncer import PgBouncer, look, settings_of, shares_its_port
from repmgr_hooks.system.steps import Host, console_name

LONGEST_RETRY = 2.0
"""Seconds: after one refused connection to the server PgBouncer makes no other for ``server_login_retry``."""
SHORTEST_WAIT = 60.0
"""Seconds that a switchover may hold clients; PgBouncer disconnects those that wait for ``query_wait_timeout``."""
Settings = Mapping[str, str]


def findings(managed: ManagedCluster, host: Host) -> Iterator[Finding]:
    """Ask each PgBouncer, as the service's user."""
    asked = pgbouncers_of(managed)
    if not asked:
        return
    configs = settings_of(asked, host)
    for console, each in look(asked, host).items():
        where, config = f"{managed.cluster.name} {console_name(console)}", configs[console]
        topic = Topic("pgbouncer.console", where)
        wrong = next((said for said in (each, config) if isinstance(said, OperationFailed)), None)
        if wrong or isinstance(each, OperationFailed) or isinstance(config, OperationFailed):
            yield topic.fail(str(wrong), _way_in(console, wrong.code if wrong else ""))
            continue
        settings = config
        if shared := shares_its_port(console, settings):
            yield topic.fail(f"{shared.message}: PAUSE would reach one of them, and RESUME another", shared.hint)
            continue
        yield _role(topic, console, each, settings)
        for name in asked[console]:
            yield _database(Topic("pgbouncer.database", where), managed, each, name)
            yield _mode(Topic("pgbouncer.mode", where), each, name, settings)
        yield _retry(Topic("pgbouncer.retry", where), settings)
        yield _patience(Topic("pgbouncer.patience", where), settings)


def _way_in(console: str, code: str) -> str:
    given = conninfo_to_dict(console)
    if code != "rejected":
        return "on its host: systemctl start pgbouncer; if it runs, correct 'on'"
    place = f"{given['passfile']}" if "passfile" in given else "our passfile"
    also = f"the password of {given['user']} must be the same in its auth_file and in {place}"
    return f"{_set('admin_users', str(given['user']))}; {also}"


def _role(topic: Topic, console: str, each: PgBouncer, settings: Settings) -> Finding:
    user = str(conninfo_to_dict(console)["user"])
    admins = {name.strip() for name in settings.get("admin_users", "").split(",")}
    if user in admins or user == DATABASE:
        return topic.ok(f"PgBouncer {'.'.join(map(str, each.version))} answers, and {user} may PAUSE and RESUME")
    hint = _set("admin_users", ", ".join(sorted({*admins, user} - {""})))
    return topic.fail(f"{user} is none of admin_users: it may look, but neither PAUSE nor RESUME", hint)


def _database(topic: Topic, managed: ManagedCluster, each: PgBouncer, name: str) -> Finding:
    gateway, found = managed.cluster.gateway, each.database(name)
    port = _app_port(managed)
    hint = _set(name, f"host={gateway.address} port={port}", "databases")
    if found is None:
        return topic.fail(f"it has no database {name}", hint)
    if found.disabled:
        what = f"database {name} is disabled: it refuses every client"
        return topic.fail(what, f'on its admin console: ENABLE "{name}"')
    if found.host != gateway.address or found.port not in gateway.ports.values():
        where = f"{found.host or 'a socket'}:{found.port}"
        what = f"database {name} leads to {where}, not to a port of {gateway.address}: it does not follow the primary"
        return topic.warn(what, hint)
    return topic.ok(f"database {name} leads to port {found.port} of {gateway.address}")


def _app_port(managed: ManagedCluster) -> int:
    """Return the port that is opened before the first action of ours; none for readers."""
    cluster = managed.cluster
    opened = next((port for port in cluster.gateway.ports if port not in cluster.readers), "")
    for action in managed.actions:
        if isinstance(action.config, handler.Config):
            break
        if (port := getattr(action.config, "open", "")) not in cluster.readers:
            opened = port or opened
    return cluster.gateway.ports.get(opened, 0)


def _mode(topic: Topic, each: PgBouncer, name: str, settings: Settings) -> Finding:
    found = each.database(name)
    mode = (found.pool_mode if found else "") or settings.get("pool_mode", "")
    if mode == "session":
        what = f"database {name} is pooled by session: PAUSE would wait until every client has disconnected"
        return topic.warn(what, _set("pool_mode", "transaction"))
    return topic.ok(f"database {name} is pooled by {mode}: PAUSE waits for open ones only")


def _retry(topic: Topic, settings: Settings) -> Finding:
    if (seconds := _seconds(settings, "server_login_retry")) <= LONGEST_RETRY:
        return topic.ok(f"server_login_retry is {seconds:g} s")
    what = f"server_login_retry is {seconds:g} s: for so long clients may be refused after the port has been opened"
    return topic.warn(what, _set("server_login_retry", "1"))


def _patience(topic: Topic, settings: Settings) -> Finding:
    """Both count while a client waits (janitor.c, pool_client_maint); 0 is for ever."""
    for name in ("query_wait_timeout", "query_timeout"):
        if 0 < (seconds := _seconds(settings, name)) < SHORTEST_WAIT:
            what = f"{name} is {seconds:g} s: a client that is held for longer is disconnected"
            return topic.warn(what, _set(name, "120" if name == "query_wait_timeout" else "0"))
    return topic.ok("clients that are held may wait for a minute and more")


def _seconds(settings: Settings, name: str) -> float:
    try:
        return float(settings.get(name, "0"))
    except ValueError:
        return 0.0


def _set(name: str, value: str, section: str = "pgbouncer") -> str:
    """Return how to change a setting."""
    return f"in its pgbouncer.ini, [{section}]: {name} = {value}; then on its host: systemctl reload pgbouncer"
