"""Failovers of one cluster, and of ten at once, among many: from the promotion to the open app port.

The clusters that fail over share the lab's real nodes, by addresses of their own, and its repmgrd; each has its own
rules, run, journal entries, and server of Barman's, with a slot, a stream and an archive. The others share a second
PostgreSQL on the same hosts, which goes on; Barman does not back that up, so their routes open ports only.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.bench.worker import processor_time
from tests.lab import PYTHON, Host, Lab, wait_for
from tests.lab.versions import DATA

QUIET, QUIET_PORT = f"{DATA}-quiet", 5433
JOURNAL = "/var/lib/repmgr-hooks/journal.db"
SERVER, SLOT, PORT = "main_backup", "barman", 54321
"""Of the first cluster, as the lab has them."""
WATCHER = (Path(__file__).parent / "watcher.py").read_text()
OPENED = """
select cluster, max(step.started + duration) from step join run on run.id = run
 where step.started > ? and kind = 'open_port' and target = 'app' and node = 2 and error = '' group by cluster
"""


@dataclass(frozen=True)
class Failovers:
    """Of so many clusters among so many: when each app port was open, in seconds since the promotion."""

    clusters: int
    opened: Sequence[float]
    processor: float
    """Seconds of it that the service has used until then, with all that it has started."""

    @property
    def last(self) -> float:
        """When all were open."""
        return self.opened[-1]


def start_quiet_cluster(lab: Lab) -> None:
    """Copy the three nodes, and let the copies run beside them."""
    for host in reversed(lab.databases):
        host.pg_ctl("stop")
    for host in lab.databases:
        host.run("cp", "-a", DATA, QUIET)
        lab.append(host, f"{QUIET}/postgresql.conf", f"port = {QUIET_PORT}\nsynchronous_standby_names = ''\n")
        if host is not lab.db1:
            follow = f"host={lab.db1.address} port={QUIET_PORT} user=repmgr application_name={host.name}"
            lab.append(host, f"{QUIET}/postgresql.auto.conf", f"primary_conninfo = '{follow}'\n")
        start(host)
    lab.start_databases()


def start(host: Host) -> None:
    """Start the copy on a host."""
    words = ("pg_ctl", "-D", QUIET, "-w", "-t", "120", "-l", f"{QUIET}/server.log", "start")
    host.run(*words, user="postgres", limit=150)


def with_ports_only(cluster: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster whose ports are opened, and nothing else is done."""
    route = cluster["routes"][0]
    opened = [action for action in route["do"] if "firewall" in action]
    without = {key: value for key, value in cluster.items() if key != "barman"}
    return {**without, "routes": [{**route, "do": opened}]}


def resting(cluster: dict[str, Any]) -> dict[str, Any]:
    """Return a cluster as one of the second PostgreSQL, of which only the ports are opened."""
    return {**with_ports_only(cluster), "postgres": {**cluster["postgres"], "port": QUIET_PORT}}


def with_server(lab: Lab, cluster: dict[str, Any], number: int) -> dict[str, Any]:
    """Return a cluster with a server of Barman's of its own, which streams through the cluster's own port."""
    text = lab.gateway.path(f"/etc/barman.d/{SERVER}.conf").read_text()
    own, slot = f"{SERVER}_{number}", f"{SLOT}_{number}"
    port = cluster["gateway"]["ports"]["barman"]
    for before, after in (
        (SERVER, own),
        (f"port={PORT}", f"port={port}"),
        (f"slot_name = {SLOT}", f"slot_name = {slot}"),
    ):
        assert before in text
        text = text.replace(before, after)
    lab.put(lab.gateway, f"/etc/barman.d/{own}.conf", text)
    return {**cluster, "barman": {**cluster["barman"], "server": own, "slot_name": slot, "command": ["barman"]}}


def fill_archives(lab: Lab, clusters: Sequence[dict[str, Any]]) -> None:
    """Wait for the stream of each, and let it archive something, as any has that has run for a while."""
    streams = "select count(*) from pg_stat_replication where application_name = 'barman_receive_wal'"
    wait_for(lambda: int(lab.db1.sql(streams)) == len(clusters), "the stream of each", 300, every=1)
    for cluster in clusters:
        words = ("barman", "switch-wal", "--force", "--archive", "--archive-timeout", "60", cluster["barman"]["server"])
        lab.gateway.run(*words, user="barman", limit=150)


def fail_over(lab: Lab, settings: dict[str, Any], moving: int, config: str, lead_ports: Any) -> Failovers:
    """Stop the primary of the first so many clusters."""
    names = list(settings["clusters"])
    chosen = {
        name: resting(cluster) if number >= moving else with_server(lab, cluster, number) if number else cluster
        for number, (name, cluster) in enumerate(settings["clusters"].items())
    }
    lab.put(lab.gateway, config, yaml.safe_dump({**settings, "clusters": chosen}))
    result = lab.gateway.hooks("reconcile", "--cluster", names[0])
    assert result.returncode == 0, result.stdout + result.stderr
    lead_ports(lab)
    # repmgrd's first events have begun one, and the service waits 80 s for it at most; of 100 clusters it takes longer.
    once = ("pgrep", "-f", "worker --once")
    wait_for(lambda: not lab.gateway.run(*once, check=False), "the worker of these events to end", 600, every=1)
    lab.start_worker()
    worker = lab.daemons["worker"]
    journal = lab.gateway.path(JOURNAL)
    known = "select count(distinct cluster) from role"
    wait_for(lambda: asked(journal, known)[0][0] == len(names), "each primary to be remembered", 300, every=0.5)
    fill_archives(lab, list(chosen.values())[:moving])
    time.sleep(20)  # until what begins with the service is over
    lab.db2.start(PYTHON, "-c", WATCHER, user="postgres", log="watcher")
    begun, fault = sum(used(worker.pid)), time.time()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: lab.db2.log("watcher").strip(), "the promotion", 120, every=0.1)
    promoted = float(lab.db2.log("watcher"))
    moved = lambda: dict(asked(journal, OPENED, fault))  # noqa: E731
    wait_for(lambda: len(moved()) >= moving, "the app ports of all to be open", 300, every=0.2)
    processor = sum(used(worker.pid)) - begun
    worker.terminate()
    worker.wait(150)
    return Failovers(len(names), sorted(moment - promoted for moment in moved().values()), processor)


def used(process: int) -> tuple[float, float]:
    """Return the processor time of a process, and that of what it has started."""
    return processor_time(process), processor_time(process, of_children=True)


def asked(journal: Path, question: str, *values: object) -> list[Any]:
    """Return what stands in the journal."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True, timeout=60)) as db:
        return db.execute(question, values).fetchall()
