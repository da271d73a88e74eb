"""What a drill looks at beside the two switchovers: whether it can be done, and what it has left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from repmgr_hooks import clock
from repmgr_hooks.barman.deep import Effort
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.drill.client import Client
from repmgr_hooks.drill.facts import Sent, Step, Way, compared
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.reports import wal_check
from repmgr_hooks.reports.wal_check import WalCheck
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover.facts import Facts
from repmgr_hooks.switchover.on_node import repmgr_of
from repmgr_hooks.system.steps import Host, Program

NEWEST = Effort(newest=2**30, within=600.0)
ARCHIVE_LIMIT = 90.0
"""Seconds for Barman to have archived what it received: its cron comes once a minute."""
POLL = 5.0
CLIENT_LIMIT = 10.0
STEPS = """
select s.kind, s.target, s.what, s.started, s.duration, s.error
  from step s join run r on r.id = s.run where r.cluster = ? order by s.started
"""
ALERTS = "select severity, summary, deliveries from alert where cluster = ? and since >= ? order by since"


def hinders(seen: Facts, ways: Sequence[Way], host: Host) -> Iterator[Finding]:
    """Yield what is to be said of a drill besides a switchover: the way back, the client that writes."""
    limit, name = seen.cluster.flap_limit, seen.cluster.name
    if seen.changes + 2 > limit.changes:
        what = f"a drill changes the primary twice; it has changed {seen.changes} times in {limit.window} s"
        yield Finding("FAIL", what, f"wait {limit.window} s, or raise flap_limit", "drill.flap_limit", name)
    if seen.decision.primary is not None:
        yield _back(seen.cluster, seen.decision.primary, host)
    for way in ways:
        client = Client(way)
        error = client.transact(CLIENT_LIMIT).error
        client.close()
        if error:
            hint = f"its role is {seen.cluster.client.user!r} ('probe'); PgBouncer has to know it too" * way.pooled
            what = f"{way.name}: the client of the drill cannot write: {error}"
            yield Finding("FAIL", what, hint or "repmgr-hooks status", "drill.client", name)
        else:
            yield Finding("OK", f"{way.name}: the client of the drill writes", "", "drill.client", name)


def _back(cluster: Cluster, source: int, host: Host) -> Finding:
    """Judge the way back as far as that can be done before: repmgr's own rehearsal needs a standby there."""
    code, shell = "drill.back", cluster.nodes[source].shell
    if not shell:
        what = f"node {source} has no 'shell', so repmgr cannot be run there on the way back"
        return Finding("FAIL", what, "see nodes.N.shell in config.yaml", code, cluster.name)
    try:
        limit = cluster.postgres.timeout
        known = repmgr_files.identities(source, host, limit)
        if source not in known:
            return Finding(
                "FAIL", f"node {source} is not in repmgr.nodes", "repmgr primary register", code, cluster.name
            )
        repmgr_of(source, shell, known[source], host, limit)
        host.run(Program((*shell, "sh"), stdin=f"test -r {known[source].conf}\n"), limit + CLIENT_LIMIT)
    except OperationFailed as error:
        return Finding("FAIL", f"node {source}, on the way back: {error}", error.hint or "see nodes.N.shell", code)
    return Finding("OK", f"node {source} can be reached for the way back", "", code, cluster.name)


def archived(cluster: Cluster, host: Host, journal: Journal) -> WalCheck | None:
    """Follow the records of Barman's newest WAL, as soon as it is archived; None without Barman."""
    if cluster.barman is None:
        return None
    end = host.now() + ARCHIVE_LIMIT
    while True:
        found = wal_check.compared(cluster, host, journal, _silent, effort=NEWEST)
        if found.report.whole or host.now() >= end:
            break
        host.sleep(POLL)
    found.keep(journal, cluster.name, "newest", clock.wall())
    return found


def _silent(done: int, of: int) -> None:
    """It is one of many lines; nobody watches it."""


def steps(journal: Journal, cluster: str, begun: float) -> tuple[Step, ...]:
    """Return the steps of a drill beside their usual times. Raises OperationFailed."""
    return compared(journal.read(STEPS, cluster), begun)


def sent(journal: Journal, cluster: str, begun: float) -> tuple[Sent, ...]:
    """Return the alerts since then. Raises OperationFailed."""
    rows = journal.read(ALERTS, cluster, begun)
    return tuple(
        Sent(severity, summary, tuple(name for name, last in json.loads(deliveries).items() if last["said"]))
        for severity, summary, deliveries in rows
    )


def wait_until(ready: Callable[[], Sequence[Finding]], host: Host, limit: float) -> list[Finding]:
    """Wait until nothing hinders any more; return what does at the end."""
    end = host.now() + limit
    while (found := [each for each in ready() if each.level == "FAIL"]) and host.now() < end:
        host.sleep(POLL)
    return [replace(each, where="") for each in found]
