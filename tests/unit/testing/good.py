"""A handler without fault, and its world: each planted fault is this one with one line changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.errors import Problem, mistake
from repmgr_hooks.handlers import contract
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Program, Step

fail_open_after = contract.never_fails_open
on_tick = contract.looks_on_tick
helper = contract.never_helps
shared = contract.each_gateways_own
fingerprint = contract.no_fingerprint
warnings = contract.no_warnings
housekeep = contract.no_housekeeping
fence = contract.fence_nothing


@dataclass(frozen=True)
class Config:
    name: str
    times: int = 2


def validate(config: Config, cluster: Cluster) -> Iterable[Problem]:
    if not config.name:
        yield mistake("'name' must not be empty")


def observe(config: Config, state: ClusterState, host: Host) -> dict[str, str]:
    said = host.run(Program(("lookup", config.name)), 5)
    return {"address": said.strip(), "ready": host.run(Program(("ready",)), 5)}


def plan(config: Config, state: ClusterState, seen: dict[str, str]) -> list[Step]:
    steps = []
    if seen["ready"] != "yes":
        steps.append(Step("begin", Program(("begin",)), 5))
    if seen["address"] != state.primary_host:
        steps.append(Step(f"name {state.primary_host}", Program(("name", config.name, state.primary_host)), 5))
    return steps
