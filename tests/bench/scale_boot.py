"""How long many clusters take until clients get through, if no rule is there when the service starts: after a boot."""

from __future__ import annotations

import time
from typing import Any

import yaml

from tests.bench.scale_failovers import with_ports_only
from tests.bench.worker import memory, processor_time
from tests.lab import PYTHON, Lab

LIMIT, EVERY = 600.0, 10.0
KNOCK = """
import socket, sys
through, address = 0, sys.argv[1]
for port in sys.argv[2:]:
    with socket.socket() as knocking:
        knocking.settimeout(1)
        through += knocking.connect_ex((address, int(port))) == 0
print(through)
"""
"""How many of these ports lead to a PostgreSQL: the journal may be too busy to be told what was opened."""


def boot(lab: Lab, settings: dict[str, Any], config: str) -> None:
    """Start the service, and print how far it is: the app port of each cluster, and when all have that, all ports."""
    clusters = {name: with_ports_only(cluster) for name, cluster in settings["clusters"].items()}
    lab.put(lab.gateway, config, yaml.safe_dump({**settings, "clusters": clusters}))
    ports = [cluster["gateway"]["ports"] for cluster in clusters.values()]
    lab.start_worker()
    begun, worker = time.monotonic(), lab.daemons["worker"]
    apps, every = [each["app"] for each in ports], [number for each in ports for number in each.values()]
    for which, numbers in (("app ports", apps), ("ports", every)):
        through = 0
        while through < len(numbers) and time.monotonic() < begun + LIMIT:
            time.sleep(EVERY)
            through = int(lab.app.run(PYTHON, "-c", KNOCK, lab.gateway.address, *map(str, numbers), limit=150))
            took, own = time.monotonic() - begun, processor_time(worker.pid)
            programs = processor_time(worker.pid, of_children=True)
            used = f"{memory(worker.pid):.0f} MiB, {own:.0f} s of processor time and {programs:.0f} s of programs"
            print(f"{took:5.0f} s: clients get through {through} of {len(numbers)} {which}, {used}", flush=True)
    worker.terminate()
    worker.wait(150)
