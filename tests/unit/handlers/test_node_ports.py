"""Each node may have a port of its own, and two may be on one host: what is led, cut and closed is one of them alone.

In this cluster node 2 is on node 1's host, and node 3's port is like neither of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster import readers
from repmgr_hooks.cluster.decide import ClusterState, decide
from repmgr_hooks.cluster.observe import Slot, observe
from repmgr_hooks.cluster.probe import probe
from repmgr_hooks.handlers import firewall
from repmgr_hooks.handlers.firewall import Config
from repmgr_hooks.netfilter import backends
from repmgr_hooks.netfilter.our_rules import OurRules
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.service.seen import seen_of
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Readers
from repmgr_hooks.settings.endpoint import Endpoint
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.steps import Step
from tests.fake import Connection, FakeHost, FakeNode, NatTable
from tests.fake_nft import NftTables

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"].cluster
APP, READERS = 54322, 54323
KINDS = [(backend, six) for backend in backends.BACKENDS for six in (False, True)]


def cluster_of(backend: str = "iptables", six: bool = False) -> Cluster:
    base = "fd00::" if six else "10.0.0."
    nodes = {1: Node(f"{base}11"), 2: Node(f"{base}11", port=5433), 3: Node(f"{base}13", port=6000)}
    gateway = replace(MAIN.gateway, address=f"{base}20", backend=backend)
    return replace(MAIN, nodes=nodes, gateway=gateway)


class Kernel:
    """What a packet meets after each change; ``ours`` is what we read of it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster, self.nat, self.nft = cluster, NatTable(), NftTables()

    @property
    def ours(self) -> OurRules:
        backend, gateway = backends.chosen(self.cluster), self.cluster.gateway
        if gateway.backend == "iptables":
            return backend.parse(self.nat.save(), self.cluster)
        return backend.parse(self.nft.list(*backend.table(self.cluster)) or "", self.cluster)

    def take(self, change: str) -> None:
        (self.nat.restore if self.cluster.gateway.backend == "iptables" else self.nft.take)(change)

    def reached(self, port: int) -> str | None:
        address = self.cluster.gateway.address
        return self.nat.reached(address, port) or self.nft.reached(address, port)

    def source_seen_by(self, node: int) -> str | None:
        place = self.cluster.endpoint(node)
        return self.nat.source_seen_by(*place) or self.nft.source_seen_by(*place)


@pytest.mark.parametrize(("backend", "six"), KINDS)
def test_a_port_leads_to_one_of_two_on_a_host_and_to_the_other(backend: str, six: bool) -> None:
    cluster = cluster_of(backend, six)
    kernel = Kernel(cluster)
    for primary in (1, 2, 3, 2, 1):
        kernel.take(backends.lead(cluster, kernel.ours, ["barman", "app"], primary, True))
        assert kernel.reached(54321) == kernel.reached(APP) == str(cluster.endpoint(primary))
        assert backends.leads_to(cluster, kernel.ours) == {"barman": primary, "app": primary}
        assert {node for node in cluster.nodes if kernel.source_seen_by(node)} == {primary}
        assert backends.lead(cluster, kernel.ours, ["barman", "app"], primary, True) == "", "nothing is left to do"


@pytest.mark.parametrize(("backend", "six"), KINDS)
def test_readers_are_shared_between_two_on_a_host(backend: str, six: bool) -> None:
    cluster = cluster_of(backend, six)
    ports = {**cluster.gateway.ports, "readers": READERS}
    cluster = replace(cluster, gateway=replace(cluster.gateway, ports=ports), readers={"readers": Readers(1)})
    kernel = Kernel(cluster)
    kernel.take(backends.lead(cluster, kernel.ours, ["app"], 3, True, {"readers": (1, 2)}))
    assert backends.spread_over(cluster, kernel.ours) == {"readers": (1, 2)}
    assert all(kernel.source_seen_by(node) for node in cluster.nodes)
    kernel.take(backends.close(cluster, kernel.ours, (), (1,)))
    assert backends.spread_over(cluster, kernel.ours) == {"readers": (2,)}
    assert kernel.reached(APP) == str(cluster.endpoint(3))


@pytest.mark.parametrize(("backend", "six"), KINDS)
def test_a_stale_primary_is_shut_out_and_not_its_neighbour(backend: str, six: bool) -> None:
    cluster = cluster_of(backend, six)
    kernel = Kernel(cluster)
    kernel.take(backends.lead(cluster, kernel.ours, ["barman", "app"], 2, True))
    assert backends.close(cluster, kernel.ours, (), (1,)) == ""
    kernel.take(backends.close(cluster, kernel.ours, (), (2,)))
    assert (kernel.reached(54321), kernel.reached(APP)) == (None, None)


