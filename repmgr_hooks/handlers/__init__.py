"""Where handlers come from: ours stand in ``BUILT_IN``, others in the entry-point group ``repmgr_hooks.handlers``.

What a handler is stands in ``contract.py``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from repmgr_hooks import clock
from repmgr_hooks.errors import Problem, UsageError, mistake
from repmgr_hooks.files import untrusted
from repmgr_hooks.handlers.contract import NAMES, Handler

if TYPE_CHECKING:
    from importlib import metadata

    from repmgr_hooks.handlers import barman, command, failover_slots, firewall, notify, pgbouncer, slot

    KEEP_THE_CONTRACT: tuple[Handler, ...] = (barman, command, failover_slots, firewall, notify, pgbouncer, slot)

GROUP = "repmgr_hooks.handlers"
SEE = "see repmgr_hooks/handlers/README.md"


@dataclass(frozen=True)
class Installed:
    """A handler and where it comes from."""

    name: str
    module: Handler
    origin: str


BUILT_IN: Mapping[str, str] = {
    "barman": "Barman streams from the primary, and has all WAL up to the last closed file of the primary's timeline.",
    "command": "A program of the user's, run on its events, with the event as JSON on stdin and in the environment. "
    "No shell.",
    "failover_slots": "Standbys keep PostgreSQL's failover slots in sync: a database in ``primary_conninfo``, no "
    "leftover in the way.",
    "firewall": "The gateway's ports lead to the primary: DNAT and SNAT in our own chains, swapped in one transaction.",
    "notify": "Send a message about an event to the receivers under ``alerts``; the service does it in the background.",
    "pgbouncer": "PgBouncers pool no connection to a former primary, and let clients go on that we have held.",
    "slot": "Barman's physical slot, or another: on the primary with WAL reserved; on standbys absent, or following "
    "the primary's.",
}
"""Each is the module of its name here, which is imported when a route names it; and what it says of itself."""
OURS = "built in"
LOAD_LIMIT = 20.0
"""Seconds for the import of all plug-ins: repmgrd may wait for it, and the service's watchdog (systemd/README.md)."""
CONDITION = "when"
"""Stands beside the name of a handler in a route."""


@functools.cache
def handler(name: str, here: bool = True) -> Installed | None:
    """Return a handler; None if there is none of this name. Raises UsageError as ``plug_ins`` does."""
    return Installed(name, _built_in(name), OURS) if name in BUILT_IN else plug_ins(here).get(name)


def built_in() -> dict[str, Handler]:
    """Return all of ours; only who lists their options needs them together."""
    return {name: _built_in(name) for name in BUILT_IN}


def _built_in(name: str) -> Handler:
    return cast(Handler, importlib.import_module(f"{__name__}.{name}"))


@functools.cache
def plug_ins(here: bool = True) -> Mapping[str, Installed]:
    """Return the others by name. Raises UsageError for one that cannot be loaded or breaks the contract.

    ``here``: on the host that does what they plan, where others must not be able to change them; root's programs load
    nothing else anywhere.
    """
    found: dict[str, Installed] = {}
    if not _any_plug_in():
        return found
    from importlib import metadata  # takes as long as all else that a command without plug-ins imports

    until = clock.monotonic() + LOAD_LIMIT
    for point in metadata.entry_points(group=GROUP):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        if point.name == CONDITION:
            what = f"handler {point.name!r} of {origin}: in a route 'when' is the condition of an action"
            raise UsageError(what, hint="rename it")
        if point.name in BUILT_IN or point.name in found:
            by = OURS if point.name in BUILT_IN else found[point.name].origin
            what = f"handler {point.name!r} of {origin} is already there ({by})"
            raise UsageError(what, hint="rename it")
        found[point.name] = Installed(point.name, _load(point, origin, here, until), origin)
    return found


def _any_plug_in() -> bool:
    """False if no package beside us names our group; what is no plain directory, importlib may know how to read.

    Each lists its entry points in a file (packaging.python.org, "Entry points specification").
    """
    try:
        places = [place for place in (Path(name) for name in sys.path if name) if place.exists()]
        entries = [entry for place in places for entry in place.iterdir()]
    except OSError:
        return True
    if any(entry.suffix in (".egg", ".egg-link") for entry in entries):
        return True
    return any(_names_ours(entry) for entry in entries if entry.suffix in (".dist-info", ".egg-info"))


def _names_ours(package: Path) -> bool:
    try:
        return GROUP.encode() in (package / "entry_points.txt").read_bytes()
    except OSError:
        return False


def _load(point: metadata.EntryPoint, origin: str, here: bool, until: float) -> Handler:
    from repmgr_hooks.background import Aside  # for plug-ins alone

    aside = Aside(f"load {point.name}")
    try:
        found = importlib.util.find_spec(point.module) if here or os.geteuid() == 0 else None
        if found and found.origin and (wrong := untrusted(Path(found.origin))):
            what = f"handler {point.name!r} of {origin} is refused: {wrong}"
            raise UsageError(what, hint=wrong.hint)
        with contextlib.redirect_stdout(sys.stderr):  # ours may be JSON
            module = aside.ask(point.load, max(until - clock.monotonic(), 0.1))
    except UsageError:
        raise
    except BaseException as error:  # whatever a plug-in raises
        if aside.stands_still():
            what = f"handler {point.name!r} of {origin} cannot be loaded: plug-ins have {LOAD_LIMIT:.0f} s in all"
            raise UsageError(
                what, hint="correct or remove it; what takes long belongs in 'observe' or a step"
            ) from None
        what = f"handler {point.name!r} of {origin} cannot be loaded: {error!r}"
        raise UsageError(what, hint="correct or remove it") from error
    finally:
        aside.end()
    if breach := breaks_contract(module):
        raise UsageError(f"handler {point.name!r} of {origin}: {breach}", hint=breach.hint)
    handler: Handler = module
    return handler


def breaks_contract(module: object) -> Problem | None:
    """Return how a module breaks the contract; None if it does not."""
    import difflib  # for plug-ins alone

    there = [name for name in vars(module) if not name.startswith("_")]
    missing = [name for name in NAMES if name not in there]
    strange = [name for name in there if name not in NAMES]
    for name in missing:
        if near := difflib.get_close_matches(name, strange, 1, 0.75):
            return mistake(f"has {near[0]!r}", f"did you mean {name!r}?")
    if missing:
        hint = "what a handler does not need, it takes from repmgr_hooks.handlers.contract"
        return mistake(f"lacks {', '.join(missing)}", hint)
    if not (isinstance(module.Config, type) and dataclasses.is_dataclass(module.Config)):  # type: ignore[attr-defined]
        return mistake("Config must be a dataclass", SEE)
    wrong = [name for name in NAMES if name != "Config" and not callable(getattr(module, name))]
    wrong = [name for name in wrong if name != "observe" or module.observe is not None]  # type: ignore[attr-defined]
    said = f"{', '.join(wrong)} must be a function{' (observe may be None)' * ('observe' in wrong)}"
    return mistake(said, SEE) if wrong else None
