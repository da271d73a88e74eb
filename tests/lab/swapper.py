"""Leads a port of the gateway to one node after the other, with the handler's own look, plan and steps, and no cluster.

Run as ``swapper.py CONFIG PORT NODE ...`` on the gateway. A connection of the gateway's own is made each time between
the look and the swap, when the port is open. Prints one line a swap: the seconds since the epoch before it, right after
its transaction and at its end, the node, what the connection said, how that ended, and what is still missing.
"""

import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.config import load
from repmgr_hooks.handlers import firewall
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.host import LocalHost

PATIENCE, BRIEFLY = 100, 1
TRIES = 5
PAUSE = 0.3


def main(path: str, port: str, *nodes: str) -> None:
    cluster, host, config = load(Path(path)).clusters["main"].cluster, LocalHost({}), firewall.Config(port)
    for node in map(int, nodes):
        state = ClusterState(cluster, node, 1)
        seen = firewall.observe(config, state, host)
        late, said = connect(cluster.gateway.address, cluster.gateway.ports[port]), "-"
        if late:
            with suppress(OSError):
                late.settimeout(PATIENCE)
                said = late.recv(100).decode().strip()
        moments = [time.time()]
        for step in firewall.plan(config, state, seen):
            apply(step, host)
            moments.append(time.time())
        left = firewall.plan(config, state, firewall.observe(config, state, host))
        begun, swapped, ended = moments[0], moments[:2][-1], moments[-1]
        print(f"{begun:.4f} {swapped:.4f} {ended:.4f} {node} {said} {end(late)} {len(left)}", flush=True)
        time.sleep(PAUSE)


def connect(address: str, port: int) -> socket.socket | None:
    """Return a connection; None if the port is closed. From a port at which somebody was told just before, as
    netfilter/reset.py has it, one call is refused; the next one comes from another.
    """
    for _ in range(TRIES):
        with suppress(OSError):
            return socket.create_connection((address, port), BRIEFLY)
    return None


def end(connection: socket.socket | None) -> str:
    if connection is None:
        return "-"
    try:
        return "closed" if connection.recv(1) == b"" else "answered"
    except TimeoutError:
        return "hung"
    except OSError:
        return "reset"


if __name__ == "__main__":
    main(*sys.argv[1:])
