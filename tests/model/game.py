"""A game of the model: the worker and a simulated cluster, how time passes, and what must be so in the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.config import Config
from repmgr_hooks.errors import HooksError
from repmgr_hooks.event import Event
from repmgr_hooks.journal.last_seen import LastSeen, Numbers, Publisher
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.foreground import run_now
from repmgr_hooks.service.former_keeper import FormerPrimaryKeeper
from repmgr_hooks.settings.former_primary import AttemptLimit, FormerPrimary
from tests.fake import Wall
from tests.model import counts
from tests.model.cluster import Placed, new_cluster
from tests.model.counts import COUNTS
from tests.model.evidence import Call, Evidence
from tests.model.former import ModelOnNode
from tests.model.host import PORTS, Killed, ModelHost, MortalJournal
from tests.model.oracle import Oracle, Violation
from tests.model.setting import LOADED, READERS, TICK, managed

FENCES = ("FFFFFFFFFFFFFFFF000000FF.partial",)
"""What keeps Barman from receiving another branch is no WAL."""
LOOK_AT_MOST_EVERY = 2.5
"""Seconds; without a primary the worker would look ten times as often."""
RETRY_AT_MOST = LOADED.service.retry.max_delay
FORMER = FormerPrimary(clone="primary", limit=AttemptLimit(3, 3600))


class ModelPublisher(Publisher):
    """What load balancers would be answered goes to the oracle."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle, self._written = oracle, None
        self.directory = Path(os.devnull)  # where nothing can be kept for status

    def _put(self, seen: LastSeen) -> None:
        self._written = seen
        if not seen.in_step:
            self._oracle.answered(seen.primary)

    def renew(self, numbers: Numbers) -> None:
        """Numbers lead nobody."""


