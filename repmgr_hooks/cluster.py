"""What a cluster is, what its nodes say about themselves, and which of them is the primary.

``decide`` is a pure function: the same observations always give the same verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from psycopg import conninfo

from repmgr_hooks.errors import StepFailed
from repmgr_hooks.event import Event
from repmgr_hooks.schema import NOT_AN_OPTION, Address, Between, Identifier, NotEmpty, Port, Positive, Shape
from repmgr_hooks.steps import Rows, Sql, World

CHAIN = r"(?!(?:PREROUTING|INPUT|OUTPUT|POSTROUTING)$)[A-Za-z][A-Za-z0-9_-]{0,27}"
ChainName = Annotated[str, Shape(CHAIN, "a chain name of our own, at most 28 characters")]
Words = Annotated[tuple[str, ...], NotEmpty()]
NodeId = Annotated[int, Between(1, 2**31 - 1)]
SystemIdentifier = Annotated[str, Shape(r"[0-9]{10,20}", "what pg_control_system() says, in quotes")]
SlotName = Annotated[str, Shape(r"[a-z0-9_]{1,63}", "a slot name: lower-case letters, digits and underscores")]


@dataclass(frozen=True)
class Node:
    """One database node, under its repmgr node id."""

    host: Address


@dataclass(frozen=True)
class Postgres:
    """How to reach every node; ``passfile`` is a libpq password file. Times are in seconds."""

    port: Port = 5432
    user: Identifier = "repmgr"
    dbname: Identifier = "repmgr"
    passfile: str = ""
    connect_timeout: Positive = 2


@dataclass(frozen=True)
class Chains:
    """Our own chains in the nat table."""

    dnat: ChainName = "repmgr_dnat"
    snat: ChainName = "repmgr_snat"


@dataclass(frozen=True)
class Gateway:
    """The fixed address and ports that clients know."""

    address: Address
    ports: Mapping[Identifier, Port]
    chains: Chains = Chains()


@dataclass(frozen=True)
class Barman:
    """Barman's name for this cluster, its slot, and how to run ``barman`` (a prefix such as sudo or ssh)."""

    server: Identifier
    slot: SlotName = "barman"
    command: Words = ("barman",)


@dataclass(frozen=True)
class Cluster:
    """One repmgr cluster as the configuration describes it. Times are in seconds."""

    nodes: Mapping[NodeId, Node]
    gateway: Gateway
    barman: Barman | None = None
    postgres: Postgres = Postgres()
    system_identifier: SystemIdentifier = ""
    primary_wait: Positive = 30
    name: str = field(default="", metadata=NOT_AN_OPTION)
    """The cluster's key in the file."""

    def conninfos(self) -> dict[int, str]:
        """Return the libpq connection string of each node; no password is ever in one."""
        passfile = {"passfile": self.postgres.passfile} if self.postgres.passfile else {}
        return {
            number: conninfo.make_conninfo(
                host=node.host,
                port=self.postgres.port,
                user=self.postgres.user,
                dbname=self.postgres.dbname,
                connect_timeout=self.postgres.connect_timeout,
                **passfile,
            )
            for number, node in self.nodes.items()
        }


@dataclass(frozen=True)
class NodeState:
    """What one node said, or in ``error`` why it said nothing."""

    node: int
    error: str = ""
    in_recovery: bool = True
    timeline: int = 0
    system_identifier: str = ""
    registered_primaries: tuple[int, ...] = ()
    """The active primaries in this node's own ``repmgr.nodes``."""

    @property
    def reachable(self) -> bool:
        """True if the node answered."""
        return not self.error

    @property
    def is_primary(self) -> bool:
        """True if the node answered that it is not in recovery."""
        return self.reachable and not self.in_recovery

    @property
    def made_by_repmgr(self) -> bool:
        """True if the node's own repmgr metadata names it, and no other, as the active primary."""
        return self.registered_primaries == (self.node,)

    def __str__(self) -> str:
        if self.error:
            return f"node {self.node}: {self.error.removeprefix(f'node {self.node}: ')}"
        return f"node {self.node}: {'standby' if self.in_recovery else 'primary'}, timeline {self.timeline}"


@dataclass(frozen=True)
class Verdict:
    """Which node is the primary (None: unknown, and then nothing may be changed), and why."""

    primary: int | None
    timeline: int
    reason: str
    states: tuple[NodeState, ...] = ()


