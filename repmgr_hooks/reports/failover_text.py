"""The report of a failover in words: what matters most, and every step, for a screen of 80 columns."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Iterator

from repmgr_hooks.errors import hint_lines
from repmgr_hooks.reports.failover import FailoverReport, Item

WIDTH = 80


def figures(story: FailoverReport) -> list[tuple[float, str]]:
    """Return what matters most: seconds, and in words which."""
    port, node = story.last_port, story.change.node
    found = [(story.promoted, f"from the first sign until node {node} was seen to be the primary")]
    if port:
        found.insert(0, (story.ports[port], f"from the first sign until port {port} led to node {node}"))
        found.append((story.ports[port] - story.promoted, f"from the promotion until port {port} was open"))
    for name, (first, last) in story.outages.items():
        found.append((last - first, f"for a client of {name}: from the first that could not write"))
    found += [(held.took, f"for which {held.what} by a switchover") for held in story.held if held.took]
    if story.archived is not None:
        what = f"from the promotion until Barman had WAL of timeline {story.change.timeline}"
        found.append((story.archived - story.promoted, what))
    return found


def title(story: FailoverReport) -> str:
    """Return who took over from whom."""
    change = story.change
    return f"{change.cluster}: node {change.node} took over from node {change.was}"


def outcome(story: FailoverReport) -> list[str]:
    """Return what else stands above the details: what the figures do not hold, and what went wrong."""
    said = []
    if story.last_good is not None and story.last_good < 0:
        longer = f"Clients may have waited up to {-story.last_good:.2f} s longer"
        said.append(f"{longer}: that long before, node {story.change.was} was still seen to be the primary.")
    if not story.ports:
        said.append("NO PORT was routed to the new primary.")
    if not story.ok:
        said.append("The last run has NOT ENDED." if story.ok is None else "The last run FAILED.")
    return said


def errors(items: Iterable[Item]) -> Iterator[str]:
    """Yield how each item failed, if it did; what has been said of the same step already is not said again."""
    said: dict[tuple[str, str], float] = {}
    for item in items:
        before = said.setdefault((item.what, item.error), item.at)
        again = [f"as at {before:.2f} s"] if before < item.at else [item.error, *hint_lines(item.hint)]
        yield "\n".join([f"FAILED: {again[0]}", *again[1:]]) if item.error else ""


def lines(story: FailoverReport) -> list[str]:
    """Return the lines for the screen, at most 80 columns."""
    change = story.change
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(story.zero))
    head = [
        title(story),
        f"change {change.id}, timeline {change.was_timeline} to {change.timeline}, first sign {when}",
        "",
    ]
    numbers = [f"{seconds:8.2f} s  {what}" for seconds, what in figures(story)]
    said = [line for text in outcome(story) for line in textwrap.wrap(text, WIDTH - 2)]
    details = zip(story.items, errors(story.items), strict=True)
    return [
        *head,
        *numbers,
        *(f"  {line}" for line in said),
        "",
        "      at       took",
        *(line for item, error in details for line in _lines(item, error)),
    ]


def _lines(item: Item, error: str) -> list[str]:
    took = "" if item.took is None else f"{item.took:7.2f} s"
    parts = [*item.what.splitlines(), *error.splitlines()]
    column = f"{item.at:8.2f} s {took:>9}  "
    wrapped = [line for part in parts for line in textwrap.wrap(part, WIDTH - len(column))]
    return [(" " * len(column) if index else column) + line for index, line in enumerate(wrapped)]
