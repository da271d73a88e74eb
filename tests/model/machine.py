"""The worker against a simulated cluster that fails in every way that Hypothesis finds, judged by the oracle."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import rule

from repmgr_hooks.event import CATALOGUE, Event, RoleClaim
from tests.model import counts
from tests.model.cluster import pick
from tests.model.counts import COUNTS
from tests.model.evidence import Call
from tests.model.game import Game
from tests.model.host import PORTS
from tests.model.setting import TICK

WHICH = st.integers(0, 9)
WHEN = st.sampled_from([*[0] * 40, *range(1, 61)])
"""Now, or during the worker's next work, after so many uses of the host."""
FAILS_SELDOM = st.sampled_from([True, True, False])
CLOCK = st.sampled_from([sign * seconds for seconds in (1, 60, 3600, 400_000) for sign in (1, -1)])
"""Seconds that a clock is set forward or back, or is wrong by."""
WRONG_SELDOM = st.one_of(st.just(0), CLOCK)
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


class Model(Game):
    """Rules are what happens to the cluster, the gateway, Barman and the worker."""

    # -- the worker -----------------------------------------------------------------------------------------------

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

    # -- events ---------------------------------------------------------------------------------------------------

    @step(which=WHICH, wakes=st.booleans(), when=WHEN)
    def an_event_comes(self, which: int, wakes: bool, when: int) -> None:
        self.host.let(lambda: self.deliver(which, bool(when)), when)
        if wakes:
            self.work()

    def deliver(self, which: int, at_once: bool = False, wrong_by: float = 0.0) -> None:
        """The hook is called with one of those that wait; while the worker works, it takes the file in at once."""
        self.hear()
        if self.pending:
            event = self.pending.pop(which % len(self.pending))
            self.delivered.append(event)
            self.call(event, wrong_by)
        if at_once:
            self.take_in()

    @step(which=WHICH, wrong_by=CLOCK, wakes=st.booleans())
    def an_event_comes_with_a_foreign_time(self, which: int, wrong_by: int, wakes: bool) -> None:
        self.deliver(which, wrong_by=wrong_by)
        if wakes:
            self.work()

    @step(which=WHICH)
    def an_event_cannot_be_stored(self, which: int) -> None:
        """The hook becomes ``repmgr-hooks event -``, which handles it at once."""
        self.hear()
        if self.pending:
            call = Call(self.pending.pop(which % len(self.pending)), self.evidence.now(), self.wall())
            self.evidence.take(call)
            self.run_now([call.event], "event")

    @step(which=WHICH, wakes=st.booleans())
    def an_event_comes_again(self, which: int, wakes: bool) -> None:
        if self.delivered:
            self.call(self.delivered[-1 - which % len(self.delivered)])
        if wakes:
            self.work()

    @step(which=WHICH)
    def an_event_is_lost(self, which: int) -> None:
        self.hear()
        if self.pending:
            self.pending.pop(which % len(self.pending))

    @step(node=st.integers(1, 6), name=st.sampled_from(HINTS), success=st.booleans())
    def an_event_lies(self, node: int, name: str, success: bool) -> None:
        self.call(Event(node, name, success))

    @step(seconds=CLOCK)
    def the_clock_is_set(self, seconds: int) -> None:
        self.wall.time += seconds
        self.evidence.set_backs += seconds < 0

    # -- the cluster ----------------------------------------------------------------------------------------------

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
        clock=WRONG_SELDOM,
    )
    def failover(self, which: int, how: str, metadata: bool, told: bool, when: int, clock: int = 0) -> None:
        """repmgr loses the primary, and so may we; it promotes a standby, a second follows, and we are told.

        The clock was set before.
        """
        self.the_clock_is_set(seconds=clock)
        lose = {"stop": self.cluster.stop_primary, "lose": self.cluster.lose, "isolate": self.cluster.isolate_primary}[
            how
        ]
        self.let(lambda: lose(which), "losses", when)
        self.let(lambda: self.cluster.repmgr_promotes(which, metadata), "promotions by repmgr", when and when + 5)
        self.let(lambda: self.cluster.follow(which), "follows", when and when + 9)
        self.hear()
        if told and self.pending:
            self.call(self.pending[0])

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

    @step(which=WHICH, then=WHICH, wrong_by=WRONG_SELDOM, mistaken=WHICH)
    def a_mistake_after_two_switchovers(self, which: int, then: int, wrong_by: int, mistaken: int) -> None:
        """Of all that repmgr says, only what it says of the first new primary comes."""
        self.hear()
        self.let(lambda: self.cluster.switch_over(which, True), "switchovers")
        for event in self.cluster.said:
            if event.name in CLAIMS:
                self.call(event, wrong_by)
        self.cluster.said.clear()
        self.work()
        self.let(lambda: self.cluster.switch_over(then, True), "switchovers")
        self.cluster.said.clear()
        self.pass_time(TICK)
        self.let(lambda: self.cluster.promoted_by_hand(mistaken), "promotions by hand")

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

    @step(which=WHICH, when=WHEN)
    def a_reader_connects(self, which: int, when: int) -> None:
        self.let(lambda: self.host.read_on(which), "readers", when)

    @step(
        which=WHICH,
        how=st.sampled_from(["stop", "lose", "isolate"]),
        metadata=FAILS_SELDOM,
        rewinds=FAILS_SELDOM,
        looks=st.integers(1, 6),
        then=st.sampled_from(["nothing", "stop", "promote", "switch", "replace", "hide", "start", "die"]),
        when=st.one_of(st.just(0), st.integers(1, 60)),
    )
    def a_former_primary_comes_back(
        self, which: int, how: str, metadata: bool, rewinds: bool, looks: int, then: str, when: int
    ) -> None:
        """A primary runs on, or is started again, beside the one that repmgr has made; and then roles change again."""
        self.failover(which=which, how=how, metadata=metadata, told=True, when=0)
        self.on_node.rewind_fails = not rewinds
        self.pass_time(TICK)
        self.let(lambda: self.cluster.start(which), "starts")
        self.host.let(lambda: self.cluster.heal(True))
        cluster = self.cluster
        happens: dict[str, Callable[[], object]] = {
            "stop": lambda: cluster.stop_primary(which),
            "promote": lambda: cluster.promoted_by_hand(which),
            "switch": lambda: cluster.switch_over(which, True),
            "replace": lambda: cluster.replaced(which),
            "hide": lambda: cluster.hide(which),
            "start": lambda: cluster.start(which),
        }
        for look in range(looks):
            if look == looks // 2 and then == "die":
                self.host.kill_after(when or 1)
            elif not look and then in happens and not when:
                self.on_node.meanwhile = happens[then]
            elif look == looks // 2 and then in happens:
                self.let(happens[then], f"then: {then}", when)
            self.pass_time(TICK)

    @step()
    def all_is_quiet(self) -> None:
        self.must_be_quiet()
