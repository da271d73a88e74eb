"""The worker against a simulated cluster that fails in every way that Hypothesis finds, judged by the oracle."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from repmgr_hooks.cluster.decide import LastKnownPrimary
from repmgr_hooks.config import Config
from repmgr_hooks.event import CATALOGUE, Event, RoleClaim
from repmgr_hooks.service.controller import ClusterController, run_now
from tests.fake import Wall
from tests.model import counts
from tests.model.cluster import Told, new_cluster, pick
from tests.model.counts import COUNTS
from tests.model.host import PORTS, Killed, ModelHost, MortalJournal
from tests.model.oracle import Oracle, Violation
from tests.model.setting import LOADED, TICK, managed

LOOK_AT_MOST_EVERY = 2.5
"""Seconds; without a primary the worker would look ten times as often."""
RETRY_AT_MOST = LOADED.service.retry.max_delay

WHICH = st.integers(0, 9)
WHEN = st.sampled_from([*[0] * 40, *range(1, 61)])
"""Now, or during the worker's next work, after so many uses of the world."""
FAILS_SELDOM = st.sampled_from([True, True, False])
CLAIMS = sorted(name for name, kind in CATALOGUE.items() if kind.meaning is RoleClaim.PRIMARY)
HINTS = sorted(set(CATALOGUE) - set(CLAIMS))


def step(**strategies: Any) -> Callable[[Any], Any]:
    """A rule; how often one was followed is counted."""

    def counting(function: Any) -> Any:
        @functools.wraps(function)
        def counted(self: Any, **drawn: Any) -> None:
            COUNTS[counts.STEPS] += 1
            function(self, **drawn)

        return rule(**strategies)(counted)  # type: ignore[no-untyped-call]

    return counting


