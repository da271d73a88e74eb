"""What is seen before a switchover: all that ``preflight`` judges, gathered and not judged here."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from psycopg import Error
from psycopg.conninfo import conninfo_to_dict

from repmgr_hooks.barman import archive
from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.cluster.readiness import Readiness, ReadinessProbe
from repmgr_hooks.engine.hold import Holdable
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.hook import open_fifo
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover.on_node import Ran, Repmgr, repmgr_of
from repmgr_hooks.switchover.record import Record, read
from repmgr_hooks.switchover.take_back import PAUSED
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host, Sql

REHEARSAL_LIMIT = 60.0
NO_PGBOUNCER = Holdable({}, ())


@dataclass(frozen=True)
class Facts:
    """``wanted``: the node that was asked for. ``ports``: those that routes open.

    ``paused``: for each node whether its repmgrd is paused, or why that is not known. ``pgbouncer``: what can be
    paused, and why the rest cannot. ``barmans_ports``: the gateway's ports through which Barman comes. ``rehearsal``:
    how repmgr's own dry run ended, or why there was none.
    """

    cluster: Cluster
    decision: PrimaryDecision
    wanted: int | None = None
    ports: tuple[str, ...] = ()
    changes: int = 0
    """How often the primary has changed lately (``flap_limit``)."""
    readiness: Readiness | None = None
    paused: Mapping[int, bool | str] = field(default_factory=dict)
    listens: bool = True
    serves: bool = True
    """Whether clients come to this gateway: of several, one has the address."""
    running: Record | None = None
    barmans_ports: tuple[str, ...] = ()
    barman_fails: str = ""
    pgbouncer: Holdable = NO_PGBOUNCER
    repmgr: Repmgr | None = None
    old_repmgr: Repmgr | None = None
    """That of the primary so far, if its node has a ``shell``."""
    rehearsal: Ran | str = ""

    @property
    def candidates(self) -> tuple[NodeState, ...]:
        """The nodes that could be promoted: the wanted one, or each standby that repmgr itself would promote."""
        standbys = [state for state in self.decision.states if state.role == "standby" and state.reachable]
        if self.wanted is not None:
            return tuple(state for state in standbys if state.node == self.wanted)
        able = self.readiness.candidates if self.readiness else ()
        return tuple(state for state in standbys if state.node in able) or tuple(standbys)

    @property
    def target(self) -> NodeState | None:
        """The node that is to be promoted, if that is clear."""
        return self.candidates[0] if len(self.candidates) == 1 else None

    @property
    def held(self) -> tuple[str, ...]:
        """The ports whose clients are held: not Barman's, which streams on, and not readers, who have other nodes."""
        return tuple(port for port in self.ports if port not in (*self.barmans_ports, *self.cluster.readers))


def gather(
    cluster: Cluster, ports: tuple[str, ...], wanted: int | None, finder: PrimaryFinder, host: Host, can: Holdable
) -> Facts:
    """Look at all that can be looked at without changing anything."""
    decision = finder.decision(host)
    limit = cluster.postgres.timeout
    asked = [Sql(state.node, PAUSED) for state in decision.states if state.reachable and not state.witness]
    paused = {
        node: str(answer) if isinstance(answer, OperationFailed) else answer[0][0] is True
        for node, answer in host.fetch_each(asked, limit).items()
    }
    barmans_ports, barman_fails = _barman(cluster, host)
    return Facts(
        cluster,
        decision,
        wanted,
        ports,
        finder.last_known.changes,
        ReadinessProbe().look(decision, cluster, host, finder.last_known.since),
        paused,
        _listens(Path(cluster.state_dir)),
        serves(cluster.gateway, host),
        read(cluster),
        barmans_ports,
        barman_fails,
        can,
    )


def rehearse(facts: Facts, host: Host) -> Facts:
    """Have repmgr say on the target whether it would work; what it is run with is noted too."""
    target, cluster = facts.target, facts.cluster
    source = facts.decision.primary
    if target is None or source is None or not cluster.nodes[target.node].shell:
        return facts
    try:
        known = repmgr_files.identities(source, host, cluster.postgres.timeout)
        if target.node not in known:
            return replace(facts, rehearsal="it is not in repmgr.nodes")
        there = {
            node: repmgr_of(node, cluster.nodes[node].shell, known[node], host, cluster.postgres.timeout)
            for node in (target.node, source)
            if node in known and cluster.nodes[node].shell
        }
        old = there.get(source)
        repmgr = replace(there[target.node], primary=old.directory if old else "")
        facts = replace(facts, repmgr=repmgr, old_repmgr=old)
        return replace(facts, rehearsal=repmgr.rehearse(host, REHEARSAL_LIMIT))
    except OperationFailed as error:
        return replace(facts, rehearsal=str(error))


def _barman(cluster: Cluster, host: Host) -> tuple[tuple[str, ...], str]:
    """Return the ports of ours through which Barman comes, or why it cannot be asked."""
    if cluster.barman is None:
        return (), ""
    try:
        said = archive.shown(cluster.barman, host, constant=True)
    except OperationFailed as error:
        return (), str(error)
    numbers = {port for name in ("conninfo", "streaming_conninfo") for port in _ports_here(said.get(name, ""), cluster)}
    return tuple(name for name, port in cluster.gateway.ports.items() if str(port) in numbers), ""


def _ports_here(text: str, cluster: Cluster) -> set[str]:
    """Return the ports of a conninfo, without those of a node to which it leads straight: the numbers may be the same.

    It may name several hosts, each with a port of its own, or one for all (libpq-connect, "Specifying Multiple Hosts").
    """
    try:
        given = conninfo_to_dict(text)
    except Error:
        return set()
    places = str(given.get("hostaddr") or given.get("host") or "").split(",")
    ports = str(given.get("port") or "5432").split(",")
    ports = ports * len(places) if len(ports) == 1 else ports
    nodes = {name for node in cluster.nodes.values() for name in (node.host, node.name)}
    return {port for place, port in zip(places, ports, strict=False) if place and _plain(place) not in nodes}


def _plain(place: str) -> str:
    """An IPv6 address may be written in several ways."""
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(place))
    return place


def _listens(state_dir: Path) -> bool:
    """True if the service reads its FIFO; nothing is written to it."""
    with contextlib.suppress(OSError):
        os.close(open_fifo(str(state_dir / "spool")))
        return True
    return False
