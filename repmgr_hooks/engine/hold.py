"""To hold clients, and to let them go on: by PgBouncer's PAUSE and RESUME, and at the gateway's ports.

``begin`` writes down what is about to be held; then ``pgbouncer.pause(hold.pgbouncers, ...)`` and ``held_ports.hold``
hold it; ``release`` ends it. The service takes back what was begun and not released (``service/hold_keeper.py``): when
the limit is over, when its holder is gone, at boot. What cannot be taken back now, for a PgBouncer is silent, stays
written down.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from repmgr_hooks import clock
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.handlers import pgbouncer as handler
from repmgr_hooks.journal import holds
from repmgr_hooks.journal.holds import Hold
from repmgr_hooks.system import held_ports, pgbouncer
from repmgr_hooks.system.pgbouncer import PgBouncer, paused_by_hand
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

LONGEST = 600.0
"""Seconds that a hold may last at most, whatever is asked for."""


def pgbouncers_of(managed: ManagedCluster) -> dict[str, tuple[str, ...]]:
    """Return the consoles that the routes name, with the databases of each."""
    found: dict[str, dict[str, None]] = {}
    for action in managed.actions:
        if isinstance(action.config, handler.Config):
            for console in action.config.consoles(managed.cluster):
                found.setdefault(console, {}).update(dict.fromkeys(action.config.databases))
    return {console: tuple(names) for console, names in found.items()}


@dataclass(frozen=True)
class Holdable:
    """What can be held by PgBouncer, and why the rest cannot: it does not answer, or somebody else has paused it."""

    pgbouncers: dict[str, tuple[str, ...]]
    problems: tuple[Problem, ...]


def holdable(managed: ManagedCluster, host: Host) -> Holdable:
    """Look which databases of which PgBouncers can be paused by us."""
    asked, problems = pgbouncers_of(managed), list[Problem]()
    can: dict[str, tuple[str, ...]] = {}
    settings = pgbouncer.settings_of(asked, host) if asked else {}
    for console, each in pgbouncer.look(asked, host).items() if asked else ():
        known = settings[console]
        if isinstance(each, OperationFailed) or isinstance(known, OperationFailed):
            problems += [Problem.of(said) for said in (each, known) if isinstance(said, OperationFailed)][:1]
            continue
        if shared := pgbouncer.shares_its_port(console, known):
            problems.append(shared)
            continue
        problems += paused_by_hand(each, asked[console], ())
        can[console] = tuple(n for n in asked[console] if (found := each.database(n)) and not found.paused)
        problems += [_unknown(each, name) for name in asked[console] if not each.database(name)]
    return Holdable({console: names for console, names in can.items() if names}, tuple(problems))


def _unknown(each: PgBouncer, name: str) -> Problem:
    hint = "name it in the section [databases] of pgbouncer.ini: '*' is not known before its first client"
    return Problem("no_database", f"{each.name}: it has no database {name}", hint)


def begin(
    managed: ManagedCluster,
    primary: int,
    timeline: int,
    *,
    limit: float,
    means: Sequence[str],
    why: str,
    pgbouncers: dict[str, tuple[str, ...]],
    ports: Sequence[str] = (),
) -> Hold:
    """Write down that clients are about to be held, by us, for at most ``limit`` seconds. Raises OperationFailed."""
    if there := holds.read(managed.cluster):
        what = f"clients are held already: {there.why} (process {there.holder.process})"
        raise OperationFailed(what, code="held", hint=f"repmgr-hooks status --cluster {managed.cluster.name}")
    hold = Hold(
        managed.cluster.name,
        holds.this_process(),
        clock.wall(),
        clock.monotonic(),
        min(limit, LONGEST),
        tuple(means),
        primary,
        timeline,
        why,
        pgbouncers,
        ports=tuple(ports),
    )
    holds.write(managed.cluster, hold)
    return hold


def confirm(managed: ManagedCluster, hold: Hold | None) -> None:
    """Look whether clients are still held: before what that is for, and after each step to it. Raises OperationFailed.

    A process may have been stopped for longer than it might hold clients, and does not know.
    """
    there = holds.read(managed.cluster)
    if hold is None or there is None or (there.holder, there.begun) != (hold.holder, hold.begun):
        why = "its record is gone"
    else:
        why = holds.why_over(there)
    if why:
        raise OperationFailed(f"clients are not held any more: {why}", code="hold_over", hint="try again")


def release(managed: ManagedCluster, hold: Hold, host: Host, keep: bool = False) -> list[OperationFailed]:
    """Let the clients go on; return what could not be taken back. The service tries that again, until it can.

    ``keep``: whoever holds them lives, and may be about to do what stands in the record: it stays, as one that is over.
    """
    if not hold.over:
        _note(managed, hold, dataclasses.replace(hold, over=True))
    at_ports = _open(managed, hold, host)
    failed = pgbouncer.resume(hold.pgbouncers, host)
    left = {console: names for console, names in hold.pgbouncers.items() if console in failed}
    if keep:
        return [*at_ports, *failed.values()]
    ports = hold.ports if at_ports else ()
    _note(managed, hold, dataclasses.replace(hold, over=True, pgbouncers=left, ports=ports) if left or ports else None)
    return [*at_ports, *failed.values()]


def _open(managed: ManagedCluster, hold: Hold, host: Host) -> list[OperationFailed]:
    """First the gateway's ports: PgBouncer comes through them too."""
    try:
        if hold.ports:
            held_ports.release(managed.cluster, host)
    except OperationFailed as error:
        return [error]
    return []


def _note(managed: ManagedCluster, hold: Hold, now: Hold | None) -> None:
    """Write down what is left of a hold, unless another one has begun. What cannot be written stops nothing."""
    try:
        if not _is_written(managed, hold):
            return
        if now is None:
            holds.forget(managed.cluster)
        else:
            holds.write(managed.cluster, now)
    except OperationFailed as error:
        log.error("%s", error)


def _is_written(managed: ManagedCluster, hold: Hold) -> bool:
    """Whether the record is this hold's, or one that holds something else. Raises OperationFailed."""
    try:
        there = holds.read(managed.cluster)
    except OperationFailed as error:
        if error.code == holds.NO_HOLD:
            return True
        raise
    return there is not None and (there.holder, there.begun) == (hold.holder, hold.begun)
