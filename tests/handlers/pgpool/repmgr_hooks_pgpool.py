"""Pgpool-II leads its clients to today's primary and to the standbys that answer (attach and detach through PCP).

It stands in a route after ``firewall: {open: app}``. A node that is silent, or a primary of the past, is detached: that
makes pgpool look which of the others is the primary (find_primary_node, in pgpool_main.c). One that has come back as a
standby is attached again, which pgpool by itself does only with ``auto_failback``. After a switchover, in which nobody
was silent, pgpool still takes the standby for the primary: it is detached, and attached again as what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.handlers import contract
from repmgr_hooks.settings.cluster import NodeId
from repmgr_hooks.settings.schema import AbsolutePath, Address, Identifier, Port
from repmgr_hooks.system.steps import Host, Program, Step

LIMIT = 5.0
STEP_LIMIT = 20.0
"""pgpool starts its processes anew when a node comes or goes, and answers no PCP meanwhile."""
BACKEND = re.compile(r"([^\s]{1,255}) ([0-9]{1,5}) ([0-3]) \S+ \S+ \S+ (\S+)", re.ASCII)
"""Of pcp_node_info: host, port, status, weight, the status in words, what PostgreSQL says, the role; and more."""
DOWN = 3

validate = contract.always_valid
fail_open_after = contract.never_fails_open
on_tick = contract.looks_on_tick
helper = contract.always_helps
shared = contract.exists_once
fingerprint = contract.no_fingerprint
warnings = contract.no_warnings
fence = contract.fence_nothing


@dataclass(frozen=True)
class Config:
    """Where PCP listens, as whom to log in, and the file with the password (PCPPASSFILE)."""

    host: Address
    user: Identifier
    passfile: AbsolutePath
    port: Port = 9898


@dataclass(frozen=True)
class Backend:
    """A backend of pgpool's: whether clients may be led there, and whether pgpool takes it for the primary."""

    number: int
    attached: bool
    primary: bool


def observe(config: Config, state: ClusterState, host: Host) -> dict[NodeId, Backend]:
    """Return the backend of each node."""
    return dict(_backends(host.run(_info(config, "-a"), LIMIT), state))


def _backends(listing: str, state: ClusterState) -> Iterator[tuple[int, Backend]]:
    """Backends are numbered in the order in which they are listed."""
    nodes = {tuple(state.cluster.endpoint(number)): number for number in state.cluster.nodes}
    for number, line in enumerate(listing.splitlines()):
        found = BACKEND.match(line)
        if found and (found[1], int(found[2])) in nodes:
            yield nodes[found[1], int(found[2])], Backend(number, int(found[3]) != DOWN, found[4] == "primary")


def plan(config: Config, state: ClusterState, seen: Mapping[NodeId, Backend]) -> list[Step]:
    """Return the steps: first the primary is there, then what must not be is gone, then the standbys are there."""
    good = {node for node in seen if _is_good(node, state)}
    taken = {node for node, backend in seen.items() if backend.primary and node != state.primary}
    mistaken = {node for node in taken if seen[node].attached}
    gone = {node for node, backend in seen.items() if backend.attached and node not in good} | mistaken
    absent = {node for node, backend in seen.items() if not backend.attached and node in good}
    first = absent & {state.primary}
    return [
        *(_attach(config, node, seen) for node in sorted(first)),
        *(_detach(config, node, seen) for node in sorted(gone)),
        *(_attach(config, node, seen) for node in sorted((absent | (mistaken & good)) - first)),
    ]


def _is_good(node: int, state: ClusterState) -> bool:
    there = state.states.get(node)
    return node == state.primary or bool(there and there.reachable and there.role == "standby")


def _attach(config: Config, node: int, seen: Mapping[int, Backend]) -> Step:
    return _step(config, "attach", node, seen[node].number, r"\A\S+ \d+ [12] ")


def _detach(config: Config, node: int, seen: Mapping[int, Backend]) -> Step:
    return _step(config, "detach", node, seen[node].number, r"\A\S+ \d+ 3 ")


def _step(config: Config, verb: str, node: int, backend: int, seen_as: str) -> Step:
    # Whatever went wrong, the programs of PCP answer 0; that it is so already is an error to them.
    program = _pcp(config, f"pcp_{verb}_node", "-n", str(backend), tolerate=".")
    return Step(
        f"{verb} node {node} (backend {backend}) in pgpool",
        program,
        STEP_LIMIT,
        kind=f"{verb}_backend",
        target=str(backend),
        node=node,
        until=_info(config, "-n", str(backend), expect=seen_as, tolerate="."),
        hint=f"see pgpool's log on {config.host}",
        helper=True,
    )


def housekeep(config: Config, state: ClusterState, host: Host) -> None:
    """Say which node pgpool has no backend for. Raises OperationFailed."""
    lacking = set(state.cluster.nodes) - observe(config, state, host).keys()
    if without := sorted(node for node in lacking if not state.cluster.nodes[node].witness):
        what = f"pgpool on {config.host} has no backend for node {without[0]}"
        raise OperationFailed(what, code="no_backend", hint="name it in pgpool.conf by its address, as it stands here")


def _info(config: Config, *which: str, expect: str = "", tolerate: str = "") -> Program:
    return _pcp(config, "pcp_node_info", *which, expect=expect, tolerate=tolerate)


def _pcp(config: Config, name: str, *more: str, expect: str = "", tolerate: str = "") -> Program:
    how = ("-h", config.host, "-p", str(config.port), "-U", config.user, "-w")
    environment = {"PCPPASSFILE": config.passfile}
    return Program((name, *how, *more), env=environment, expect=expect, tolerate=tolerate)
