"""How long many clusters take until their ports are open, if no rule is there when the service starts: after a boot."""

from __future__ import annotations

import sqlite3
import time
from typing import Any

import yaml

from tests.bench.scale_failovers import JOURNAL, asked, with_ports_only
from tests.bench.worker import memory, processor_time
from tests.lab import Lab

LIMIT, EVERY = 600.0, 10.0
OPENED = """
select count(distinct cluster) from step join run on run.id = run
 where kind = 'open_port' and target = 'app' and error = ''
"""


def boot(lab: Lab, settings: dict[str, Any], config: str) -> None:
    """Start the service, and print how far it is."""
    clusters = {name: with_ports_only(cluster) for name, cluster in settings["clusters"].items()}
    lab.put(lab.gateway, config, yaml.safe_dump({**settings, "clusters": clusters}))
    lab.start_worker()
    begun, worker, opened = time.monotonic(), lab.daemons["worker"], 0
    while opened < len(clusters) and time.monotonic() < begun + LIMIT:
        time.sleep(EVERY)
        try:
            ((opened,),) = asked(lab.gateway.path(JOURNAL), OPENED)
        except sqlite3.Error:
            continue  # it is not there yet
        took, own = time.monotonic() - begun, processor_time(worker.pid)
        programs = processor_time(worker.pid, of_children=True)
        used = f"{own:.0f} s of processor time and {programs:.0f} s of programs"
        print(f"{took:5.0f} s: app port of {opened} open, {memory(worker.pid):.0f} MiB, {used}", flush=True)
    worker.terminate()
    worker.wait(150)
