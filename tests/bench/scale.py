"""What many clusters cost one gateway, beside one: quiet looks, memory, ``status``, the start, failovers, a boot.

Run as root from the repository: ``.venv/bin/python -m tests.bench.scale [--clusters N] [--ports P] [--seconds S]
[--only boot|quiet|failovers]``. The clusters share three real nodes, by addresses of their own, and Barman; see
``tick.py``, ``scale_failovers.py`` and ``scale_boot.py``. Each has ``P`` ports.
"""

from __future__ import annotations

import argparse
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import yaml

from repmgr_hooks import config
from repmgr_hooks.netfilter import backends, iptables
from repmgr_hooks.service.turns import turns_of
from tests.bench.scale_boot import boot
from tests.bench.scale_failovers import Failovers, fail_over, start_quiet_cluster
from tests.bench.tick import CONFIG, SETTLED, give_addresses, many
from tests.bench.worker import memory, processor_time
from tests.lab import PYTHON, RUNTIME, Lab, wait_for
from tests.lab.contain import contain
from tests.lab.versions import DATA

ROOM = "max_connections = 2000\nmax_wal_senders = 40\nmax_replication_slots = 40\n"
MOVING, AT_ONCE = 10, 2
LIMIT, STOP_LIMIT = 600.0, 150.0
"""Seconds for what is waited for: so long on a machine that is busy otherwise, too."""
FIRST_LOOK, STATUS, SHARE, MEMORY = 10.0, 3.0, 0.05, 200.0
FOUND = "as the service found them"
"""What ``status`` says of a cluster of which it has taken over what the service has just found to be well."""
REMEMBER = """
import sqlite3, sys
with sqlite3.connect("/var/lib/repmgr-hooks/journal.db", timeout=60) as db:
    for table in ("run", "role", "branch"):
        columns = [name for _, name, *_ in db.execute(f"pragma table_info({table})") if name not in ("id", "cluster")]
        named = ", ".join(f'"{name}"' for name in columns)
        for cluster in sys.argv[1:]:
            copied = f"insert into {table} (cluster, {named}) select ?, {named} from {table} where cluster = 'main'"
            db.execute(copied, (cluster,))
"""


@dataclass(frozen=True)
class Figures:
    """What so many clusters cost."""

    clusters: int
    first_look: float
    share: float
    programs: float
    """The share of what it has started."""
    memory: float
    status: float
    status_processor: float
    """Seconds of it that ``status`` has used, with all that it has started."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale")
    parser.add_argument("--clusters", type=int, default=100)
    parser.add_argument("--ports", type=int, default=10, help="of each cluster, Barman's among them")
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--only", choices=["quiet", "failovers", "boot"])
    arguments = parser.parse_args()
    contain([sys.executable, "-m", "tests.bench.scale", *sys.argv[1:]])
    if arguments.only in (None, "boot"):
        with laboratory(arguments.clusters, arguments.ports) as (lab, settings):
            boot(lab, settings, CONFIG)
    if arguments.only in (None, "quiet"):
        with laboratory(arguments.clusters, arguments.ports) as (lab, settings):
            alone = {**settings, "clusters": {"main": settings["clusters"]["main"]}}
            found = [measured(lab, chosen, arguments.seconds) for chosen in (alone, settings)]
            say(table(found, arguments.ports, arguments.seconds))
    if arguments.only in (None, "failovers"):
        failovers = []
        for clusters, moving in ((1, 1), (arguments.clusters, 1), (arguments.clusters, MOVING)):
            with laboratory(clusters, arguments.ports, moving) as (lab, settings):
                failovers.append(fail_over(lab, settings, moving, CONFIG, lead_ports))
                say(failover_line(failovers[-1]))
        say(failover_table(failovers))


@contextmanager
def laboratory(clusters: int, ports: int, moving: int = 0) -> Iterator[tuple[Lab, dict[str, Any]]]:
    """Build the nodes and the settings of so many clusters; if some move, the others have a second PostgreSQL."""
    begun = time.monotonic()
    with Lab(nodes=3) as lab:
        lab.build()
        make_room(lab)
        if clusters > moving > 0:
            start_quiet_cluster(lab)
        if moving:
            lab.start_repmgrd()
        else:  # which would promote, if we kept the machine too busy
            lab.start_passive_repmgrd()
        # A bare "on" is true in YAML 1.1.
        settings = yaml.safe_load(re.sub(r"\bon:", "'on':", lab.gateway.path(CONFIG).read_text()))
        one = with_ports(settings["clusters"]["main"], ports)
        settings["clusters"] = many(one, clusters)
        give_addresses(lab, settings["clusters"])
        say(f"{clusters} clusters: the nodes are there after {time.monotonic() - begun:.0f} s")
        yield lab, settings


def make_room(lab: Lab) -> None:
    """Let each node take as many connections as clusters have; standbys last (hot standby, 27.4.3)."""
    for host in lab.databases:
        lab.append(host, f"{DATA}/postgresql.conf", ROOM)
        host.pg_ctl("restart")


def with_ports(cluster: dict[str, Any], count: int) -> dict[str, Any]:
    """Return the cluster with so many ports; those beside the shipped two open where the app port does."""
    more = {f"app{number}": 54321 + number for number in range(2, count)}
    gateway = {**cluster["gateway"], "ports": {**cluster["gateway"]["ports"], **more}}
    first, *others = cluster["routes"]
    opened = [{"firewall": {"open": name, "fail_open_after": 120}} for name in more]
    # Once after each failover, and for hours of a hundred; this is about the looks.
    barman = {**cluster["barman"], "check_after_failover": False}
    return {
        **cluster,
        "gateway": gateway,
        "barman": barman,
        "routes": [{**first, "do": [*first["do"], *opened]}, *others],
    }


def measured(lab: Lab, settings: dict[str, Any], seconds: float) -> Figures:
    """Measure a service that looks after these clusters, all being as it should be."""
    lab.put(lab.gateway, CONFIG, yaml.safe_dump(settings))
    names = list(settings["clusters"])
    result = lab.gateway.hooks("reconcile", "--cluster", "main")
    assert result.returncode == 0, result.stdout + result.stderr
    lead_ports(lab)
    remember(lab, names[1:])
    begun = time.time()
    lab.start_worker()
    wait_for(lambda: all(looked_at(name) > begun for name in names), "the first look at all", LIMIT, every=0.05)
    first_look = time.time() - begun
    say(f"{len(names)} clusters: the first look at all after {first_look:.1f} s")
    process = lab.daemons["worker"]
    time.sleep(SETTLED + turns_of(len(names) - 1, len(names)).clients)
    before, children = processor_time(process.pid), processor_time(process.pid, of_children=True)
    time.sleep(seconds)
    share = (processor_time(process.pid) - before) / seconds
    programs = (processor_time(process.pid, of_children=True) - children) / seconds
    resident = memory(process.pid)
    say(f"{len(names)} clusters: {100 * share:.2f} % of a core, {100 * programs:.2f} % programs, {resident:.0f} MiB")
    begun, used = time.monotonic(), of_ended_children()
    said = lab.gateway.hooks("status", limit=LIMIT)
    status, status_processor = time.monotonic() - begun, of_ended_children() - used
    taken = f"{said.stdout.count(FOUND)} taken over, exit code {said.returncode}"
    used_by_status = f"{status_processor:.1f} s of processor time"
    say(f"{len(names)} clusters: status of all after {status:.1f} s, {used_by_status}; {taken}")
    process.terminate()
    process.wait(STOP_LIMIT)
    return Figures(len(names), first_look, share, programs, resident, status, status_processor)


def say(text: str) -> None:
    """Print a figure when it is known: what comes after it may take long, or fail."""
    print(text, flush=True)


def of_ended_children() -> float:
    """Return the processor time of all that we have started and that has ended, without daemons, which go on."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def lead_ports(lab: Lab) -> None:
    """Lead the ports of all clusters to node 1, in one change: a hundred runs would take minutes to do so."""
    clusters = [managed.cluster for managed in config.load(lab.gateway.path(CONFIG)).clusters.values()]
    changes = [
        backends.lead(cluster, iptables.parse("", cluster), set(cluster.gateway.ports), 1, True)
        for cluster in clusters
        if cluster.name != "main"
    ]
    lab.gateway.run("iptables-restore", "--noflush", "--wait", "5", stdin="".join(changes))


