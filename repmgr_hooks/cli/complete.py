"""What the shell offers when Tab is pressed: values that the configuration and the journal know; see tests/build."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from repmgr_hooks.catalogue import EVENTS
from repmgr_hooks.cli.configured import choose, configured
from repmgr_hooks.cli.output import FAILED, OK
from repmgr_hooks.config import Config
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import HooksError
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.reports import failover

Offer = tuple[object, str]
"""A value, and what it is."""
MOST_EVENTS = 50
WITH_VALUE = ("--cluster", "--config", "--id", "--log")
"""Options of the commands that take the words of an event; what follows one is no such word."""


def do_complete(arguments: argparse.Namespace) -> int:
    """Print a value a line, and after a tab what it is. Whoever types wants no message: what is unknown is not said."""
    words = [word for word in arguments.words if word != "="]  # bash takes --cluster=main apart (COMP_WORDBREAKS)
    try:
        for value, what in offered(arguments.kind, words, configured(arguments)):
            print(f"{value}\t{what}")
    except HooksError:
        return FAILED
    return OK


def offered(kind: str, words: Sequence[str], loaded: Config) -> Iterator[Offer]:
    """Yield what fits after the words of a command line that were typed so far. Raises HooksError."""
    named = next((value for name, value in zip(words, words[1:], strict=False) if name == "--cluster"), None)
    yield from KINDS[kind](words, loaded, choose(loaded, named, None))


def _clusters(words: Sequence[str], loaded: Config, chosen: Sequence[ManagedCluster]) -> Iterator[Offer]:
    for name, managed in loaded.clusters.items():
        yield name, f"nodes {', '.join(map(str, managed.cluster.nodes))}"


def _nodes(words: Sequence[str], loaded: Config, chosen: Sequence[ManagedCluster]) -> Iterator[Offer]:
    for managed in chosen:
        for number, node in managed.cluster.nodes.items():
            where = managed.cluster.shown(managed.cluster.endpoint(number))
            yield number, f"{where}, {managed.cluster.name}{', a witness' if node.witness else ''}"


def _event(words: Sequence[str], loaded: Config, chosen: Sequence[ManagedCluster]) -> Iterator[Offer]:
    """NODE EVENT SUCCESS OTHER_NODE: by how many of them are there."""
    plain = [word for before, word in zip(["", *words], words, strict=False) if before not in WITH_VALUE]
    place = len([word for word in plain if not word.startswith("-")]) - 1  # without the command
    if place in (0, 3):
        yield from _nodes(words, loaded, chosen)
    elif place == 1:
        yield from ((name, claim) for name, (claim, _, _) in EVENTS.items())
    elif place == 2:
        yield from (("0", "reported as failed"), ("1", "reported as successful"))


def _events(words: Sequence[str], loaded: Config, chosen: Sequence[ManagedCluster]) -> Iterator[Offer]:
    with journal(loaded.state_dir) as known:
        for managed in chosen:
            yield from known.latest_events(managed.cluster.name, MOST_EVENTS) if known else ()


def _changes(words: Sequence[str], loaded: Config, chosen: Sequence[ManagedCluster]) -> Iterator[Offer]:
    yield "last", "the latest change of the primary"
    with journal(loaded.state_dir) as known:
        for change in failover.changes(known, [managed.cluster.name for managed in chosen]) if known else ():
            yield change.id, f"{change.cluster}: node {change.was} to node {change.node}"


KINDS: Mapping[str, Callable[[Sequence[str], Config, Sequence[ManagedCluster]], Iterator[Offer]]] = {
    "clusters": _clusters,
    "nodes": _nodes,
    "event": _event,
    "events": _events,
    "changes": _changes,
}


@contextlib.contextmanager
def journal(state_dir: Path) -> Iterator[Journal | None]:
    """Open the journal if there is one: a key that is pressed makes none, and sets none aside. Raises HooksError."""
    path = state_dir / "journal.db"
    with contextlib.ExitStack() as stack:
        yield stack.enter_context(contextlib.closing(Journal(path))) if _is_there(path) else None


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a user who may not look
        return False
