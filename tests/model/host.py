"""The host as the worker meets it: the simulated cluster, a gateway and Barman. The worker may die at any use."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import LOOK
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import StepRow
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.system.steps import Program, Rows, Sql
from tests.fake import SENDER_PID, Connection, FakeHost, FakeNode, FakeSlot
from tests.fake_nft import Chain
from tests.model.cluster import Cluster, ModelNode
from tests.model.oracle import Oracle
from tests.model.setting import READERS

DNAT, SNAT = "repmgr_dnat", "repmgr_snat"
DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
USE_TAKES = 0.002
MOST_USES = 100_000
PORTS = {"barman": FakeHost.barman_port, "app": FakeHost.app_port}


class Killed(KeyboardInterrupt):
    """The worker is gone, as after SIGKILL: nothing of it runs on. Nothing else goes through every handler."""


class ModelHost(FakeHost):
    """Each use of it takes a moment, in which something may happen, or the worker die."""

    def __init__(self, cluster: Cluster, oracle: Oracle, backend: str = "iptables") -> None:
        super().__init__()
        self.backend = backend
        self.cluster, self.oracle = cluster, oracle
        self.nodes: dict[int, FakeNode] = dict(cluster.nodes)
        self.dead = False
        self._fuse = 0
        self._soon: list[tuple[int, Callable[[], object]]] = []
        self._waited_for: set[int] = set()
        self._reached: dict[str, int | None] = {}
        self._readers_read: frozenset[int] = frozenset()
        """Those whom the worker has last found in the rules."""
        self.cut: tuple[int | None, float] = None, 0.0
        """The stream of Barman's whose connection was cut: from which node, and since when it was there. It goes on
        here, where a stream of the stale primary's may; a real one would have ended."""
        """Walking the nat table is most of what a run costs."""
        self._uses = 0
        self._worker = threading.get_ident()

    # What the model does with it.

    def let(self, happen: Callable[[], object], after: int = 0) -> None:
        """Let something happen now, or during the worker's next work, after so many uses of the host."""
        if after:
            self._soon.append((self._uses + after, happen))
            return
        happen()
        self._settle()

    def pass_time(self, seconds: float) -> None:
        """The clock goes on, and the worker does nothing."""
        self._clock += seconds

    def kill_after(self, uses: int) -> None:
        """The worker dies at the use after so many."""
        self._fuse = self._uses + uses

    def let_it_live(self) -> None:
        """Nothing kills it, nothing is going to happen to the cluster."""
        self._fuse = 0
        self._soon.clear()

    def reborn(self) -> None:
        """The worker is started anew, and knows nothing."""
        self.dead = False
        self._fuse = 0
        self._waited_for.clear()

    def flush(self, jumps: bool) -> None:
        """Somebody wipes our chains, with the rules that lead into them or without."""
        for name, rules in self.nat.chains.items():
            kept = [] if name in (DNAT, SNAT) else [rule for rule in rules if "repmgr_" not in rule or not jumps]
            self.nat.chains[name] = kept
        self.nat.generation += 1
        if jumps:
            self.nft.flush()
        for name, chain in self._table().items():
            if name in (DNAT, SNAT):
                chain.rules.clear()

    def lead_by_hand(self, port: str, number: int) -> None:
        """Somebody adds a rule of his own to our chain, in the first place."""
        node = self.nodes[number]
        if table := self._table():
            expr = [
                {"match": {"op": "==", "left": DPORT, "right": PORTS[port]}},
                {"dnat": {"addr": node.host, "port": node.port}},
            ]
            table[DNAT].rules.insert(0, {"expr": expr})
            self.nft.generation += 1
            return
        led = f"-d {self.gateway}/32 -p tcp -m tcp --dport {PORTS[port]}"
        rule = f"-A {DNAT} {led} -j DNAT --to-destination {node.socket}"
        self.nat.chains.setdefault(DNAT, []).insert(0, rule)
        self.nat.generation += 1

    def _table(self) -> dict[str, Chain]:
        return self.nft.tables.get(("ip", "repmgr_hooks_main"), {})

    @property
    def two_back_ends(self) -> bool:
        """Both have rules of ours."""
        return bool(self._table()) and "repmgr" in self.nat.save()

    def source_seen_by(self, number: int) -> str | None:
        """The address that a node sees as that of who was led there."""
        node = self.nodes[number]
        return (self.nft if self._table() else self.nat).source_seen_by(node.host, node.port)

    def connect(self, port: str) -> int | None:
        """A client connects to wherever a port leads, and stays."""
        number = self.node_behind(port)
        if number is not None and self.nodes[number].reachable:
            flow = Flow("10.0.0.30", 40_000 + self._uses % 20_000, self.gateway, PORTS[port])
            self._connect(flow, number)
        return number

    def _connect(self, flow: Flow, number: int) -> None:
        self.connections.append(Connection(flow, self.nodes[number].host, port=self.nodes[number].port))

    def make_slot(self, number: int) -> None:
        """Somebody makes Barman's slot on a node, or a clone has kept it."""
        self.nodes[number].slots.setdefault(self.barman_slot, FakeSlot())

    def drop_slot(self, number: int) -> None:
        """Barman's slot is gone, and the stream with it."""
        if self.barman.streams_from == number:
            self._end_stream()
        self.nodes[number].slots.pop(self.barman_slot, None)

    def lose_wal(self, number: int) -> None:
        """The node has removed the WAL that the slot held (max_slot_wal_keep_size)."""
        if self.barman.streams_from == number:
            self._end_stream()
        if self.barman_slot in self.nodes[number].slots:
            self.nodes[number].slots[self.barman_slot].reserved = False

    def end_stream(self) -> None:
        """Barman's receive-wal is killed."""
        if self.barman.streams_from is not None:
            self._end_stream()

    def cron(self) -> None:
        """Barman's own cron starts the stream from wherever its port leads to."""
        if self.barman.health == "good":
            self._start_stream()

    def node_behind(self, port: str) -> int | None:
        """The node that clients of a port reach."""
        if self._reached.get("generation") != (generation := self.nat.generation + self.nft.generation):
            self._reached = {"generation": generation}
        if port not in self._reached:
            socket = self.reached(self.gateway, PORTS[port], "OUTPUT" if port == "barman" else "PREROUTING")
            found = [number for number, node in self.nodes.items() if node.socket == socket]
            self._reached[port] = found[0] if found else None
        return self._reached[port]

    def readers_on(self) -> frozenset[int]:
        """The nodes that clients of the port for readers reach."""
        spread = self.nft.spread(self.gateway, READERS) or self.nat.spread(self.gateway, READERS)
        return frozenset(n for n, node in self.nodes.items() if node.socket in [to for to, _ in spread])

    def read(self, path: str) -> str:
        self.use()
        return super().read(path)

    def read_on(self, which: int) -> int | None:
        """A reader connects to one of the nodes where they come, and stays."""
        there = sorted(number for number in self.readers_on() if self.nodes[number].reachable)
        if not there:
            return None
        number = there[which % len(there)]
        flow = Flow("10.0.0.31", 40_000 + self._uses % 20_000, self.gateway, READERS)
        self._connect(flow, number)
        return number

    def _settle(self) -> None:
        self.cluster.settle()
        source = self.barman.streams_from
        if source is not None and not self.nodes[source].reachable:
            self._end_stream()
            # Behind a cut link the receiver hears of nothing, and waits.
            self.barman.receiver_hangs = source in self.cluster.hidden
        self._waited_for = {number for number in self._waited_for if not self.nodes[number].reachable}

    def use(self) -> None:
        """A moment passes. Raises Killed."""
        if threading.get_ident() != self._worker:
            return
        if self.dead:
            raise Killed
        self._uses += 1
        self._clock += USE_TAKES
        due = [entry for entry in self._soon if entry[0] <= self._uses]
        for entry in due:
            self._soon.remove(entry)
            entry[1]()
        if due:
            self._settle()
        if self._fuse and self._uses >= self._fuse:
            self.dead = True
            raise Killed
        if self._uses >= MOST_USES:
            self.oracle.accuse("the worker never comes to an end")

    # repmgr_hooks.system.steps.World

    def sleep(self, seconds: float) -> None:
        self.use()
        self._clock += seconds

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        """A node behind a cut link is waited for once."""
        self.use()
        asked = list(queries)
        hidden = {sql.node for sql in asked if sql.node in self.cluster.hidden}
        waits = bool(hidden - self._waited_for)
        self._waited_for |= hidden
        answers = {sql.node: self._answer(sql) for sql in asked}
        for sql in asked:
            if sql.statement == LOOK:
                self.oracle.looked(sql.node, answers[sql.node])
        if waits:
            self._clock += min(limit, 2.0)
        return answers

    def run(self, program: Program, limit: float) -> str:
        self.use()
        self.ran.clear()
        if program.argv[0] != "iptables-restore" and program.argv != ("nft", "-j", "-f", "-"):
            output = super().run(program, limit)
            if program.argv[:2] == ("conntrack", "-D") and str(PORTS["barman"]) in program.argv:
                source = self.nodes.get(self.barman.streams_from or 0)
                if source and source.host in program.argv:
                    self.cut = self.barman.streams_from, self.barman.streams_since
            if program.argv[0] in ("iptables-save", "nft"):
                self._readers_read = self.readers_on()
            return output
        before, readers = {port: self.node_behind(port) for port in PORTS}, self.readers_on()
        output = super().run(program, limit)
        # Where somebody has flushed them since they were read, those who were there are let in again, not anew.
        self.oracle.spread(readers | self._readers_read, self.readers_on())
        self.oracle.swapped(before, {port: self.node_behind(port) for port in PORTS})
        if self.oracle.accusation:
            raise Killed  # not the accusation: the worker survives any error
        return output

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        self.use()
        super().reset_clients(flows)

    def close_idle(self) -> None:
        self._waited_for.clear()

    def _answer(self, sql: Sql) -> Rows | OperationFailed:
        node = self.cluster.nodes[sql.node]
        if sql.statement == LOOK and node.reachable:
            return self._said_by(sql.node, node)
        return super()._answer(sql)

    def _said_by(self, number: int, node: ModelNode) -> Rows:
        source = self.nodes.get(node.upstream or 0)
        said_of = {"status": "streaming", "received_tli": node.timeline}
        receiver = source and {**said_of, "sender_host": source.host, "sender_port": source.port}
        slots = [slot.as_row(name, SENDER_PID) for name, slot in node.slots.items()]
        slots += self._repmgrs_slots(number)
        senders = self.senders(number)
        rows = [
            [other, "primary" if other in node.registered else "standby", True, None, 100, "default"]
            for other in self.nodes
        ]
        said = (node.in_recovery, node.timeline, node.system_identifier, node.lsn(), receiver, slots, senders, rows)
        return [(*said, 0x100_0000, node.replayed(), node.replay_paused)]

    def _repmgrs_slots(self, number: int) -> list[dict[str, object]]:
        """The slots through which standbys stream, where two have one address."""
        if len({node.host for node in self.nodes.values()}) == len(self.nodes):
            return []
        followers = [n for n, node in self.nodes.items() if node.in_recovery and node.upstream == number]
        return [FakeSlot(active=True).as_row(f"repmgr_slot_{n}", SENDER_PID + n) for n in followers]