def remember(lab: Lab, names: list[str]) -> None:
    """Let the journal have of each cluster what it has of the first, whose ports were led by a run."""
    lab.gateway.run(PYTHON, "-c", REMEMBER, *names, user="barman")


def looked_at(name: str) -> float:
    """When the service has shown what it saw of a cluster; 0: not yet."""
    try:
        return (RUNTIME / f"cluster-{name}.json").stat().st_ctime
    except FileNotFoundError:
        return 0.0


def failover_table(found: list[Failovers]) -> str:
    """Return how long each took."""
    alone, one, ten = (each.last for each in found)
    lines = ["from the promotion to the last open app port, db1 stopped, gate at archived"]
    lines += map(failover_line, found)
    good = ten < AT_ONCE * alone
    lines.append(f"  one of many: {one / alone:.2f} x one alone; ten at once: {ten / alone:.2f} x")
    return "\n".join([*lines, f"  {'PASS' if good else 'FAIL'}  ten at once within {AT_ONCE} x"])


def failover_line(each: Failovers) -> str:
    """Return how long one took."""
    spread = f"first {each.opened[0]:.2f} s, last {each.last:.2f} s, {each.processor:.1f} s of processor time"
    return f"  {len(each.opened):3} of {each.clusters:3} clusters: {spread}"


def table(found: list[Figures], ports: int, seconds: float) -> str:
    """Return the figures side by side."""
    last = found[-1]
    lines = [
        f"clusters of 3 nodes and {ports} ports, a look every 5 s, a probe of each port every 30 s; {seconds:.0f} s"
    ]
    lines += [f"{'':44}" + "".join(f"{figures.clusters:>10}" for figures in found)]
    rows = {
        f"from the start to the first look at all, s (< {FIRST_LOOK:.0f})": [f.first_look for f in found],
        f"quiet: % of a core (< {100 * SHARE:.0f})": [100 * f.share for f in found],
        "quiet: % of a core, programs it starts": [100 * f.programs for f in found],
        f"resident memory, MiB (< {MEMORY:.0f})": [f.memory for f in found],
        f"status of all, s (< {STATUS:.0f})": [f.status for f in found],
        "status of all, s of processor time": [f.status_processor for f in found],
    }
    lines += [f"{name:44}" + "".join(f"{value:10.2f}" for value in values) for name, values in rows.items()]
    good = (last.first_look < FIRST_LOOK, last.share < SHARE, last.memory < MEMORY, last.status < STATUS)
    return "\n".join([*lines, f"  {'PASS' if all(good) else 'FAIL'}"])


if __name__ == "__main__":
    main()