@pytest.mark.parametrize(("backend", "six"), KINDS)
def test_where_a_stale_primary_may_have_listened_before_nobody_is_led(backend: str, six: bool) -> None:
    """Its port has been changed in the configuration since; of a node's neighbour that says nothing."""
    cluster = cluster_of(backend, six)
    kernel = Kernel(cluster)
    before = replace(cluster, nodes={**cluster.nodes, 2: replace(cluster.nodes[2], port=5434)})
    kernel.take(backends.lead(before, kernel.ours, ["app"], 2, True))
    assert backends.leads_to(cluster, kernel.ours)["app"] is None
    assert backends.close(cluster, kernel.ours, (), (3,)) == ""
    kernel.take(backends.close(cluster, kernel.ours, (), (2,)))
    assert kernel.reached(APP) is None


def test_a_port_of_its_own_that_is_the_same_changes_no_rule() -> None:
    for backend, six in KINDS:
        plain = replace(cluster_of(backend, six), nodes={1: Node("10.0.0.11"), 2: Node("10.0.0.12")})
        kernel = Kernel(plain)
        kernel.take(backends.lead(plain, kernel.ours, ["app"], 1, True))
        named = replace(plain, nodes={n: replace(node, port=5432) for n, node in plain.nodes.items()})
        assert backends.lead(named, kernel.ours, ["app"], 1, True) == ""
        moved = replace(plain, nodes={**plain.nodes, 2: Node("10.0.0.12", port=5433)})
        assert backends.lead(moved, kernel.ours, ["app"], 1, True) == "", "the other node's port is none of it"


@pytest.mark.parametrize(
    ("rule", "to"),
    [
        ({"dnat": {"addr": "10.0.0.11"}}, Endpoint("10.0.0.11", APP)),
        ({"dnat": {"addr": "10.0.0.11", "port": {"range": [5432, 5440]}}}, Endpoint("10.0.0.11", 0)),
    ],
)
def test_a_rule_of_others_may_keep_the_port_or_name_several(rule: dict[str, object], to: Endpoint) -> None:
    cluster = cluster_of("nftables")
    kernel = Kernel(cluster)
    kernel.take(backends.lead(cluster, kernel.ours, [], 3, True))
    port = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": APP}}
    kernel.nft.tables["ip", "repmgr_hooks_main"]["repmgr_dnat"].rules.append({"expr": [port, rule]})
    assert kernel.ours.leading == {(APP, to)}
    assert backends.close(cluster, kernel.ours, (), (3,)) == ""
    assert backends.close(cluster, kernel.ours, (), (1,)) != "", "whichever of the two it leads to"


# -- the handler -------------------------------------------------------------------------------------------------------


