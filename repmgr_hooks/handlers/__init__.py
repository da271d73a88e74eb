"""Where handlers come from: ours stand in ``BUILT_IN``, others in the entry-point group ``repmgr_hooks.handlers``.

What a handler is stands in ``contract.py``.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from repmgr_hooks.errors import Problem, UsageError, mistake
from repmgr_hooks.files import untrusted
from repmgr_hooks.handlers import barman, command, firewall, notify, slot
from repmgr_hooks.handlers.contract import NAMES, Handler

GROUP = "repmgr_hooks.handlers"
SEE = "see repmgr_hooks/handlers/README.md"


@dataclass(frozen=True)
class Installed:
    """A handler and where it comes from."""

    name: str
    module: Handler
    origin: str


BUILT_IN: Mapping[str, Handler] = {
    "barman": barman,
    "command": command,
    "firewall": firewall,
    "notify": notify,
    "slot": slot,
}


@functools.cache
def installed(here: bool = True) -> Mapping[str, Installed]:
    """Return every handler by name. Raises UsageError for a plug-in that cannot be loaded or breaks the contract.

    ``here``: on the host that does what they plan, where others must not be able to change them; root's programs load
    nothing else anywhere.
    """
    found = {name: Installed(name, module, "built in") for name, module in BUILT_IN.items()}
    for point in metadata.entry_points(group=GROUP):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        if point.name in found:
            what = f"handler {point.name!r} of {origin} is already there ({found[point.name].origin})"
            raise UsageError(what, hint="rename it")
        found[point.name] = Installed(point.name, _load(point, origin, here), origin)
    return found


def _load(point: metadata.EntryPoint, origin: str, here: bool) -> Handler:
    try:
        found = importlib.util.find_spec(point.module) if here or os.geteuid() == 0 else None
        if found and found.origin and (wrong := untrusted(Path(found.origin))):
            what = f"handler {point.name!r} of {origin} is refused: {wrong}"
            raise UsageError(what, hint=wrong.hint)
        module = point.load()
    except UsageError:
        raise
    except BaseException as error:  # whatever a plug-in raises
        what = f"handler {point.name!r} of {origin} cannot be loaded: {error!r}"
        raise UsageError(what, hint="correct or remove it") from error
    if breach := _breaks_contract(module):
        raise UsageError(f"handler {point.name!r} of {origin}: {breach}", hint=breach.hint)
    handler: Handler = module
    return handler


def _breaks_contract(module: object) -> Problem | None:
    """Return how a module breaks the contract; None if it does not."""
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
