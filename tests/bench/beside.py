"""One failover, seen by several clients side by side: ``python -m tests.bench.beside SIDE FAULT WAY...``.

Builds a fresh lab in a box of its own, breaks db1, and prints as JSON when each client could write again. All clients
run on the application's host and write every 100 ms; they differ in the way that they take to the primary.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass

from tests.bench.measure import (
    CAP_STOPPED,
    CAP_UNPLUGGED,
    HERE,
    archive_some_wal,
    first_opening,
    probes,
    promotion,
    put_to_work,
    show_logs,
    since,
    start_watching,
)
from tests.lab import ADDRESSES, DATA, Client, Failed, Lab, wait_for
from tests.lab.contain import contain

CRON_MINUTE = 60

# With the synchronous_standby_names of config/ a commit on the new primary waits until Barman streams from it, whatever
# the client's way. The ways are compared without that; one client shows what it adds.
LOCAL = "options='-c synchronous_commit=local'"
HAPROXY = f"host={ADDRESSES['gateway']} port=54323"
STRAIGHT = f"host={ADDRESSES['db1']},{ADDRESSES['db2']} port=5432 target_session_attrs=read-write"
# As config/repmgr-db1.conf has them.
TIMEOUTS = "keepalives_idle=5 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=10000"
WAYS = {
    "ours": f"host={ADDRESSES['gateway']} port=54322 {LOCAL}",
    "haproxy": f"{HAPROXY} {LOCAL}",
    "libpq": f"{STRAIGHT} {LOCAL}",
    "timeouts": f"{STRAIGHT} {LOCAL} {TIMEOUTS}",
    "synchronous": f"{STRAIGHT} {TIMEOUTS}",
}


@dataclass(frozen=True)
class Failover:
    """What one failover looked like; times in seconds, None where it was not seen before the cap."""

    side: str
    fault: str
    promotion: float | None
    """Since the fault."""
    promotion_to_port: float | None
    steps: list[tuple[str, float, float]]
    """Ours after the promotion, as the journal has them: what, when it began since the promotion, how long it took."""
    outages: dict[str, float | None]
    """For each way, from the fault to the end of the first write after it."""
    load: float
    """The machine's load, average of a minute, when db1 broke."""


def measure(side: str, fault: str, ways: list[str]) -> Failover:
    """Build a lab, break db1, and return what the clients saw."""
    lab = Lab()
    put_to_work(lab, side, random.uniform(0, CRON_MINUTE))
    open_the_other_ways(lab)
    clients = {way: lab.start_client(name=way, way=WAYS[way]) for way in ways}
    archive_some_wal(lab)
    start_watching(lab)
    time.sleep(2)
    load = os.getloadavg()[0]
    begun = time.time()
    if fault == "stopped":
        lab.db1.pg_ctl("stop", "-m", "immediate")
    else:
        lab.unplug(lab.db1)
    cap = begun + (CAP_STOPPED if fault == "stopped" else CAP_UNPLUGGED)
    outages = {way: since(begun, next_write(client, begun, cap)) for way, client in clients.items()}
    promoted = promotion(lab, begun)
    opened = first_opening(probes(lab), begun)
    steps = steps_since(lab, promoted) if side != "article" and promoted else []
    return Failover(side, fault, since(begun, promoted), since(promoted, opened), steps, outages, round(load, 2))


def steps_since(lab: Lab, promoted: float) -> list[tuple[str, float, float]]:
    """Return the steps of the first run after the promotion."""
    runs = json.loads(lab.gateway.hooks("history", "--json").stdout)
    found = [run["steps"] for run in runs if run["steps"] and run["steps"][0]["started"] > promoted]
    steps = found[0] if found else []
    return [
        (f"{step['kind']} {step['target']}", round(step["started"] - promoted, 3), round(step["duration"], 3))
        for step in steps
    ]


def open_the_other_ways(lab: Lab) -> None:
    """Let the application's host log in on the nodes, and start HAProxy and the agents that it asks."""
    python, agent = "/opt/repmgr-hooks/bin/python", (HERE / "role.py").read_text()
    for node in lab.databases:
        lab.append(node, f"{DATA}/pg_hba.conf", f"host app app {ADDRESSES['app']}/32 scram-sha-256\n")
        node.pg_ctl("reload")
        lab.daemons[f"role-{node.name}"] = node.start(python, "-c", agent, user="postgres", log="role")
    lab.put(lab.gateway, "/etc/haproxy/haproxy.cfg", (HERE / "haproxy.cfg").read_text())
    lab.daemons["haproxy"] = lab.gateway.start("haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg", log="haproxy")
    asked = ("psql", "-XAtq", f"{HAPROXY} user=app dbname=app connect_timeout=2", "-c", "select 1")
    wait_for(lambda: lab.app.result(*asked, user="postgres").returncode == 0, "a way through HAProxy", 20)


def next_write(client: Client, begun: float, cap: float) -> float | None:
    """Return when the client first wrote after the fault; None if it had not before ``cap``."""
    with suppress(Failed):
        return client.wait_for_write(begun + 1, max(cap - time.time(), 0.1)).ended
    return None


def main() -> None:
    contain([sys.executable, "-m", "tests.bench.beside", *sys.argv[1:]])
    side, fault, *ways = sys.argv[1:]
    try:
        print(json.dumps(asdict(measure(side, fault, ways))))
    except BaseException:
        show_logs()
        raise


if __name__ == "__main__":
    main()
