"""What one program sees and another makes so: a virtual address, a name in the DNS, a route in a cloud.

``look`` prints the address of the node that it leads to now, or anything else; ``make`` makes it lead to the primary.
Both find the primary in their environment (``PRIMARY``, ``PRIMARY_HOST``). ``make`` may be run again when it was right
already, and it has worked when ``look`` says so: what takes its time to get around (the DNS) is waited for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.handlers import contract
from repmgr_hooks.settings.schema import ProgramWords, Timeout
from repmgr_hooks.system.steps import Host, Program, Step

LOOK_LIMIT = 10.0

validate = contract.always_valid
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
    """Two programs, each with its arguments; ``timeout``: seconds until ``look`` sees what ``make`` has made."""

    look: ProgramWords
    make: ProgramWords
    timeout: Timeout = 30


def observe(config: Config, state: ClusterState, host: Host) -> bool:
    """Return whether it leads to the primary."""
    return host.run(Program(config.look, env=_given(state)), LOOK_LIMIT).strip() == state.primary_host


def plan(config: Config, state: ClusterState, seen: bool) -> list[Step]:
    """Return the one step that makes it so."""
    if seen:
        return []
    name = PurePath(config.make[0]).name
    return [
        Step(
            f"run {name}, until {state.primary_host} is seen",
            Program(config.make, env=_given(state), whole=False),
            config.timeout,
            kind="make_state",
            target=name,
            node=state.primary,
            until=Program(config.look, env=_given(state), expect=rf"\A\s*{re.escape(state.primary_host)}\s*\Z"),
            every=config.timeout,
            hint=f"see what {config.look[0]} prints",
        )
    ]


def _given(state: ClusterState) -> Mapping[str, str]:
    return {"PRIMARY": str(state.primary), "PRIMARY_HOST": state.primary_host}
