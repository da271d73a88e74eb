"""Two gateways of one simulated cluster: two workers, two memories, one Barman, and an address that moves.

Each is judged by an oracle of its own, as a single gateway is. Beside that: what exists once is worked on only where
the address is, and a gateway that was away leads nobody by its memory alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from repmgr_hooks.cluster import gateways
from repmgr_hooks.config import Config
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.handlers import slot
from repmgr_hooks.journal.heartbeat import AWAY_AFTER
from repmgr_hooks.system.steps import Rows, Sql
from tests.fake import NatTable, Wall
from tests.model import counts
from tests.model.cluster import Cluster, new_cluster
from tests.model.counts import COUNTS
from tests.model.game import Game
from tests.model.host import ModelHost
from tests.model.machine import Model
from tests.model.oracle import Oracle, Violation
from tests.model.setting import TICK

HOSTS = ("10.0.0.21", "10.0.0.22")
ITS_OWN = ("iptables", "nft", "conntrack", "sysctl", "poke")
"""The changes that each gateway makes for itself."""
CHANGE_A_SLOT = (slot.CREATE, slot.CREATE_ON_STANDBY, slot.DROP_ON_STANDBY, slot.DROP_LOST, slot.RELEASE, slot.ADVANCE)
WEEK = 7 * 86400.0
WHICH = st.integers(0, 9)
SIDE = st.integers(0, 1)


class Shared:
    """What both gateways have in common: the time, what each calls its session on a node, and when it used it."""

    def __init__(self) -> None:
        self.time = 0.0
        self.sessions: dict[tuple[str, int], str] = {}
        self.looked: dict[tuple[str, int], float] = {}


class PairHost(ModelHost):
    """One of the two. It has the address, or not."""

    def __init__(self, cluster: Cluster, oracle: Oracle, own: str, shared: Shared) -> None:
        self.shared, self.own = shared, own
        super().__init__(cluster, oracle)
        self.addresses = {own}

    @property
    def _clock(self) -> float:
        return self.shared.time

    @_clock.setter
    def _clock(self, value: float) -> None:
        self.shared.time = max(value, self.shared.time)

    @property
    def serves(self) -> bool:
        return self.gateway in self.addresses

    def _note(self, change: str) -> None:
        if not (self.serves or self.other_barmans or change.startswith(ITS_OWN)):
            self.oracle.accuse(f"{self.own} has not the address, and did: {change}")
        super()._note(change)

    def _answer(self, sql: Sql) -> Rows | OperationFailed:
        """A session keeps its name until its node ends it; each look is a sign of life."""
        shared, this = self.shared, (self.own, sql.node)
        if sql.statement in CHANGE_A_SLOT and set(sql.params) & set(self.other_barmans):
            self.oracle.accuse(f"{self.own} works on the other gateway's slot: {sql.statement} {sql.params}")
        if not self.cluster.nodes[sql.node].reachable:
            shared.sessions.pop(this, None)
            return super()._answer(sql)
        shared.looked[this] = shared.time
        if sql.statement != gateways.ASK:
            return super()._answer(sql)
        if sql.params[0]:
            shared.sessions[this] = str(sql.params[0])
        others = [each for each in shared.sessions if each[0] != self.own and each[1] == sql.node]
        return [(shared.sessions[each], shared.time - shared.looked[each]) for each in others]


class Side(Model):
    """A gateway with its worker and journal: a game of its own in a cluster that is not."""

    def enter(self, cluster: Cluster, own: str, place: Path, shared: Shared) -> None:
        """Begin, as the gateway with this address."""
        Game.begin(self, size=len(cluster.nodes))
        COUNTS[counts.RUNS] -= 1
        self.cluster = cluster
        gateway = replace(self.managed.cluster.gateway, hosts=HOSTS)
        settings = replace(self.managed.cluster, gateway=gateway, state_dir=str(place))
        self.managed = replace(self.managed, cluster=settings)
        self.oracle = Oracle(cluster, self.evidence)
        self.host = self.wall.host = PairHost(cluster, self.oracle, own, shared)
        self.journal.before_change = self.host.use
        self.journal.on_decision = self.oracle.state
        self.start_worker()

    def hear(self) -> None:
        """What repmgr says comes from the pair."""


class Pair(RuleBasedStateMachine):
    """Rules are what happens to the cluster, the gateways and the address."""

    loaded: Config
    wall: Wall

    @initialize(size=st.integers(2, 4))
    def begin(self, size: int) -> None:
        self.place = tempfile.TemporaryDirectory()
        self.cluster, self.shared = new_cluster(size), Shared()
        self.sides = [self._side(number) for number in range(2)]
        self.share_barman()
        self.away: dict[int, float] = {}
        """The gateways that are switched off, and since when."""
        self.doubtful: set[int] = set()
        """Those that have come back, and have not known the primary since."""
        self.move(0)
        self.ticks(1)
        COUNTS["games of two gateways"] += 1

    def share_barman(self) -> None:
        """There is one, on a third host."""
        self.sides[1].host.barman = self.sides[0].host.barman

    def _side(self, number: int) -> Side:
        made: Side = type("ConfiguredSide", (Side,), {"loaded": self.loaded, "wall": self.wall})()
        place = Path(self.place.name, str(number))
        place.mkdir()
        made.enter(self.cluster, HOSTS[number], place, self.shared)
        return made

    def on(self) -> Iterable[int]:
        """The gateways that are switched on."""
        return (number for number in range(2) if number not in self.away)

    def hosts(self) -> list[PairHost]:
        return [side.host for side in self.sides]  # type: ignore[misc]

    def work(self, number: int) -> None:
        """Let one gateway's worker do what is due, and judge what it has done."""
        side = self.sides[number]
        said, self.cluster.said = self.cluster.said[:], []
        for other in self.sides:
            other.pending += said
        before = side.host.node_behind("app")
        side.work()
        if side.host.node_behind("app") not in (None, before):
            COUNTS["ports led by one of two gateways"] += 1
        last = side.journal.last_known("main")
        if number in self.doubtful:
            self._judge_memory(side)
        if side.controller._shown.absence.considered(last).away is False:  # noqa: SLF001
            self.doubtful.discard(number)

    def _judge_memory(self, side: Side) -> None:
        """A gateway that was away must not lead clients to what it remembers."""
        led, nodes = side.host.node_behind("app"), self.cluster.nodes
        newest = max(other.journal.last_known("main").timeline for other in self.sides if other is not side)
        if led is None or nodes[led].timeline >= newest:
            return
        follow = [node for node in nodes.values() if node.reachable and node.upstream == led]
        if all(node.reachable for node in nodes.values()) or 2 * (1 + len(follow)) > len(nodes):
            return
        raise Violation(f"{led} on timeline {nodes[led].timeline} is led to from memory; {newest} was seen already")

    # -- the gateways -------------------------------------------------------------------------------------------------

    @rule(ticks=st.integers(1, 3))
    def ticks(self, ticks: int) -> None:
        """Time passes for both."""
        for _ in range(ticks):
            for number in self.on():
                self.work(number)
            self.shared.time += TICK

    @rule(number=SIDE)
    def one_works(self, number: int) -> None:
        if number not in self.away:
            self.work(number)

    @rule(to=st.sampled_from([0, 1, 0, 1, None]))
    def move(self, to: int | None) -> None:
        """keepalived gives the address to one of them, or to none."""
        for number, host in enumerate(self.hosts()):
            if number == to and not host.serves:
                host.address_came = self.shared.time
            host.addresses = {host.own, *([host.gateway] if number == to and number not in self.away else [])}

    @rule(number=SIDE, seconds=st.sampled_from([1.0, 60.0, AWAY_AFTER + 60.0, WEEK]))
    def a_gateway_dies(self, number: int, seconds: float) -> None:
        """Its rules are gone with it, and the address goes to the other one, if that is there."""
        if self.away:
            return
        served = self.hosts()[number].serves
        self.switch_off(number)
        self.away[number] = self.shared.time + seconds
        if served:
            self.move(1 - number)

    def switch_off(self, number: int) -> None:
        """Nothing of it is left but what stands on its disk."""
        host = self.hosts()[number]
        host.addresses = {host.own}
        host.nat, host.connections = NatTable(), []

    @rule()
    def it_comes_back(self) -> None:
        """After as long as was said when it died."""
        for number, until in list(self.away.items()):
            gone = max(until - self.shared.time, 0.0)
            self.shared.time = max(until, self.shared.time)
            del self.away[number]
            side = self.sides[number]
            side.start_worker()
            if side.controller._shown.absence.considered(side.journal.last_known("main")).away:  # noqa: SLF001
                self.doubtful.add(number)
                COUNTS["returns of a gateway that was away"] += 1
            assert gone <= WEEK
            self.work(number)

    @rule(number=SIDE, uses=st.integers(1, 80))
    def a_worker_dies(self, number: int, uses: int) -> None:
        if number not in self.away:
            self.sides[number].host.kill_after(uses)
            self.work(number)

    @rule(number=SIDE, jumps=st.booleans())
    def somebody_flushes_the_rules_of_one(self, number: int, jumps: bool) -> None:
        self.hosts()[number].flush(jumps)

    @rule(number=SIDE, which=WHICH)
    def an_event_comes(self, number: int, which: int) -> None:
        """To one of them; the other may get it later, or never."""
        if number not in self.away:
            self.sides[number].deliver(which)
            self.work(number)

    @rule()
    def a_client_connects(self) -> None:
        for host in self.hosts():
            if host.serves:
                host.connect("app")

    # -- the cluster --------------------------------------------------------------------------------------------------

    def let(self, happen: Callable[[], Any]) -> None:
        happen()
        for host in self.hosts():
            host.let(lambda: None)

    @rule(which=WHICH, how=st.sampled_from(["stop_primary", "lose", "isolate_primary"]), metadata=st.booleans())
    def failover(self, which: int, how: str, metadata: bool) -> None:
        self.let(lambda: getattr(self.cluster, how)(which))
        self.let(lambda: self.cluster.repmgr_promotes(which, metadata))
        self.let(lambda: self.cluster.follow(which))

    @rule(which=WHICH)
    def a_node_stops(self, which: int) -> None:
        self.let(lambda: self.cluster.stop(which))

    @rule(which=WHICH)
    def a_node_starts(self, which: int) -> None:
        self.let(lambda: self.cluster.start(which))

    @rule(which=WHICH, by_hand=st.booleans())
    def a_node_rejoins(self, which: int, by_hand: bool) -> None:
        self.let(lambda: self.cluster.rejoin(which, by_hand))

    @rule(which=WHICH, rejoins=st.booleans())
    def switchover(self, which: int, rejoins: bool) -> None:
        self.let(lambda: self.cluster.switch_over(which, rejoins))

    @rule(which=WHICH)
    def both_lose_a_node(self, which: int) -> None:
        self.let(lambda: self.cluster.hide(which))

    @rule(whole=st.booleans())
    def nodes_reach_each_other(self, whole: bool) -> None:
        self.let(lambda: self.cluster.heal(whole))

    @rule(health=st.sampled_from(["good", "good", "ruins", "hangs"]))
    def barman_is(self, health: str) -> None:
        for side in self.sides:
            side.host.barman.health = health
            side.barman_was_ill |= health != "good"

    # -- the end ------------------------------------------------------------------------------------------------------

    @rule()
    def all_is_quiet(self) -> None:
        """Both are on, one has the address: each leads rightly, and what is a gateway's to do is done."""
        self.it_comes_back()
        serving = next((number for number, host in enumerate(self.hosts()) if host.serves), 0)
        self.move(serving)
        for side in self.sides:
            side.host.let_it_live()
        self.ticks(3)
        for side in self.sides:
            last_known = side.evidence.remembered
            number = side.oracle.the_primary(last_known)
            side.must_be_right(list(side.stale_primaries_with_clients(last_known)), number)
            doubted = side.controller._monitor.decision  # noqa: SLF001
            if number is None or (doubted and doubted.primary is None and self.sides.index(side) in self.doubtful):
                continue
            self.must_be_led(side, number, self.sides.index(side) == serving)

    def must_be_led(self, side: Side, number: int, serves: bool) -> None:
        """The ports lead to this primary; with the address, Barman streams from it."""
        host, healthy = side.host, side.host.barman.health == "good"
        if serves:
            side.must_be_right(list(side.wrong_slots(number)), number)
        if not healthy:
            return
        side.barman_was_ill = True
        for each in self.sides:
            each.wait_for_a_retry()
        if serves:
            side.must_be_right([*side.wrong_ports(number), *side.wrong_stream(number)], number)
        else:
            wrong = [f"port {port} leads to {host.node_behind(port)}" for port in ("barman", "app")]
            wrong = [text for text in wrong if not text.endswith(f" {number}")]
            side.must_be_right(wrong, number)

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        try:
            if not any(side.oracle.accusation for side in self.sides):
                self.all_is_quiet()
                for side in self.sides:
                    if bugs := side.journal.bugs():
                        raise Violation(f"a bug: {bugs}")
        finally:
            for side in self.sides:
                side.journal.close()
            self.place.cleanup()
