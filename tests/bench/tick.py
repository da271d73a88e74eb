"""What a quiet tick costs: the worker looks after ten clusters of three nodes, every 5 s and never, side by side.

Run as root from the repository: ``.venv/bin/python -m tests.bench.tick [--clusters N] [--seconds S]``. The clusters
share the three real nodes; each has its own ports, chains, connections and journal entries.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from typing import Any

import yaml

from tests.bench.worker import processor_time
from tests.lab import Lab
from tests.lab.contain import contain

CONFIG = "/etc/repmgr-hooks/config.yaml"
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
    # A bare "on" is true in YAML 1.1.
    settings = yaml.safe_load(re.sub(r"\bon:", "'on':", lab.gateway.path(CONFIG).read_text()))
    settings["clusters"] = many(settings["clusters"]["main"], arguments.clusters)
    ticking, resting = (measured(lab, {**settings, "monitor_interval": tick}, arguments.seconds) for tick in (TICK, 0))
    nodes = len(settings["clusters"]["c0"]["nodes"])
    print(f"{arguments.clusters} clusters of {nodes} nodes, {arguments.seconds:.0f} s, processor time of the worker")
    print(f"  tick {TICK} s  {100 * ticking:.2f} % of a core")
    print(f"  no tick   {100 * resting:.2f} % of a core")
    each = (ticking - resting) * TICK / arguments.clusters
    print(f"  one look at one cluster: {1000 * each:.1f} ms")
    print(f"  {'PASS' if ticking < LIMIT else 'FAIL'}  under 1 % of a core: {100 * ticking:.2f} %")


def many(cluster: dict[str, Any], count: int) -> dict[str, dict[str, Any]]:
    """Return the cluster so many times, with ports and chains of its own; the first keeps those that Barman uses."""
    gateway = cluster["gateway"]
    return {
        f"c{number}": {
            **cluster,
            "gateway": {
                **gateway,
                "ports": {name: port + 10 * number for name, port in gateway["ports"].items()},
                "chains": {"dnat": f"bench_dnat{number}", "snat": f"bench_snat{number}"},
            },
        }
        for number in range(count)
    }


def measured(lab: Lab, settings: dict[str, Any], seconds: float) -> float:
    """The share of a core that the worker uses while nothing happens, all being as it should be."""
    lab.put(lab.gateway, CONFIG, yaml.safe_dump(settings))
    for name in settings["clusters"]:
        result = lab.gateway.hooks("reconcile", "--cluster", name)
        assert result.returncode == 0, result.stdout + result.stderr
    lab.start_worker()
    process = lab.daemons["worker"]
    time.sleep(2 * TICK)
    begun = processor_time(process.pid)
    time.sleep(seconds)
    used = (processor_time(process.pid) - begun) / seconds
    process.terminate()
    process.wait(60)
    return used


if __name__ == "__main__":
    main()
