"""What ``status`` shows of each PgBouncer: whether its clients are served, held by us, or paused by somebody else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from repmgr_hooks.engine.hold import pgbouncers_of
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.journal import holds
from repmgr_hooks.journal.holds import Hold
from repmgr_hooks.switchover import record
from repmgr_hooks.switchover.record import Record
from repmgr_hooks.system.pgbouncer import PgBouncer, look, paused_by_hand
from repmgr_hooks.system.steps import Host, console_name

SERVED, HELD, PAUSED, DISABLED, UNKNOWN = "served", "held", "paused", "disabled", "unknown"
WORDS = {
    SERVED: "",
    HELD: "HELD by us",
    PAUSED: "PAUSED, and not by us",
    DISABLED: "DISABLED",
    UNKNOWN: "not known to it",
}


@dataclass(frozen=True)
class Pooled:
    """One PgBouncer: what its clients of each database meet, or why it does not answer."""

    name: str
    databases: Mapping[str, str] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    def __str__(self) -> str:
        if not self.databases:
            return f"PgBouncer {self.name}: no answer"
        said = (f"{name} {WORDS[state]}".strip() for name, state in self.databases.items())
        return f"PgBouncer {self.name}: {', '.join(said)}"


def hold_of(managed: ManagedCluster) -> tuple[Hold | None, tuple[Problem, ...]]:
    """Return the hold of a cluster, or why it cannot be read."""
    try:
        return holds.read(managed.cluster), ()
    except OperationFailed as error:
        return None, (Problem.of(error),)


def switchover_of(managed: ManagedCluster) -> tuple[Record | None, tuple[Problem, ...]]:
    """Return the switchover that is under way, or was left; or why its record cannot be read."""
    try:
        return record.read(managed.cluster), ()
    except OperationFailed as error:
        return None, (Problem.of(error),)


def pgbouncers(managed: ManagedCluster, hold: Hold | None, host: Host) -> tuple[Pooled, ...]:
    """Ask each PgBouncer that a route names."""
    asked = pgbouncers_of(managed)
    found = look(asked, host) if asked else {}
    ours = {console: hold.ours(console) if hold else () for console in asked}
    return tuple(_pooled(console, each, asked[console], ours[console]) for console, each in found.items())


def _pooled(console: str, each: PgBouncer | OperationFailed, names: tuple[str, ...], ours: tuple[str, ...]) -> Pooled:
    if isinstance(each, OperationFailed):
        return Pooled(console_name(console), problems=(Problem.of(each),))
    states = {name: _state(each, name, name in ours) for name in names}
    return Pooled(console_name(console), states, tuple(paused_by_hand(each, names, ours)))


def _state(each: PgBouncer, name: str, ours: bool) -> str:
    found = each.database(name)
    if found is None:
        return UNKNOWN
    if found.paused:
        return HELD if ours else PAUSED
    return DISABLED if found.disabled else SERVED
