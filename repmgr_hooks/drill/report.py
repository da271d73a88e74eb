"""The report of a drill in words: one page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from repmgr_hooks.checks.finding import Finding, bad, by_weight
from repmgr_hooks.drill.facts import Facts, Step
from repmgr_hooks.drill.grade import is_slow, way_back

WIDTH = 80
SHORTEST = 0.05
"""Seconds of the steps that are listed; what is quicker is on the page only."""


def title(facts: Facts, grades: Sequence[Finding]) -> str:
    """Return whether it was passed."""
    result = "INTERRUPTED" if facts.interrupted else "FAILED" if bad(grades) else "PASSED"
    return f"{facts.cluster}: drill {result}: {way_back(facts)}"


def when(facts: Facts) -> str:
    """Return when it was, and how long it took."""
    begun = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(facts.begun))
    return f"begun {begun}, {facts.ended - facts.begun:.0f} s"


def lines(facts: Facts, grades: Sequence[Finding]) -> Iterator[str]:
    """Return the lines for the screen; the last says how it ended."""
    yield ""
    yield f"{facts.cluster}: drill, {when(facts)}"
    yield from map(str, by_weight(grades))
    if facts.steps:
        yield ""
        yield "      took    usually"
        yield from (_step(step) for step in facts.steps if step.took >= SHORTEST or step.errors or is_slow(step))
    yield ""
    yield title(facts, grades)


def usually(step: Step) -> str:
    """Return its usual time, as far as it has one."""
    return "" if step.usual is None else f"{step.usual:.2f} s"


def _step(step: Step) -> str:
    note = " (failed at first)" if step.errors else " (slow)" if is_slow(step) else ""
    text = f"{step.took:8.2f} s {usually(step):>10}  {step.what}{note}"
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
