"""What several gateways see of each other: the name of each one's session on the primary says whether it has the
address. It needs no connection between them, and no right: a role sees the sessions of its own.

Nothing is decided by it but this: if two have the address at once, as when VRRP does not get through between them, the
one that ``hosts`` names first works on what exists once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from repmgr_hooks.cluster import barmans
from repmgr_hooks.cluster.in_step import NOT_IN_STEP
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.errors import OperationFailed, Problem, answer_of
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host, Sql

NAME = "repmgr_hooks {} {}"
"""PostgreSQL cuts it at 63 bytes (NAMEDATALEN); an IPv6 address has up to 39."""
HAS, WATCHES = "active", "standby"
PLAIN = "repmgr_hooks"
ALIVE_FOR = 30.0
"""A session that has asked nothing for so many seconds is no sign of life; a look comes every few seconds."""
MOVES_FOR = 1.0
"""So long may two have it while it moves."""
LIMIT = 2.0
ASK = """
select application_name, extract(epoch from clock_timestamp() - state_change)::float8,
       extract(epoch from clock_timestamp())::float8
  from (select set_config('application_name', coalesce(%s, current_setting('application_name')), false)) as said
  left join pg_stat_activity on usename = current_user and pid <> pg_backend_pid()
                            and application_name like 'repmgr_hooks %%'
"""
"""On the left, so that it is said although there is nobody else yet: the other side of a join need not be read."""


@dataclass(frozen=True)
class GatewaySeen:
    """A gateway: ``has_address`` is None if it has not looked at the cluster for long, or this cannot be seen.

    ``slot``: of its own Barman, if each gateway has one; ``streams``: whether that fetches what the slot keeps.
    """

    host: str
    own: bool
    has_address: bool | None
    slot: str = ""
    streams: bool | None = None

    def __str__(self) -> str:
        words = {True: "has the address", False: "watches", None: "does not watch the cluster"}
        barman = f"; its Barman {'streams' if self.streams else 'does not stream'} (slot {self.slot})"
        said = f"gateway {self.host}{' (this one)' if self.own else ''}: {words[self.has_address]}"
        return said if self.streams is None else f"{said}{barman}"


def look(
    cluster: Cluster, primary: int | None, host: Host, announce: bool = False, within: float = ALIVE_FOR
) -> tuple[GatewaySeen, ...]:
    """Look who else is there; ``announce``: this is the service, and says so too. Raises OperationFailed.

    Without a primary nothing is known of the others. What counts is what they have said ``within`` so many seconds.
    """
    return look_with_time(cluster, primary, host, announce, within)[0]


def look_with_time(
    cluster: Cluster, primary: int | None, host: Host, announce: bool = False, within: float = ALIVE_FOR
) -> tuple[tuple[GatewaySeen, ...], float | None]:
    """Return the same, and what the clock of the primary says. Raises OperationFailed."""
    gateway = cluster.gateway
    if not gateway.hosts:
        return (), None
    here = {each for each in gateway.hosts if host.route(each).local}
    has = serves(gateway, host)
    own = next((each for each in gateway.hosts if each in here), "")
    name = NAME.format(own, HAS if has else WATCHES) if announce and own else None
    sessions, time = _sessions(primary, name, min(within, ALIVE_FOR), host) if primary is not None else ({}, None)
    seen = (GatewaySeen(each, each in here, has if each in here else sessions.get(each)) for each in gateway.hosts)
    return tuple(seen), time


def _sessions(primary: int, name: str | None, within: float, host: Host) -> tuple[dict[str, bool], float | None]:
    with answer_of(primary):
        rows = host.fetch(Sql(primary, ASK, (name,)), LIMIT)
        alive = [str(said).split() for said, idle, _ in rows if idle is not None and float(idle) < within]
        times = [float(time) for *_, time in rows]
        return {words[1]: words[2] == HAS for words in alive if len(words) == 3}, times[0] if times else None


def take_back(node: int, host: Host) -> None:
    """Say on a node no more that we watch it as the primary. Raises OperationFailed."""
    host.fetch(Sql(node, ASK, (PLAIN,)), LIMIT)


CRITICAL = ("address_twice", "address_nowhere", "gateway_unnamed")
NOBODY_ELSE_TELLS = (*CRITICAL, NOT_IN_STEP)
"""The problems that a gateway without the address tells of, too."""
OF_RESERVES = ("gateway_silent", barmans.CODE)
"""What is wrong with one that only stands by."""
CODES = (*NOBODY_ELSE_TELLS, *OF_RESERVES)


def stands_back(cluster: Cluster, primary: int | None, host: Host) -> bool:
    """True if another gateway has the address too, and is named before this one; what cannot be seen is no reason.

    What it has said before the address came here is no sign of that: it may have died, and so given it to us.
    """
    if not cluster.gateway.hosts or primary is None:
        return False
    had_for = host.had_for(cluster.gateway.address)
    try:
        seen = look(cluster, primary, host, within=max((had_for or 0.0) - MOVES_FOR, 0.0))
    except OperationFailed:
        return False
    holders = [each for each in seen if each.has_address]
    return len(holders) > 1 and not holders[0].own


def others_watch(cluster: Cluster, primary: int, host: Host) -> bool:
    """True if another gateway watches this node as the primary; what cannot be seen proves nothing."""
    try:
        return any(each.has_address is not None and not each.own for each in look(cluster, primary, host))
    except OperationFailed:
        return False


def seen_and_wrong(
    cluster: Cluster, primary: NodeState | None, host: Host
) -> tuple[tuple[GatewaySeen, ...], tuple[Problem, ...]]:
    """Return what is seen of several gateways, and what is wrong with them or why it cannot be seen."""
    try:
        seen = look(cluster, primary.node if primary else None, host)
    except OperationFailed as error:
        return (), (Problem.of(error),)
    if primary is None:
        return seen, ()
    wrong = (*problems(cluster, seen), *barmans.problems(cluster, primary))
    slots = barmans.slots(cluster)
    return tuple(_with_barman(each, slots.get(each.host, ""), primary) for each in seen), wrong


def _with_barman(seen: GatewaySeen, slot: str, primary: NodeState) -> GatewaySeen:
    return replace(seen, slot=slot, streams=barmans.streams(primary, slot)) if slot else seen


def problems(cluster: Cluster, seen: Sequence[GatewaySeen]) -> Iterator[Problem]:
    """Return what is wrong with the gateways."""
    if not seen:
        return
    address = cluster.gateway.address
    holders = [each.host for each in seen if each.has_address]
    keepalived = "on each gateway: systemctl status keepalived"
    if len(holders) > 1:
        hint = f"let VRRP (IP protocol 112) pass between them; {keepalived}"
        yield Problem("address_twice", f"{address} is on {' and '.join(holders)} at once", hint)
    if not any(each.own for each in seen):
        hint = f"gateway: {{hosts: [...]}} must name an address of this host; now {', '.join(cluster.gateway.hosts)}"
        yield Problem("gateway_unnamed", "this host is none of the gateways", hint)
    elif not holders:
        yield Problem("address_nowhere", f"no gateway that watches the cluster has {address}", keepalived)
    for each in seen:
        if each.has_address is None and not each.own:
            hint = "on it: systemctl status repmgr-hooks keepalived"
            yield Problem("gateway_silent", f"the gateway {each.host} does not watch the cluster", hint)
