"""What the real programs make of the rules of a port for readers: equal shares; and they print what was written."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from repmgr_hooks.netfilter import backends
from repmgr_hooks.netfilter.backends import BACKENDS
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Readers
from tests.endtoend.conftest import needs_box
from tests.lab import must

HOST = "readers"
CLIENTS = 300
CONNECT = """
import json, select, socket, sys
gateway, *nodes = sys.argv[1:]
family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
listening = {socket.create_server((node, 5432), family=family): node for node in nodes}
counts = dict.fromkeys(nodes, 0)
for _ in range(int(sys.stdin.read())):
    with socket.create_connection((gateway, 54323), 10):
        (ready,), _, _ = select.select(listening, [], [], 10)
        ready.accept()[0].close()
        counts[listening[ready]] += 1
print(json.dumps(counts))
"""


@pytest.fixture
def host() -> Iterator[str]:
    """A network namespace with all addresses of a cluster on its loopback."""
    needs_box()
    must("ip", "netns", "add", HOST)
    try:
        must("ip", "-n", HOST, "link", "set", "lo", "up")
        for number in (11, 12, 13, 14, 20):
            must("ip", "-n", HOST, "addr", "add", f"10.0.0.{number}/32", "dev", "lo")
            must("ip", "-n", HOST, "addr", "add", f"fd00::{number}/128", "dev", "lo")
        yield HOST
    finally:
        must("ip", "netns", "del", HOST)


def run(words: tuple[str, ...], stdin: str = "") -> str:
    command = ("ip", "netns", "exec", HOST, *words)
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.parametrize("network", ["10.0.0.", "fd00::"])
@pytest.mark.parametrize("name", list(BACKENDS))
def test_equal_shares(host: str, name: str, network: str) -> None:
    cluster = Cluster(
        nodes={number: Node(f"{network}{10 + number}") for number in range(1, 5)},
        gateway=Gateway(f"{network}20", {"app": 54322, "readers": 54323}, backend=name),  # type: ignore[arg-type]
        name="main",
        readers={"readers": Readers(1)},
    )
    backend = BACKENDS[name]
    there = backend.parse("", cluster)
    run(backend.trying(cluster), backends.all_shares(cluster))
    listed = run(("nft", "list", "ruleset"))
    assert cluster.gateway.address not in listed, "it was tried, and not made"
    for nodes in ((2, 3, 4), (2, 4), (3,)):
        args = (["app"], 1, True, {"readers": nodes})
        run(backend.writing(cluster), backends.lead(cluster, there, *args))
        there = backend.parse(run(backend.reading(cluster)), cluster)
        assert backends.lead(cluster, there, *args) == "", "what is read back is what was meant"
        assert backends.spread_over(cluster, there) == {"readers": nodes}
        hosts = [cluster.nodes[node].host for node in nodes]
        counts = json.loads(run(("python3", "-c", CONNECT, cluster.gateway.address, *hosts), str(CLIENTS)))
        assert all(0.8 * CLIENTS <= number * len(nodes) <= 1.2 * CLIENTS for number in counts.values()), counts