class MortalJournal(Journal):
    """A journal in memory that outlives the worker; the worker may die right before each of its changes."""

    def __init__(self) -> None:
        super().__init__(Path(":memory:"))
        self.before_change: Callable[[], None] = lambda: None
        self.on_decision: Callable[[LastKnownPrimary], None] = lambda last_known: None

    def begin_run(self, cluster: str, cause: str, attempt: int, events: Iterable[int]) -> int:
        self.before_change()
        return super().begin_run(cluster, cause, attempt, events)

    def add_step(self, run: int, step: StepRow) -> None:
        self.before_change()
        super().add_step(run, step)

    def end_run(self, *how: Any) -> None:
        self.before_change()
        super().end_run(*how)

    def remember(self, cluster: str, last_known: LastKnownPrimary) -> None:
        self.before_change()
        self.on_decision(last_known)
        super().remember(cluster, last_known)

    def counts(self) -> tuple[int, ...]:
        """How many rows each table has."""
        tables = ("event", "run", "step", "role")
        return tuple(self._db.execute(f"select count(*) from {table}").fetchone()[0] for table in tables)

    def unhandled(self) -> int:
        """How many events that came through the hook no whole run has covered."""
        cut_off = "run is null or run in (select id from run where message = 'cut off')"
        (number,) = self._db.execute(f"select count(*) from event where spooled is not null and ({cut_off})").fetchone()
        return int(number)

    def bugs(self) -> list[str]:
        """What runs and steps have said of a bug."""
        said = "select message from run where message like '%a bug in%' union select error from step"
        return [text for (text,) in self._db.execute(f"{said} where error like '%a bug in%'").fetchall()]
