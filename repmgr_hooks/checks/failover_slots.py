"""Whether logical slots would survive a failover: what PostgreSQL 17 and newer needs, and repmgr leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.failover_slots import SyncSettings, ask, failover_slots
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.system.steps import Host, Sql

# PostgreSQL 15 and newer have the first function, 17 and newer allow_alter_system.
RIGHTS = """
select current_setting('allow_alter_system') = 'on',
       has_parameter_privilege('primary_conninfo', 'alter system')
       and has_function_privilege('pg_reload_conf()', 'execute')
"""
GRANTS = (
    "grant alter system on parameter primary_conninfo to {role}; grant execute on function pg_reload_conf() to {role};"
)
ROUTE = "add 'failover_slots: {}' to the route of the standbys in config.yaml"


def look(managed: ManagedCluster, decision: PrimaryDecision, host: Host) -> Iterator[Finding]:
    """Ask the nodes, if the primary has logical slots that are to survive, or a route is about them."""
    primary, cluster = decision.primary_state, managed.cluster
    handled = any(action.name == "failover_slots" for action in managed.actions)
    if primary is None or not (handled or any(failover_slots(primary))):
        return
    if not handled:
        what = "no route keeps logical slots in sync: repmgr leaves out what PostgreSQL needs for it"
        yield Topic("logical.route", cluster.name).warn(what, ROUTE)
    yield from _not_kept(cluster.name, primary)
    nodes = {state.node: state for state in decision.states if state.reachable and not state.witness}
    asked = ask(nodes, host, cluster.postgres.timeout)
    for number, settings in asked.items():
        yield from findings(f"{cluster.name} node {number}", nodes[number], settings, handled, asked)
    newer = [number for number, settings in asked.items() if settings.syncs is not None]
    yield from _rights(managed, newer, host) if handled else ()


def _rights(managed: ManagedCluster, nodes: Sequence[int], host: Host) -> Iterator[Finding]:
    settings = managed.cluster.postgres
    for number, answer in host.fetch_each([Sql(node, RIGHTS) for node in nodes], settings.timeout).items():
        topic = Topic("logical.rights", f"{managed.cluster.name} node {number}")
        allowed, granted = answer[0] if isinstance(answer, list) and answer else (None, None)
        if allowed is False:
            what = "allow_alter_system is off, so nobody can add the database to primary_conninfo, repmgr neither"
            yield topic.fail(what, "in its postgresql.conf: allow_alter_system = on; then select pg_reload_conf();")
        elif granted is False:
            what = f"{settings.user} may not write primary_conninfo and reload"
            yield topic.fail(what, f"on the primary: {GRANTS.format(role=settings.user)}")


def _not_kept(cluster: str, primary: NodeState) -> Iterator[Finding]:
    others = [slot.name for slot in primary.slots if not slot.physical and not slot.failover and not slot.temporary]
    if others:
        what = f"no failover slot, and lost with node {primary.node}: {', '.join(others)}"
        hint = "on the subscriber: alter subscription NAME disable; alter subscription NAME set (failover); enable it"
        yield Topic("logical.slots", cluster).warn(what, hint)


def findings(
    where: str, node: NodeState, settings: SyncSettings, handled: bool, others: Mapping[int, SyncSettings]
) -> Iterator[Finding]:
    """Say what keeps a node from having logical slots in sync as a standby, or a subscriber from going on."""
    topic = Topic("logical.sync", where)
    if settings.syncs is None:
        yield topic.fail("PostgreSQL 17 and newer keep logical slots in sync; this one is older", "upgrade it")
        return
    kept = [*_own(topic, settings), *(_upstream(topic, settings, handled) if node.role == "standby" else ())]
    yield from kept or [topic.ok("its settings let it keep logical slots in sync")]
    yield from _waited_for(Topic("logical.waits", where), node, settings, others)


def _own(topic: Topic, settings: SyncSettings) -> Iterator[Finding]:
    if missing := dict(_settings(settings)):
        what = ", ".join(f"{name} is not {value}" for name, value in missing.items())
        alter = "; ".join(f"alter system set {name} = {value}" for name, value in missing.items())
        then = "restart it" if "wal_level" in missing else "select pg_reload_conf();"
        yield topic.warn(f"as a standby it keeps no logical slot in sync: {what}", f"there: {alter}; {then}")


def _settings(settings: SyncSettings) -> Iterator[tuple[str, str]]:
    if not settings.syncs:
        yield "sync_replication_slots", "on"
    if not settings.feedback:
        yield "hot_standby_feedback", "on"
    if settings.wal_level != "logical":
        yield "wal_level", "logical"


def _upstream(topic: Topic, settings: SyncSettings, handled: bool) -> Iterator[Finding]:
    """What repmgr writes on a standby; a primary's is from the time when it was one."""
    conninfo = settings.conninfo
    if not settings.primary_slot:
        hint = "in repmgr.conf of every node: use_replication_slots=true; then on it: repmgr standby follow"
        yield topic.warn("it streams without a slot (primary_slot_name), so it keeps no logical slot in sync", hint)
    if conninfo.secret and not conninfo.dbname:
        what = "primary_conninfo names no database, and has a password, so it is not written again"
        yield topic.warn(
            what, "put the password into ~/.pgpass of PostgreSQL's user; then there: repmgr standby follow"
        )
    elif not conninfo.readable:
        yield topic.warn(
            "primary_conninfo cannot be read here", "psql 'CONNINFO' on this host shows what is wrong in it"
        )
    elif not conninfo.dbname:
        what = "primary_conninfo names no database, which the worker that keeps slots in sync logs in to"
        yield topic.warn(what, "repmgr-hooks reconcile" if handled else ROUTE)


def _waited_for(
    topic: Topic, node: NodeState, settings: SyncSettings, others: Mapping[int, SyncSettings]
) -> Iterator[Finding]:
    """``synchronized_standby_slots``: a logical walsender sends nothing that such a slot has not confirmed, also if
    there is none of that name (slot.c, StandbySlotsHaveCaughtup)."""
    if not settings.waited_for:
        what = "a subscriber may get what no standby has: after a failover it would miss rows"
        names = sorted({each.primary_slot for number, each in others.items() if number != node.node} - {""})
        hint = f"there: alter system set synchronized_standby_slots = '{', '.join(names)}'; select pg_reload_conf();"
        yield topic.warn(f"{what} (synchronized_standby_slots is empty)", hint)
        return
    if node.role == "standby" and settings.primary_slot in settings.waited_for:
        own = settings.primary_slot
        hint = f"there: take {own} out of synchronized_standby_slots, then select pg_reload_conf();"
        yield topic.fail(f"once promoted, logical replication waits for its own slot {own} without end", hint)
    for name in settings.waited_for if node.role == "primary" else ():
        found = node.slot(name)
        if found is None or not found.physical:
            what = f"logical replication waits for the slot {name}, which is not there (synchronized_standby_slots)"
            yield topic.fail(what, f"let its standby follow, or take {name} out there; then select pg_reload_conf();")
        elif found.active_pid is None:
            what = f"logical replication waits for the slot {name}, which nobody uses (synchronized_standby_slots)"
            yield topic.warn(what, f"start its standby, or take {name} out there; then select pg_reload_conf();")
