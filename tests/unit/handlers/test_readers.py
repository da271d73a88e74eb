"""Ports for readers: which standbys they lead to, in what shares, who is reset, and what makes nothing flap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import observe
from repmgr_hooks.cluster.readers import Fitness, readings
from repmgr_hooks.handlers import firewall
from repmgr_hooks.handlers.firewall import Config
from repmgr_hooks.netfilter.backends import BACKENDS
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Readers
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.steps import Step
from tests.fake import Connection, FakeHost, FakeNode

MB = 1024 * 1024
READ, APP = 54323, 54322
MAIN = Cluster(
    nodes={1: Node("10.0.0.11"), 2: Node("10.0.0.12"), 3: Node("10.0.0.13")},
    gateway=Gateway("10.0.0.20", {"barman": 54321, "app": APP, "readers": READ}),
    name="main",
    readers={"readers": Readers(64 * MB)},
)
CONFIG = Config("readers", to="standbys")
OLD = LastKnownPrimary(1, 1, "", since=0.0)


class Made:
    """Three nodes and a gateway; ``act`` does what the action lacks, and says what that is."""

    def __init__(self, backend: str = "iptables", if_none: str = "primary") -> None:
        self.cluster = replace(
            MAIN,
            gateway=replace(MAIN.gateway, backend=backend),
            readers={"readers": Readers(64 * MB, if_none)},  # type: ignore[arg-type]
        )
        self.host = FakeHost()
        if backend == "nftables":
            self.host.serve_by_nft()
        self.host.nodes[3] = FakeNode("10.0.0.13")
        for number in (2, 3):
            self.host.nodes[number].upstream = 1
        self.primary, self.last_known = 1, OLD

    def state(self) -> ClusterState:
        states = {state.node: state for state in observe(self.cluster, self.host)}
        timeline = states[self.primary].timeline
        return ClusterState(self.cluster, self.primary, timeline, states, last_known=self.last_known)

    def missing(self, config: Config = CONFIG) -> list[Step]:
        state = self.state()
        return firewall.plan(config, state, firewall.observe(config, state, self.host))

    def act(self, config: Config = CONFIG) -> list[str]:
        """As ``make_true``: helpers are looked at once more."""
        done = []
        for _ in range(2):
            steps = self.missing(config)
            for step in steps:
                apply(step, self.host)
            done += [step.what for step in steps]
        assert self.missing(config) == []
        return done

    def spread(self) -> list[tuple[str, int]]:
        nft = self.host.nft.spread("10.0.0.20", READ)
        return [(to.removesuffix(":5432"), n) for to, n in nft or self.host.nat.spread("10.0.0.20", READ)]

    def read_on(self, number: int) -> None:
        """A reader connects to this node, and stays."""
        flow = Flow("10.0.0.30", 40000 + len(self.host.connections), self.host.gateway, READ)
        self.host.connections.append(Connection(flow, self.host.nodes[number].host))

    def fail_over(self) -> None:
        """Node 2 is the primary; node 3 does not follow it yet."""
        self.host.fail_over()
        self.host.nodes[2].upstream = self.host.nodes[3].upstream = None
        self.primary = 2

    def follow(self) -> None:
        """Node 3 follows node 2, since this moment."""
        node = self.host.nodes[3]
        node.upstream, node.timeline, node.streams_for = 2, self.host.nodes[2].timeline, 0.0


each = pytest.mark.parametrize("backend", list(BACKENDS))
TWO, THREE = "10.0.0.12", "10.0.0.13"


@each
def test_equal_shares_of_new_connections(backend: str) -> None:
    made = Made(backend)
    assert made.act() == ["route port readers to node 2 and node 3"]
    assert made.spread() == [(TWO, 2), (THREE, 1)]
    assert made.host.leads_to(APP) == "10.0.0.11:5432", "the other ports are as they were"
    assert [made.act(Config(port)) for port in ("barman", "app")] == [[], []]
    seen_by = made.host.nft if backend == "nftables" else made.host.nat
    assert [seen_by.source_seen_by(host, 5432) for host in ("10.0.0.11", TWO, THREE)] == ["10.0.0.20"] * 3
    made.host.nodes[4] = FakeNode("10.0.0.14", upstream=1)
    made.cluster = replace(made.cluster, nodes={**made.cluster.nodes, 4: Node("10.0.0.14")})
    made.act()
    assert made.spread() == [(TWO, 3), (THREE, 2), ("10.0.0.14", 1)]


def lags(node: FakeNode) -> None:
    node.unreplayed = 65 * MB


def is_paused(node: FakeNode) -> None:
    node.replay_paused = True


def receives_nothing(node: FakeNode) -> None:
    node.upstream = None


def is_on_another_timeline(node: FakeNode) -> None:
    node.timeline = 7


def dies(node: FakeNode) -> None:
    node.reachable, node.upstream = False, None


def leaves_recovery(node: FakeNode) -> None:
    node.in_recovery = False


@each
@pytest.mark.parametrize(
    ("happens", "fitness", "reset"),
    [
        (lags, Fitness.LAGS, False),
        (is_paused, Fitness.PAUSED, False),
        (receives_nothing, Fitness.NO_STREAM, False),
        (is_on_another_timeline, Fitness.ELSEWHERE, False),
        (dies, Fitness.GONE, True),
        (leaves_recovery, Fitness.STALE, True),
    ],
)
def test_who_gets_no_new_readers_and_who_keeps_those_he_has(
    backend: str, happens: Callable[[FakeNode], None], fitness: Fitness, reset: bool
) -> None:
    made = Made(backend)
    made.act()
    made.read_on(2)
    made.read_on(3)
    before = firewall.fingerprint(made.state(), made.host)
    happens(made.host.nodes[3])
    assert {r.node: r.fitness for r in readings(made.state(), "readers")}[3] is fitness
    assert firewall.fingerprint(made.state(), made.host) != before, "a look sees it without an event"
    assert made.act()[0] == "route port readers to node 2"
    assert made.spread() == [(TWO, 1)]
    assert [connection.host for connection in made.host.connections] == [TWO] + [THREE] * (not reset)
    assert len(made.host.poked) == reset


def test_a_node_that_only_we_do_not_see_keeps_its_readers() -> None:
    made = Made()
    made.act()
    made.read_on(3)
    made.host.nodes[3].reachable = False
    assert {r.node: r.fitness for r in readings(made.state(), "readers")}[3] is Fitness.SILENT
    assert made.act() == ["route port readers to node 2"]
    assert len(made.host.connections) == 1
    made.host.nodes[3].upstream = None
    assert made.act() == ["reset connections of port 54323 to 10.0.0.13"], "its sender has given it up"


@pytest.mark.parametrize(("upstream", "fit"), [(1, True), (2, True), (4, False), (3, False)])
def test_whose_wal_it_receives(upstream: int, fit: bool) -> None:
    """A cascade is as good; another primary may have begun a timeline of the same number."""
    made = Made()
    made.host.nodes[4] = FakeNode("10.0.0.14", in_recovery=False)
    made.cluster = replace(made.cluster, nodes={**made.cluster.nodes, 4: Node("10.0.0.14")})
    made.host.nodes[3].upstream = upstream
    assert {r.node: r.fitness for r in readings(made.state(), "readers")}[3] is (
        Fitness.FIT if fit else Fitness.ELSEWHERE
    )


@pytest.mark.parametrize("upstream", [1, None])
def test_a_cascade_through_a_node_that_only_we_do_not_see(upstream: int | None) -> None:
    """With ``upstream`` None nobody knows from where the silent one has what it sends: it may be a lost primary."""
    made = Made()
    made.host.nodes[3].upstream = 2
    made.host.nodes[2].reachable, made.host.nodes[2].upstream = False, upstream
    expected = Fitness.FIT if upstream else Fitness.ELSEWHERE
    assert {r.node: r.fitness for r in readings(made.state(), "readers")}[3] is expected


def test_it_takes_more_to_be_let_in_than_to_stay() -> None:
    made, node = Made(), None
    made.act()
    node = made.host.nodes[3]
    for lag, inside in ((63, True), (65, False), (63, False), (33, False), (31, True), (33, True), (64, True)):
        node.unreplayed = lag * MB
        made.act()
        assert ((THREE, 1) in made.spread()) is inside, lag


def test_a_stream_that_keeps_failing_is_not_trusted_until_it_lasts() -> None:
    made = Made()
    made.act()
    node = made.host.nodes[3]
    node.streams_for = 1.0
    assert made.act() == [], "seen between two looks: it stays"
    node.upstream = None
    made.act()
    for streams_for in (0.0, 5.0, 1.0, 9.9):
        node.upstream, node.streams_for = 1, streams_for
        assert made.act() == []
    node.streams_for = 10.0
    assert made.act() == ["route port readers to node 2 and node 3"]


@each
@pytest.mark.parametrize("if_none", ["primary", "close"])
def test_without_any_standby(backend: str, if_none: str) -> None:
    made = Made(backend, if_none)
    made.act()
    for number in (2, 3):
        lags(made.host.nodes[number])
    made.read_on(2)
    if if_none == "primary":
        assert made.act() == ["route port readers to node 1"]
        assert made.spread() == [("10.0.0.11", 1)]
    else:
        assert made.act() == ["close port readers: no standby is fit for readers"]
        assert made.spread() == []
    assert made.host.leads_to(APP) == "10.0.0.11:5432"
    assert len(made.host.connections) == 1, "who reads goes on"
    assert made.act(Config("app")) == []
    made.host.nodes[2].unreplayed = 0
    made.read_on(1)
    made.act()
    assert made.spread() == [(TWO, 1)]
    assert len(made.host.connections) == 2, "nobody is reset because a standby has come back"


@each
def test_a_failover(backend: str) -> None:
    made = Made(backend)
    made.act()
    made.read_on(2)
    made.read_on(3)
    made.fail_over()
    made.act(Config("barman"))
    assert made.spread() == [(TWO, 2), (THREE, 1)], "no node of it is lost; its own action comes later"
    made.act(Config("app"))
    assert made.host.leads_to(APP) == "10.0.0.12:5432"
    assert made.act() == ["route port readers to node 2"]
    assert [connection.host for connection in made.host.connections] == [TWO, THREE]
    made.last_known = LastKnownPrimary(2, 2, "", since=clock.wall() - 20)
    made.follow()
    assert made.act() == [], "the primary serves meanwhile"
    made.host.nodes[3].streams_for = 12.0
    assert made.act() == ["route port readers to node 3", "reset connections of port 54323 to 10.0.0.12"]
    assert [connection.host for connection in made.host.connections] == [THREE]


@each
def test_a_failover_with_the_port_closed_takes_the_first_standby_that_follows(backend: str) -> None:
    made = Made(backend, "close")
    made.act()
    made.read_on(2)
    made.fail_over()
    assert "close port readers: no standby is fit for readers" in made.act()
    assert (made.spread(), made.host.connections) == ([], [])
    assert made.act(Config("app"))[0].startswith("route port app")
    made.follow()
    assert made.act() == ["route port readers to node 3"]


@each
def test_readers_of_the_old_primary_are_led_away_with_the_first_port(backend: str) -> None:
    made = Made(backend)
    for number in (2, 3):
        receives_nothing(made.host.nodes[number])
    made.act()
    assert made.spread() == [("10.0.0.11", 1)]
    made.read_on(1)
    made.host.promote(2)
    made.primary = 2
    made.act(Config("barman"))
    assert made.spread() == [], "node 1 runs on, stale"
    assert made.host.connections == []


@each
def test_while_the_primary_is_unknown(backend: str) -> None:
    made = Made(backend)
    made.act()

    def leave() -> list[str]:
        steps = firewall.leave_silent(made.cluster, observe(made.cluster, made.host), made.host)
        for step in steps:
            apply(step, made.host)
        return [step.what for step in steps]

    made.host.lose(1)
    assert leave() == []
    made.host.nodes[3].reachable = False
    assert leave() == ["take nodes that do not answer out of port readers"]
    assert made.spread() == [(TWO, 1)]
    assert leave() == []
    made.host.nodes[2].reachable = False
    assert leave() == [], "none answers: it may be us who are cut off"


@each
def test_a_stale_primary_is_fenced_and_the_others_keep_the_port(backend: str) -> None:
    made = Made(backend)
    made.act()
    made.read_on(2)
    made.read_on(3)
    for _ in range(2):
        for step in firewall.fence(made.cluster, (3,), made.host):
            apply(step, made.host)
    assert made.spread() == [(TWO, 1)]
    assert [connection.host for connection in made.host.connections] == [TWO]
    for step in firewall.close(made.cluster, ["readers"], made.host):
        apply(step, made.host)
    assert made.spread() == []


@each
def test_rules_in_another_order_are_put_right(backend: str) -> None:
    """What is left for one rule depends on those before it."""
    made = Made(backend)
    made.act()
    if backend == "nftables":
        made.host.nft.tables["ip", "repmgr_hooks_main"]["repmgr_dnat"].rules.reverse()
    else:
        made.host.nat.chains["repmgr_dnat"].reverse()
    assert made.spread() == [(THREE, 1)]
    assert made.act() == ["route port readers to node 2 and node 3"]
    assert made.spread() == [(TWO, 2), (THREE, 1)]