class Game(RuleBasedStateMachine):
    """One cluster, one worker, and what repmgr has said and nobody has delivered yet (``pending``)."""

    loaded: Config
    wall: Wall

    @initialize(
        size=st.integers(2, 5),
        backend=st.sampled_from(["iptables", "nftables"]),
        if_none=st.sampled_from(["", "primary", "close"]),
        former=st.booleans(),
        placed=st.sampled_from(["apart", "apart", "ports", "together"]),
    )
    def begin(
        self, size: int, backend: str = "iptables", if_none: str = "", former: bool = False, placed: Placed = "apart"
    ) -> None:
        """With nftables somebody has just changed to it: iptables still has the rules.

        ``if_none``: of the port for readers; without it there is none. ``former``: former primaries are stopped and
        rejoined. ``placed``: whether each node has a host of its own, a port of its own, or both.
        """
        self.managed = managed(size, backend, if_none, placed)
        self.former = former
        if former:
            place = str(self.loaded.state_dir)
            Path(place, "cluster-main.former").unlink(missing_ok=True)
            cluster = replace(self.managed.cluster, former_primary=FORMER, state_dir=place)
            self.managed = replace(self.managed, cluster=cluster)
        self.cluster = new_cluster(size, placed)
        self.wall.time, self.wall.host = Wall().time, None
        self.evidence = Evidence(self.wall)
        self.oracle = Oracle(self.cluster, self.evidence)
        self.host = self.wall.host = ModelHost(self.cluster, self.oracle, backend)
        self.on_node = ModelOnNode(self.host)
        self.journal = MortalJournal()
        self.journal.before_change = self.host.use
        self.journal.on_decision = self.oracle.state
        self.spool: list[Call] = []
        self.pending: list[Event] = []
        self.delivered: list[Event] = []
        self.names = 0
        self.quiet = False
        self.start_worker()
        self.barman_was_ill = False
        COUNTS[counts.RUNS] += 1

    # -- the worker -----------------------------------------------------------------------------------------------

    def start_worker(self) -> None:
        """As worker.py does."""
        self.host.reborn()
        self.journal.release_cut_off()
        shown = ModelPublisher(self.oracle)
        self.controller = ClusterController(self.managed, self.journal, self.host, self.loaded, publisher=shown)
        if self.former:
            of = (self.managed, self.journal, self.loaded, self.controller, lambda alert: None)
            self.keeper = FormerPrimaryKeeper(*of, lambda cluster: self.host, lambda *_: self.on_node)

    def work(self) -> float:
        """What the worker's loop does once; if it dies of it, another is started."""
        self.take_in()
        try:
            wait = self.controller.work()
            self.look_after_former_primaries()
            self.oracle.judge()
            return wait
        except Killed:
            self.oracle.judge()
            COUNTS[counts.KILLS] += 1
            self.start_worker()
            return 0.0

    def look_after_former_primaries(self) -> None:
        """As the thread of its own does; not while it is looked whether all is quiet."""
        if self.former and not self.quiet:
            with suppress(HooksError):
                self.keeper.look()

    def pass_time(self, seconds: float) -> None:
        """Let the worker look whenever it says so, but not ten times a second."""
        end = self.host.now() + seconds
        while self.host.now() < end:
            wait = self.work()
            self.host.pass_time(min(max(wait, LOOK_AT_MOST_EVERY), max(end - self.host.now(), 0.0)))
        self.work()

    def run_now(self, events: list[Event], cause: str) -> None:
        try:
            run_now(self.managed, self.host, events, cause, self.journal)
        except Killed:
            self.oracle.judge()
            self.host.reborn()

    # -- events, and what happens to the cluster --------------------------------------------------------------------

    def hear(self) -> None:
        """Take over what repmgr has said meanwhile. Its calls come in any order, for every node has its own repmgrd."""
        self.pending += self.cluster.said
        self.cluster.said.clear()

    def call(self, event: Event, wrong_by: float = 0.0) -> None:
        """The hook is called, and leaves a file with the time of the gateway's clock, or one that somebody wrote."""
        now = self.evidence.now()
        self.spool.append(Call(event, now, now.clock + wrong_by, honest=not wrong_by))
        COUNTS["events"] += 1

    def take_in(self) -> None:
        """As spool.py does: in the order of the files' names, which begin with their times."""
        for call in sorted(self.spool, key=lambda call: call.stamp):
            self.names += 1
            event = replace(call.event, timestamp=str(call.stamp))
            self.journal.add_event("main", event, call.stamp, f"{self.names:020}-1")
            self.evidence.take(call)
        self.spool.clear()

    def let(self, happen: Callable[[], object], what: str, after: int = 0) -> None:
        def counted() -> None:
            if happen() is not None:
                COUNTS[what] += 1

        self.host.let(counted, after)

    # -- what must be so when nothing happens ---------------------------------------------------------------------

    def must_be_quiet(self) -> None:
        self.host.let_it_live()
        self.take_in()
        self.quiet = True
        last_known = self.evidence.remembered
        number = self.oracle.the_primary(last_known)
        self.pass_time(2 * TICK)
        COUNTS[counts.UNKNOWN if number is None else counts.RIGHT] += 1
        wrong = [*self.stale_primaries_with_clients(last_known), *self.unhandled_events(), *self.silent_readers()]
        self.must_be_right(wrong, number)
        if number is not None:
            self.must_be_right([*self.wrong_ports(number), *self.wrong_slots(number)], number)
            self.must_be_right([*self.wrong_readers(number)] if self.managed.cluster.readers else [], number)
            if self.host.barman.health == "good":
                self.wait_for_a_retry()
                self.must_be_right(self.wrong_stream(number), number)
        # An ill Barman that no run has met is met at a look that comes every five minutes.
        if not self.failed() and self.host.barman.health == "good":
            self.nothing_must_be_written()
            COUNTS[counts.STILL] += 1
        self.quiet = False

    def stale_primaries_with_clients(self, last_known: LastKnownPrimary) -> Iterator[str]:
        for number in self.oracle.stale_primaries(last_known):
            yield from (
                f"port {port} leads to stale primary {number}"
                for port in PORTS
                if self.host.node_behind(port) == number
            )
            if number in self.host.readers_on():
                yield f"readers come to stale primary {number}"
            if any(entry.socket == self.cluster.nodes[number].socket for entry in self.host.connections):
                yield f"somebody is still connected to stale primary {number}"

    def silent_readers(self) -> Iterator[str]:
        """Primary or not, readers come to no node that does not answer, if another of theirs does."""
        there = self.host.readers_on()
        answering = {number for number in there if self.cluster.nodes[number].reachable}
        if answering and there - answering:
            yield f"readers come to {sorted(there)}, of which only {sorted(answering)} answer"

    def wrong_readers(self, number: int) -> Iterator[str]:
        """They come to all standbys that follow the primary; and if there is none, to it, or nowhere."""
        surely, perhaps = self.oracle.followers(number, True), self.oracle.followers(number, False)
        there, none = self.host.readers_on(), self.managed.cluster.readers["readers"].if_none == "primary"
        if not surely <= there <= perhaps and (surely or there != ({number} if none else set())):
            yield f"readers come to {sorted(there)}, and the primary's followers are {sorted(surely)}"
        nodes = self.cluster.nodes
        for socket in {entry.socket for entry in self.host.connections if entry.flow.gateway_port == READERS}:
            node = next(node for node in nodes.values() if node.socket == socket)
            if node.runs_as_primary and node is not nodes[number] and node.reachable:
                yield f"a reader is still connected to {socket}, another primary"
            if not node.up and not node.reachable:
                yield f"a reader is still connected to {socket}, which is down"

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
        host, socket = self.host, self.cluster.nodes[number].socket
        for port in PORTS:
            if host.node_behind(port) != number:
                yield f"port {port} leads to {host.node_behind(port)}"
        if host.source_seen_by(number) != host.gateway:
            yield "the primary would answer past the gateway"
        if host.two_back_ends:
            yield "both back ends have rules of ours"
        for entry in host.connections:
            if entry.socket != socket and entry.flow.gateway_port != READERS:
                yield f"a client is still connected to {entry.socket}"

    def wrong_slots(self, number: int) -> Iterator[str]:
        name = self.host.barman_slot
        slot = self.cluster.nodes[number].slots.get(name)
        if slot is None or not slot.reserved:
            yield f"the slot is {slot}"
        for other in self.cluster.standbys():
            if self.cluster.nodes[other].reachable and name in self.cluster.nodes[other].slots:
                yield f"standby {other} has the slot"

    def wrong_stream(self, number: int) -> list[str]:
        """Where Barman may have another branch of that timeline, or of a later one, it may stream from nobody; and of
        the one at which it stands."""
        barman, own = self.host.barman, self.cluster.nodes[number].past
        received = [name for name in barman.streaming if name not in FENCES]
        source, at = barman.streams_from, max((int(name[:8], 16) for name in received), default=0)
        others = [term.timeline for term in self.cluster.begun if term not in own]
        branches = [timeline for timeline in others if timeline >= own[-1].timeline or timeline == at]
        nobody = source is None or self.host.cut == (source, barman.streams_since)
        return [] if source == number or (branches and nobody) else [f"Barman streams from {source}"]

    def nothing_must_be_written(self) -> None:
        before = (list(self.host.what_changed()), self.journal.counts())
        self.pass_time(2 * TICK)
        after = (self.host.what_changed(), self.journal.counts())
        if before != after:
            new = after[0][len(before[0]) :]
            raise Violation(f"nothing has changed, and this was written: {new}, {before[1]} -> {after[1]}")

    def teardown(self) -> None:
        if not hasattr(self, "host") or self.oracle.accusation:
            return
        try:
            self.must_be_quiet()
            if bugs := self.journal.bugs():
                raise Violation(f"a bug: {bugs}")
            COUNTS.update(self.oracle.met())
        finally:
            self.journal.close()
