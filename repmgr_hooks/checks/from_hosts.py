"""Events that come from the database hosts, where repmgrd runs there: whether they arrive, and whose clock is off."""

from __future__ import annotations

import json
from collections.abc import Iterator

from repmgr_hooks import clock
from repmgr_hooks.catalogue import REHEARSAL
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.hosts import HostRow, clocks_off, last_heard
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.system.steps import Host, Program

LIMIT = 120.0
ARRIVAL = 10.0
LOOK_EVERY = 0.1
# From a package it is in /usr/bin, whatever ours is from.
THERE = "PATH=/usr/local/bin:/usr/bin:$PATH repmgr-hooks check --end-to-end --json"


def clocks(managed: ManagedCluster, heard: list[HostRow]) -> Iterator[Finding]:
    """Compare the clocks of the hosts that hand events over with ours."""
    topic, wrong = Topic("hook.clock", managed.cluster.name), list(clocks_off(heard))
    yield from (topic.warn(str(problem), problem.hint) for problem in wrong)
    if heard and not wrong:
        yield topic.ok("the clocks of the hosts that hand events over are right")


def look(managed: ManagedCluster, host: Host, journal: Journal | None) -> Iterator[Finding]:
    """Let each host that has a shell, and has handed events over, send one; see what arrives."""
    heard = {row.node for row in last_heard(journal, managed.cluster.name)} if journal else set()
    for number, node in managed.cluster.nodes.items():
        if journal and node.shell and number in heard:
            yield _sent(number, node.shell, managed, host, journal)


def _sent(number: int, shell: tuple[str, ...], managed: ManagedCluster, host: Host, journal: Journal) -> Finding:
    topic, moment = Topic("hook.arrived", f"{managed.cluster.name} node {number}"), clock.wall()
    hint = "run 'repmgr-hooks check --end-to-end' as root on its host"
    try:
        # With "sh", as everywhere: a login shell would be greeted with the message of the day.
        said = host.run(Program((*shell, "sh"), stdin=f"{THERE} || :\n"), LIMIT)
        wrong = [each["message"] for each in json.loads(said) if each["level"] == "FAIL"]
    except (OperationFailed, ValueError, TypeError, KeyError) as error:
        return topic.fail(f"the check on its host cannot be run: {error}", hint)
    if wrong:
        return topic.fail("; ".join(map(str, wrong)), hint)
    end = host.now() + ARRIVAL
    while not (row := _arrived(number, moment, managed, journal)):
        if host.now() >= end:
            return topic.fail(f"no event of its host has arrived within {ARRIVAL:.0f} s", hint)
        host.sleep(LOOK_EVERY)
    return topic.ok(f"sent on its host, arrived whole: {row}")


def _arrived(number: int, since: float, managed: ManagedCluster, journal: Journal) -> HostRow | None:
    rows = last_heard(journal, managed.cluster.name)
    return next((r for r in rows if (r.node, r.event) == (number, REHEARSAL) and r.received >= since - ARRIVAL), None)
