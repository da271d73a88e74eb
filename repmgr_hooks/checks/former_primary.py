"""Whether a former primary could be rewound, and what its node needs for that: found before it is one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from shlex import quote

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.former_primary import FormerPrimary
from repmgr_hooks.system.shell import Shell
from repmgr_hooks.system.steps import Host, Rows, Sql

LIMIT = 30.0
FUNCTIONS = (
    "pg_ls_dir(text,boolean,boolean)",
    "pg_stat_file(text,boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text,bigint,bigint,boolean)",
)
"""What pg_rewind calls on the primary (libpq_source.c); postgresql.org/docs names them as what its role needs."""
REWIND = f"""
select current_setting('data_directory'), current_setting('full_page_writes') = 'on',
       current_setting('wal_log_hints') = 'on' or current_setting('data_checksums') = 'on',
       {" and ".join(f"has_function_privilege('{function}', 'execute')" for function in FUNCTIONS)}
"""
NEEDED = ("repmgr", "flock", "psql", "pgrep", "pg_controldata")
# PGDG's and Debian's places of what is not on PATH, as the scripts have them (former_primary/scripts.py).
NODE = """
version=$(cat PG_VERSION); PATH=$PATH:/usr/lib/postgresql/$version/bin:/usr/pgsql-$version/bin
for name in {needed}; do command -v $name >/dev/null || echo "no $name"; done
mkdir -p -m 700 {area} && test -w {area} || echo "cannot write into {area}"
PGCONNECT_TIMEOUT=10 psql -XAtqw -d {primary} -c 'select 1' >/dev/null
"""


def look(cluster: Cluster, decision: PrimaryDecision | None, host: Host) -> Iterator[Finding]:
    """Look at each node; nothing without the section ``former_primary``."""
    settings = cluster.former_primary
    if settings is None or decision is None or decision.primary is None:
        return
    nodes = [state.node for state in decision.states if state.reachable and not state.witness]
    answers = host.fetch_each([Sql(node, REWIND) for node in nodes], cluster.postgres.timeout)
    for node, answer in sorted(answers.items()):
        topic = Topic("former_primary.rewind", f"{cluster.name} node {node}")
        try:
            if isinstance(answer, OperationFailed):
                raise answer
            if settings.rejoin:
                yield _rewind(topic, cluster, node, answer)
            if cluster.nodes[node].shell:
                yield _node(cluster, settings, node, decision.primary, str(answer[0][0]), host)
        except OperationFailed as error:
            yield topic.fail(str(error), error.hint)


def shared_hosts(clusters: Mapping[str, Cluster]) -> Iterator[Finding]:
    """Name the hosts that a program would switch off under a node of another cluster; within one it is refused."""
    for name, cluster in clusters.items():
        program = cluster.former_primary.fence.program if cluster.former_primary else ()
        others = {node.host: other for other in clusters if other != name for node in clusters[other].nodes.values()}
        for host in sorted({node.host for node in cluster.nodes.values()} & others.keys()) if program else ():
            what = f"{program[0]} would switch off {host}, where a node of cluster {others[host]} is too"
            hint = f"config.yaml: clusters.{name}.former_primary.fence: take 'program' out"
            yield Topic("former_primary.fence", f"{name} {host}").warn(what, hint)


def _rewind(topic: Topic, cluster: Cluster, node: int, answer: Rows) -> Finding:
    with answer_of(node):
        ((_, whole_pages, hints, may),) = answer
    if not whole_pages:
        return topic.fail("full_page_writes is off: pg_rewind cannot be used", "set full_page_writes = on")
    if not hints:
        what = "neither wal_log_hints nor data checksums are on: pg_rewind cannot be used"
        return topic.fail(what, "set wal_log_hints = on, and restart it")
    if not may:
        role = cluster.postgres.user
        grants = "; ".join(f"grant execute on function {function} to {role}" for function in FUNCTIONS)
        return topic.fail(f"{role} may not do what pg_rewind does on the primary", f"as a superuser there: {grants}")
    return topic.ok("pg_rewind could make it a standby again")


def _node(cluster: Cluster, settings: FormerPrimary, node: int, primary: int, directory: str, host: Host) -> Finding:
    topic = Topic("former_primary.node", f"{cluster.name} node {node}")
    needed = NODE.format(
        needed=" ".join(NEEDED),
        area=quote(settings.area(cluster.name, node, directory)),
        primary=quote(cluster.upstream(primary)),
    )
    ran = Shell(cluster.nodes[node].shell, directory, host, LIMIT).run(needed)
    if ran.code or ran.said:
        hint = "install what is missing; former_primary.directory; a password for the primary in its own .pgpass"
        return topic.fail(f"it could not be stopped and rejoined: {ran.said or ran.why}", hint)
    return topic.ok("it could be stopped, its WAL kept, and it reaches the primary")