class Model(RuleBasedStateMachine):
    """Rules are what happens to the cluster, the gateway, Barman and the worker."""

    loaded: Config
    wall: Wall

    @initialize(size=st.integers(2, 5))
    def begin(self, size: int) -> None:
        self.managed = managed(size)
        self.cluster = new_cluster(size)
        self.oracle = Oracle(self.cluster)
        self.host = self.wall.host = ModelHost(self.cluster, self.oracle)
        self.journal = MortalJournal()
        self.journal.before_change = self.host.use
        self.journal.on_decision = self.oracle.decided
        self.pending: list[Told] = []
        self.delivered: list[Told] = []
        self.handed_in: list[Told] = []
        self.start_worker()
        self.barman_was_ill = False
        COUNTS[counts.RUNS] += 1

    # -- the worker -----------------------------------------------------------------------------------------------

    def start_worker(self) -> None:
        """As worker.py does."""
        self.host.reborn()
        self.journal.release_cut_off()
        self.queue = ClusterController(self.managed, self.journal, self.host, self.loaded)

    def work(self) -> float:
        """What the worker's loop does once; if it dies of it, another is started."""
        try:
            wait = self.queue.work()
            self.oracle.finder()
            return wait
        except Killed:
            self.oracle.finder()
            COUNTS[counts.KILLS] += 1
            self.start_worker()
            return 0.0

    def pass_time(self, seconds: float) -> None:
        """Let the worker look whenever it says so, but not ten times a second."""
        end = self.host.now() + seconds
        while self.host.now() < end:
            wait = self.work()
            self.host.pass_time(min(max(wait, LOOK_AT_MOST_EVERY), max(end - self.host.now(), 0.0)))
        self.work()

    @step(ticks=st.integers(1, 3))
    def ticks(self, ticks: int) -> None:
        self.pass_time(ticks * TICK)

    @step()
    def the_worker_wakes(self) -> None:
        self.work()

    @step(seconds=st.integers(1, 400))
    def the_worker_is_held_up(self, seconds: int) -> None:
        self.host.pass_time(seconds)

    @step(uses=st.integers(1, 80))
    def the_worker_dies(self, uses: int) -> None:
        self.host.kill_after(uses)
        self.work()

    @step()
    def somebody_reconciles(self) -> None:
        self.run_now([], "reconcile")

    @step(which=WHICH, name=st.sampled_from(CLAIMS * 3 + HINTS))
    def somebody_replays(self, which: int, name: str) -> None:
        self.run_now([Event(pick(sorted(self.cluster.nodes), which) or 1, name)], "replay")

    def run_now(self, events: list[Event], cause: str) -> None:
        try:
            run_now(self.managed, self.host, events, cause, self.journal)
        except Killed:
            self.oracle.finder()
            self.host.reborn()

    # -- events ---------------------------------------------------------------------------------------------------

    def hear(self) -> None:
        """Take over what repmgr has said meanwhile."""
        self.pending += [Told(event, self.wall()) for event in self.cluster.said]
        self.cluster.said.clear()

    def hand_in(self, told: Told) -> None:
        """The hook's file bears the time of repmgr's call, however late it is found."""
        event = replace(told.event, timestamp=str(told.at))
        self.journal.add_event("main", event, told.at, f"{len(self.handed_in):020}-1")
        self.handed_in.append(told)
        COUNTS["events"] += 1

    @step(which=WHICH, wakes=st.booleans())
    def an_event_comes(self, which: int, wakes: bool) -> None:
        self.hear()
        if self.pending:
            told = self.pending.pop(which % len(self.pending))
            self.delivered.append(told)
            self.hand_in(told)
        if wakes:
            self.work()

    @step(which=WHICH, wakes=st.booleans())
    def an_event_comes_again(self, which: int, wakes: bool) -> None:
        if self.delivered:
            self.hand_in(self.delivered[-1 - which % len(self.delivered)])
        if wakes:
            self.work()

    @step(which=WHICH)
    def an_event_is_lost(self, which: int) -> None:
        self.hear()
        if self.pending:
            self.pending.pop(which % len(self.pending))

    @step(node=st.integers(1, 6), name=st.sampled_from(HINTS), success=st.booleans())
    def an_event_lies(self, node: int, name: str, success: bool) -> None:
        self.hand_in(Told(Event(node, name, success), self.wall()))

    # -- the cluster ----------------------------------------------------------------------------------------------

    def let(self, happen: Callable[[], object], what: str, after: int = 0) -> None:
        def counted() -> None:
            if happen() is not None:
                COUNTS[what] += 1

        self.host.let(counted, after)

    @step(which=WHICH, when=WHEN)
    def a_node_stops(self, which: int, when: int) -> None:
        self.let(lambda: self.cluster.stop(which), "stops", when)

    @step(which=WHICH, when=WHEN)
    def a_primary_stops(self, which: int, when: int) -> None:
        self.let(lambda: self.cluster.stop_primary(which), "stops", when)

    @step(which=WHICH, when=WHEN)
    def a_node_starts(self, which: int, when: int) -> None:
        self.let(lambda: self.cluster.start(which), "starts", when)

    @step(which=WHICH, metadata=st.booleans(), when=WHEN)
    def repmgr_promotes(self, which: int, metadata: bool, when: int) -> None:
        self.let(lambda: self.cluster.repmgr_promotes(which, metadata), "promotions by repmgr", when)

    @step(
        which=WHICH,
        how=st.sampled_from(["stop", "lose", "isolate"]),
        metadata=FAILS_SELDOM,
        told=st.booleans(),
        when=WHEN,
    )
    def failover(self, which: int, how: str, metadata: bool, told: bool, when: int) -> None:
        """repmgr loses the primary, and so may we; it promotes a standby, a second follows, and we are told."""
        lose = {"stop": self.cluster.stop_primary, "lose": self.cluster.lose, "isolate": self.cluster.isolate_primary}[
            how
        ]
        self.let(lambda: lose(which), "losses", when)
        self.let(lambda: self.cluster.repmgr_promotes(which, metadata), "promotions by repmgr", when and when + 5)
        self.let(lambda: self.cluster.follow(which), "follows", when and when + 9)
        self.hear()
        if told and self.pending:
            self.hand_in(self.pending[0])

    @step(which=WHICH, when=WHEN)
    def somebody_promotes(self, which: int, when: int) -> None:
        self.let(lambda: self.cluster.promoted_by_hand(which), "promotions by hand", when)

    @step(which=WHICH)
    def somebody_registers(self, which: int) -> None:
        self.let(lambda: self.cluster.register(which), "registrations")

    @step(which=WHICH, when=WHEN)
    def a_standby_follows(self, which: int, when: int) -> None:
        self.let(lambda: self.cluster.follow(which), "follows", when)

    @step(which=WHICH, by_hand=st.booleans(), when=WHEN)
    def a_node_rejoins(self, which: int, by_hand: bool, when: int) -> None:
        self.let(lambda: self.cluster.rejoin(which, by_hand), "rejoins", when)

    @step(which=WHICH, when=WHEN)
    def a_node_is_cloned(self, which: int, when: int) -> None:
        self.let(lambda: self.cluster.clone(which), "clones", when)

    @step(which=WHICH, rejoins=st.booleans(), when=WHEN)
    def switchover(self, which: int, rejoins: bool, when: int) -> None:
        self.let(lambda: self.cluster.switch_over(which, rejoins), "switchovers", when)

    @step(which=WHICH, when=WHEN)
    def the_gateway_loses_a_node(self, which: int, when: int) -> None:
        self.let(lambda: self.cluster.hide(which), "cuts", when)

    @step(which=WHICH, when=WHEN)
    def the_gateway_reaches_a_node(self, which: int, when: int) -> None:
        self.let(lambda: self.cluster.show(which), "heals", when)

    @step(which=WHICH, whole=st.booleans())
    def nodes_lose_each_other(self, which: int, whole: bool) -> None:
        self.let(lambda: self.cluster.isolate(which) if whole else self.cluster.cut_between(which), "splits")

    @step(whole=st.booleans(), when=WHEN)
    def nodes_reach_each_other(self, whole: bool, when: int) -> None:
        self.host.let(lambda: self.cluster.heal(whole), when)

    # -- the gateway and Barman -----------------------------------------------------------------------------------

    @step(health=st.sampled_from(["good", "good", "ruins", "hangs"]))
    def barman_is(self, health: str) -> None:
        self.host.barman.health = health
        self.barman_was_ill |= health != "good"

    @step(jumps=st.booleans(), when=WHEN)
    def somebody_flushes_our_rules(self, jumps: bool, when: int) -> None:
        self.host.let(lambda: self.host.flush(jumps), when)

    @step(port=st.sampled_from(sorted(PORTS)), which=WHICH)
    def somebody_adds_a_rule(self, port: str, which: int) -> None:
        self.host.lead_by_hand(port, pick(sorted(self.cluster.nodes), which) or 1)

    @step(which=WHICH, what=st.sampled_from(["make", "drop", "lose"]), when=WHEN)
    def something_happens_to_a_slot(self, which: int, what: str, when: int) -> None:
        does = {"make": self.host.make_slot, "drop": self.host.drop_slot, "lose": self.host.lose_wal}[what]
        number = pick(sorted(self.cluster.nodes), which) or 1
        self.host.let(lambda: does(number), when)

    @step(when=WHEN)
    def the_stream_ends(self, when: int) -> None:
        self.host.let(self.host.end_stream, when)

    @step()
    def barmans_cron_runs(self) -> None:
        self.host.cron()

    @step(port=st.sampled_from(sorted(PORTS)), when=WHEN)
    def a_client_connects(self, port: str, when: int) -> None:
        self.let(lambda: self.host.connect(port), "clients", when)

    # -- what must be so when nothing happens ---------------------------------------------------------------------

    @step()
    def all_is_quiet(self) -> None:
        self.host.let_it_live()
        memory = self.journal.memory("main")
        number = self.oracle.the_primary(memory, self.claimed())
        self.pass_time(2 * TICK)
        COUNTS[counts.UNKNOWN if number is None else counts.RIGHT] += 1
        self.must_be_right([*self.stale_primaries_with_clients(memory), *self.unhandled_events()], number)
        if number is not None:
            self.must_be_right([*self.wrong_ports(number), *self.wrong_slots(number)], number)
            if self.host.barman.health == "good":
                self.wait_for_a_retry()
                self.must_be_right(self.wrong_stream(number), number)
        if not self.failed():
            self.nothing_must_be_written()
            COUNTS[counts.STILL] += 1

    def claimed(self) -> set[int]:
        """The nodes that repmgr has called the primary since the one that is remembered was found."""
        since = self.journal.remembered_since()
        return {told.event.node for told in self.handed_in if told.at >= since and told.event.name in CLAIMS}

    def stale_primaries_with_clients(self, memory: LastKnownPrimary) -> Iterator[str]:
        for number in self.oracle.stale_primaries(memory):
            yield from (
                f"port {port} leads to zombie {number}" for port in PORTS if self.host.node_behind(port) == number
            )

    def unhandled_events(self) -> Iterator[str]:
        if number := self.journal.unhandled():
            yield f"{number} events are not handled"

    def failed(self) -> bool:
        """True if the last run failed, and is going to be tried again."""
        return any(run.again and not run.ok for run in self.journal.runs(1, "main"))

    def wait_for_a_retry(self) -> None:
        """What failed because Barman was ill is tried again in its time: nothing tells that Barman is well."""
        if self.barman_was_ill and self.failed():
            self.host.pass_time(RETRY_AT_MOST)
            self.pass_time(TICK)
        self.barman_was_ill = False

    def must_be_right(self, wrong: list[str], number: int | None) -> None:
        if wrong:
            last = self.journal.runs(1, "main")
            raise Violation(f"the primary is {number}, and after two ticks: {'; '.join(wrong)}; last run: {last}")

    def wrong_ports(self, number: int) -> Iterator[str]:
        host, address = self.host, self.cluster.nodes[number].host
        for port in PORTS:
            if host.node_behind(port) != number:
                yield f"port {port} leads to {host.node_behind(port)}"
        if host.nat.source_seen_by(address, 5432) != host.gateway:
            yield "the primary would answer past the gateway"
        for entry in host.connections:
            if entry.host != address:
                yield f"a client is still connected to {entry.host}"

    def wrong_slots(self, number: int) -> Iterator[str]:
        slot = self.cluster.nodes[number].slots.get("barman")
        if slot is None or not slot.reserved:
            yield f"the slot is {slot}"
        for other in self.cluster.standbys():
            if self.cluster.nodes[other].reachable and "barman" in self.cluster.nodes[other].slots:
                yield f"standby {other} has the slot"

    def wrong_stream(self, number: int) -> list[str]:
        source = self.host.barman.streams_from
        return [] if source == number else [f"Barman streams from {source}"]

    def nothing_must_be_written(self) -> None:
        before = (list(self.host.what_changed()), self.journal.counts())
        self.pass_time(2 * TICK)
        after = (self.host.what_changed(), self.journal.counts())
        if before != after:
            new = after[0][len(before[0]) :]
            raise Violation(f"nothing has changed, and this was written: {new}, {before[1]} -> {after[1]}")

    def teardown(self) -> None:
        if not hasattr(self, "world") or self.oracle.accusation:
            return
        try:
            self.all_is_quiet()
            if bugs := self.journal.bugs():
                raise Violation(f"a bug: {bugs}")
            COUNTS.update(self.oracle.met())
        finally:
            self.journal.close()


@pytest.fixture
def silent() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("silent")
def test_no_sequence_of_faults_breaks_an_invariant(loaded: Config, wall: Wall) -> None:
    chosen = settings(
        max_examples=2000,
        stateful_step_count=22,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(type("Configured", (Model,), {"loaded": loaded, "wall": wall}), settings=chosen)
    assert counts.too_few() == []