class Two(FakeHost):
    """The same cluster, with node 1 as its primary: clients of the app port on node 1, and somebody's on node 2."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = cluster_of()
        self.nodes = {
            number: FakeNode(place.host, in_recovery=number != 1, port=place.port, upstream=1 if number > 1 else None)
            for number, place in ((number, self.cluster.endpoint(number)) for number in self.cluster.nodes)
        }
        self.connections = [self.connection(40001, 1), self.connection(40002, 2)]

    def connection(self, client_port: int, node: int, port: int = APP) -> Connection:
        flow = Flow("10.0.0.30", client_port, self.gateway, port)
        return Connection(flow, self.nodes[node].host, port=self.nodes[node].port)

    def decided(self, primary: int) -> ClusterState:
        states = {state.node: state for state in observe(self.cluster, self)}
        return ClusterState(self.cluster, primary, states[primary].timeline, states)

    def take(self, steps: Iterable[Step]) -> list[str]:
        done = list(steps)
        for step in done:
            apply(step, self)
        return [step.what for step in done]

    def run_to_the_end(self, primary: int) -> list[str]:
        said = []
        for _ in range(5):
            state = self.decided(primary)
            steps = firewall.plan(Config("app"), state, firewall.observe(Config("app"), state, self))
            if not steps:
                return said
            said += self.take(steps)
        raise AssertionError(f"it never ends: {said}")


def test_a_failover_on_one_host_cuts_the_old_primary_alone() -> None:
    host = Two()
    others, host.connections = host.connections[1], host.connections[:1]
    assert host.run_to_the_end(1) == []
    host.promote(2)
    host.connections.append(others)
    said = host.run_to_the_end(2)
    assert said[:2] == ["route port app to node 2 (10.0.0.11:5433)", "reset connections of port 54321 to 10.0.0.11"]
    assert host.leads_to(APP) == "10.0.0.11:5433"
    assert [connection.port for connection in host.connections] == [5433]
    assert [flow.client_port for flow in host.poked] == [40001]


def test_the_way_back_names_the_port_of_what_is_cut() -> None:
    host = Two()
    host.run_to_the_end(1)
    host.promote(2)
    host.run_to_the_end(2)
    host.connections = [host.connection(40003, 2)]
    host.nodes[1].timeline, host.nodes[2].in_recovery = 3, True
    said = host.run_to_the_end(1)
    assert said[0] == "route port app to node 1 (10.0.0.11)"
    assert "reset connections of port 54322 to 10.0.0.11:5433" in said
    assert host.connections == []


def test_alone_on_its_host_a_primary_keeps_its_clients_whatever_port_a_rule_of_others_has() -> None:
    host = Two()
    host.promote(3)
    host.run_to_the_end(3)
    host.connections = [Connection(Flow("10.0.0.30", 40009, host.gateway, APP), "10.0.0.13", port=6432)]
    assert host.run_to_the_end(3) == []
    host.connections = [Connection(Flow("10.0.0.30", 40009, host.gateway, APP), "10.0.0.11", port=6432)]
    assert host.run_to_the_end(3) == ["reset connections of port 54322 to 10.0.0.11:6432"]


def test_the_fence_hits_one_of_two() -> None:
    host = Two()
    said = host.take(firewall.fence(host.cluster, (2,), host))
    assert said == ["reset connections of port 54322 to 10.0.0.11:5433"]
    assert [connection.port for connection in host.connections] == [5432]
    assert host.leads_to(APP) == "10.0.0.11:5432"
    host.take(firewall.fence(host.cluster, (1,), host))
    host.take(firewall.fence(host.cluster, (1,), host))
    assert (host.leads_to(APP), host.connections) == (None, [])


# -- what is known of the nodes ----------------------------------------------------------------------------------------


def test_a_standby_follows_the_one_whose_port_it_names() -> None:
    host = Two()
    host.nodes[3].upstream = 2
    receivers = {node: state.receiver for node, state in host.decided(1).states.items()}
    assert {node: receiver.upstream for node, receiver in receivers.items() if receiver} == {2: 1, 3: 2}


def test_a_node_alone_on_its_host_may_be_known_by_any_port() -> None:
    cluster = cluster_of()
    assert [cluster.node_at(Endpoint("10.0.0.13", port)) for port in (6000, 5432, 0)] == [3, 3, 3]
    assert [cluster.node_at(Endpoint("10.0.0.11", port)) for port in (5432, 5433, 6000, 0)] == [1, 2, None, None]


def test_a_walsender_to_the_neighbour_is_not_taken_for_a_silent_node() -> None:
    """By the slots, where repmgr has made some; without them, an address may be either's."""
    host = Two()
    cluster = replace(host.cluster, readers={"readers": Readers(1 << 20)})
    host.nodes[2].host = host.nodes[3].host
    cluster = replace(cluster, nodes={**cluster.nodes, 2: replace(cluster.nodes[2], host="10.0.0.13")})
    (primary, *_) = observe(cluster, host)
    by_address = [sender.application for sender in readers.senders(3, [primary], cluster)]
    assert sorted(by_address) == ["db2", "db3"]
    pid = next(sender.pid for sender in primary.senders if sender.application == "db2")
    primary = replace(primary, slots=(Slot("repmgr_slot_2", True, pid, 1, "reserved"),))
    assert [sender.application for sender in readers.senders(3, [primary], cluster)] == ["db3"]
    assert [sender.application for sender in readers.senders(2, [primary], cluster)] == ["db2"]


def test_load_balancers_name_one_of_two_by_its_port() -> None:
    host = Two()
    seen = seen_of(decide(observe(host.cluster, host)), host.cluster, 5.0)
    found = {name: seen.node(name) for name in ("2", "10.0.0.11:5432", "10.0.0.11:5433", "10.0.0.13", "10.0.0.13:6000")}
    assert {name: node and node.node for name, node in found.items()} == {
        "2": 2,
        "10.0.0.11:5432": 1,
        "10.0.0.11:5433": 2,
        "10.0.0.13": 3,
        "10.0.0.13:6000": 3,
    }
    assert seen.node("10.0.0.11") is None, "which of the two, nobody said"


def test_a_probe_says_which_of_two_it_has_met() -> None:
    host = Two()
    host.run_to_the_end(1)
    (found,) = probe(host.cluster, ["app"], host)
    assert (found.node, found.writes) == (1, True)
    host.promote(2)
    host.nodes[1].in_recovery = True
    host.run_to_the_end(2)
    (found,) = probe(host.cluster, ["app"], host)
    assert (found.node, found.writes) == (2, True)


def test_each_node_is_reached_through_its_own_port() -> None:
    cluster = Cluster({1: Node("10.0.0.11"), 2: Node("10.0.0.11", port=5433)}, Gateway("10.0.0.20", {"app": APP}))
    assert [" port=5433 " in text for text in cluster.conninfos().values()] == [False, True]
    assert cluster.upstream(2) == "host=10.0.0.11 port=5433 user=repmgr dbname=repmgr"
