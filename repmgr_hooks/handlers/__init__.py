"""The contract of a handler, and where handlers come from.

A handler is a module. It looks (``observe``) and says which steps are missing (``plan``); it changes nothing itself.
Ours stand in ``BUILT_IN``; others come in through the entry-point group ``repmgr_hooks.handlers``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.errors import UsageError
from repmgr_hooks.handlers import barman, command, firewall, notify, slot
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Step
from repmgr_hooks.trust import writable_by_others

GROUP = "repmgr_hooks.handlers"


class Handler(Protocol):
    """What a handler module offers.

    ``Config`` is a frozen dataclass: the options in the route. If it has a field ``fail_open_after`` (seconds), the action
    waits for those before it to succeed, and is done at the latest so many seconds after the run began.

    ``observe(config, decided, world)`` returns what ``plan`` needs to know; it may raise OperationFailed. None means that
    there is nothing to look at: such a handler (a notification) runs on its events only.

    ``plan(config, decided, seen)`` is pure and returns the missing steps; an empty list when all is as it should be.

    ``problems(config, cluster)`` returns what is wrong with the options in this cluster, in words.

    More functions may be there:
    ``mark(decided, world)``, cheap: while it returns the same, what ``observe`` sees has not changed (None: that cannot
    be known), and a look without an event may be spared.
    ``shut_out(cluster, zombies, world)`` returns the steps after which nothing leads to these nodes; it is asked while
    the primary is unknown.
    ``warnings(config, decided)`` is pure and says what is wrong and no step can mend.
    ``tend(config, decided, world)`` does the small work of every look without an event, which is no repair.
    """

    @property
    def Config(self) -> type[Any]: ...  # noqa: N802 - it is a class

    @property
    def observe(self) -> Callable[[Any, ClusterState, Host], Any] | None: ...

    @property
    def plan(self) -> Callable[[Any, ClusterState, Any], Sequence[Step]]: ...

    @property
    def problems(self) -> Callable[[Any, Cluster], Iterable[str]]: ...


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
def installed() -> Mapping[str, Installed]:
    """Return every handler by name. Raises UsageError for a plug-in that cannot be loaded or breaks the contract."""
    found = {name: Installed(name, module, "built in") for name, module in BUILT_IN.items()}
    for point in metadata.entry_points(group=GROUP):
        origin = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
        if point.name in found:
            raise UsageError(
                f"handler {point.name!r} of {origin} is already there ({found[point.name].origin}); rename it"
            )
        found[point.name] = Installed(point.name, _load(point, origin), origin)
    return found


def _load(point: metadata.EntryPoint, origin: str) -> Handler:
    try:
        found = importlib.util.find_spec(point.module)
        if found and found.origin and (wrong := writable_by_others(Path(found.origin))):
            raise UsageError(f"handler {point.name!r} of {origin} is refused: {wrong}")
        module = point.load()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"handler {point.name!r} of {origin} cannot be loaded: {error!r}; mend or remove it"
        ) from error
    missing = [name for name in ("Config", "observe", "plan", "problems") if not hasattr(module, name)]
    if missing:
        raise UsageError(f"handler {point.name!r} of {origin} lacks {', '.join(missing)}; see the README")
    functions = [module.plan, module.problems, *([module.observe] if module.observe is not None else [])]
    if not dataclasses.is_dataclass(module.Config) or not all(callable(function) for function in functions):
        raise UsageError(
            f"handler {point.name!r} of {origin}: Config must be a dataclass, and plan, problems and observe functions "
            "(observe may be None); see the README"
        )
    handler: Handler = module
    return handler
