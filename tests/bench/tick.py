"""What a quiet tick costs: the worker looks after ten clusters of three nodes, every 5 s and never, side by side.

Run as root from the repository: ``.venv/bin/python -m tests.bench.tick [--clusters N] [--seconds S]``. Each cluster has
addresses of its own on the three real nodes, and its own ports, chains, connections, probes and journal entries; the
repmgrd of each node runs, so that a look finds that a failover could happen.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import Any

import yaml

from tests.bench.worker import processor_time
from tests.lab import Lab, must
from tests.lab.contain import contain

CONFIG = "/etc/repmgr-hooks/config.yaml"
SETTLED = 60.0
"""Seconds after which the records of each archive have been followed, which happens once after a failover."""
TICK = 5
LIMIT = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.tick")
    parser.add_argument("--clusters", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=300.0, help="the rules are read every 300 s")
    arguments = parser.parse_args()
    contain([sys.executable, "-m", "tests.bench.tick", *sys.argv[1:]])
    lab = Lab(nodes=3)
    lab.build()
    lab.start_repmgrd()
    # A bare "on" is true in YAML 1.1.
    settings = yaml.safe_load(re.sub(r"\bon:", "'on':", lab.gateway.path(CONFIG).read_text()))
    settings["clusters"] = many(settings["clusters"]["main"], arguments.clusters)
    give_addresses(lab, settings["clusters"])
    ticking, resting = (measured(lab, {**settings, "monitor_interval": tick}, arguments.seconds) for tick in (TICK, 0))
    nodes = len(settings["clusters"]["main"]["nodes"])
    print(f"{arguments.clusters} clusters of {nodes} nodes, {arguments.seconds:.0f} s, processor time of the worker")
    print(f"  tick {TICK} s  {100 * ticking:.2f} % of a core")
    print(f"  no tick   {100 * resting:.2f} % of a core")
    each = (ticking - resting) * TICK / arguments.clusters
    print(f"  one look at one cluster: {1000 * each:.1f} ms")
    print(f"  {'PASS' if ticking < LIMIT else 'FAIL'}  under 1 % of a core: {100 * ticking:.2f} %")


def many(cluster: dict[str, Any], count: int) -> dict[str, dict[str, Any]]:
    """Return the cluster so many times, with nodes, ports and chains of its own, and a Barman by another command.

    The first is the cluster itself: it has the ports that Barman uses, and the name that repmgr's events have.
    """
    gateway = cluster["gateway"]
    return {
        "main" if number == 0 else f"c{number}": {
            **cluster,
            "nodes": {node: {"host": address(node, number)} for node in cluster["nodes"]},
            "gateway": {
                **gateway,
                "ports": {name: port + 10 * number for name, port in gateway["ports"].items()},
                "chains": {"dnat": f"bench_dnat{number}", "snat": f"bench_snat{number}"},
            },
            "barman": {**cluster["barman"], "command": ["env", f"CLUSTER={number}", "barman"]},
        }
        for number in range(count)
    }


def address(node: int, cluster: int) -> str:
    """Return the address of a node as one of a cluster; the first cluster has the nodes' own."""
    return f"10.1.{cluster}.{node}" if cluster else f"10.0.0.1{node}"


def give_addresses(lab: Lab, clusters: dict[str, dict[str, Any]]) -> None:
    """Let each node have the address that it has in each cluster."""
    must("ip", "-n", lab.gateway.name, "route", "add", "10.1.0.0/16", "dev", "eth0")
    for node, host in enumerate(lab.databases, 1):
        added = [f"address add {address(node, number)}/32 dev eth0\n" for number in range(1, len(clusters))]
        host.run("ip", "-batch", "-", stdin="".join(added))


def measured(lab: Lab, settings: dict[str, Any], seconds: float) -> float:
    """The share of a core that the worker uses while nothing happens, all being as it should be."""
    lab.put(lab.gateway, CONFIG, yaml.safe_dump(settings))
    for name in settings["clusters"]:
        result = lab.gateway.hooks("reconcile", "--cluster", name)
        assert result.returncode == 0, result.stdout + result.stderr
    lab.start_worker()
    process = lab.daemons["worker"]
    time.sleep(SETTLED)
    begun = processor_time(process.pid)
    time.sleep(seconds)
    used = (processor_time(process.pid) - begun) / seconds
    process.terminate()
    process.wait(60)
    return used


if __name__ == "__main__":
    main()