@dataclass(frozen=True)
class Decided:
    """All that a handler's ``observe`` and ``plan`` may rely on: the cluster, its primary, and the event, if any."""

    cluster: Cluster
    primary: int
    timeline: int
    states: Mapping[int, NodeState] = field(default_factory=dict)
    event: Event | None = None

    @property
    def primary_host(self) -> str:
        """The address of the primary."""
        return self.cluster.nodes[self.primary].host

    @property
    def barman(self) -> Barman:
        """Barman's settings; the configuration was refused if a handler needs them and they are not there."""
        assert self.cluster.barman is not None
        return self.cluster.barman

    @property
    def standbys(self) -> tuple[int, ...]:
        """The nodes that answered that they are in recovery."""
        return tuple(n for n, state in sorted(self.states.items()) if state.reachable and state.in_recovery)


# The timeline of a primary comes from its WAL file name: pg_control_checkpoint() lags until the first checkpoint after
# a promotion. On a standby, received_tli runs ahead of pg_control's.
LOOK = """
select pg_is_in_recovery(),
       case when pg_is_in_recovery()
            then greatest((select max(received_tli) from pg_stat_wal_receiver),
                          (select timeline_id from pg_control_checkpoint()))
            else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
       (select system_identifier::text from pg_control_system()),
       array(select node_id from repmgr.nodes where type = 'primary' and active order by node_id)
"""


def observe(cluster: Cluster, world: World, nodes: Sequence[int] = ()) -> tuple[NodeState, ...]:
    """Ask the nodes (default: all) side by side; none costs more than a second over the connect time-out."""
    wanted = list(nodes) or sorted(cluster.nodes)
    answers = world.fetch_each([Sql(node, LOOK) for node in wanted], 1.0 + cluster.postgres.connect_timeout)
    return tuple(_state(node, answers[node]) for node in wanted)


def _state(node: int, answer: Rows | StepFailed) -> NodeState:
    if isinstance(answer, StepFailed):
        return NodeState(node, error=str(answer))
    in_recovery, timeline, system_identifier, primaries = answer[0]
    return NodeState(node, "", in_recovery, timeline, system_identifier, tuple(primaries))


def decide(
    states: Sequence[NodeState], system_identifier: str = "", routed_to: int | None = None, known_timeline: int = 0
) -> Verdict:
    """Return the primary, or an unknown that says why.

    ``known_timeline`` is the highest timeline that any primary was ever seen on: one on an older timeline has come back
    from the dead.
    ``system_identifier`` is the expected one (empty: all nodes must agree); ``routed_to`` is the node that clients are
    sent to now, kept when two nodes are out of recovery and repmgr made neither.
    """
    reachable = [state for state in states if state.reachable]
    systems = {state.system_identifier for state in reachable}
    if system_identifier and systems - {system_identifier}:
        return _unknown(states, f"not every node has the system identifier {system_identifier}")
    if len(systems) > 1:
        return _unknown(states, "the nodes belong to different systems: " + ", ".join(sorted(systems)))
    primaries = [state for state in reachable if state.is_primary]
    if not primaries:
        return _unknown(states, "no node is out of recovery")
    newest = max([state.timeline for state in reachable] + [known_timeline])
    leaders = [state for state in primaries if state.timeline == newest]
    if not leaders:
        return _unknown(states, f"a primary on an older timeline than {newest} has come back")
    if len(leaders) > 1:
        return _unknown(states, f"{len(leaders)} nodes are primary on timeline {newest}")
    leader = leaders[0]
    if len(primaries) == 1:
        return Verdict(leader.node, newest, "the only node out of recovery", tuple(states))
    if leader.made_by_repmgr:
        return Verdict(leader.node, newest, "the newest of several primaries, and repmgr's own", tuple(states))
    kept = [state for state in primaries if state.node == routed_to]
    if kept:
        reason = f"kept: node {leader.node} was promoted beside it, and not by repmgr"
        return Verdict(kept[0].node, kept[0].timeline, reason, tuple(states))
    return _unknown(states, f"several primaries, and repmgr did not promote the newest, node {leader.node}")


def _unknown(states: Sequence[NodeState], why: str) -> Verdict:
    return Verdict(None, 0, why, tuple(states))
