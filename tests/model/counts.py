"""How often the model ran, and whether what matters did happen in it."""

from __future__ import annotations

from collections import Counter

RUNS, STEPS, KILLS = "runs", "steps", "worker kills"
FOLLOWED, STALE, BESIDE, TWINS = (
    "role changes followed",
    "stale primaries",
    "promotions beside a healthy primary",
    "twins",
)
STOPPED, REWOUND, CLONED = "former primaries stopped", "rewound", "cloned"
RIGHT, UNKNOWN, STILL = "times all was right", "times without a sure primary", "times nothing was written"

ENOUGH = {RUNS: 600, STEPS: 20_000, KILLS: 60, FOLLOWED: 300, STALE: 50, BESIDE: 50, TWINS: 20}
ENOUGH |= {STOPPED: 20, REWOUND: 5, CLONED: 2}
ENOUGH |= {RIGHT: 500, UNKNOWN: 200, STILL: 500}

COUNTS: Counter[str] = Counter()


def told() -> str:
    """For the log of a CI run."""
    kinds = [*ENOUGH, *sorted(set(COUNTS) - set(ENOUGH))]
    return "model: " + ", ".join(f"{COUNTS[what]:,} {what}" for what in kinds)


def too_few() -> list[str]:
    """What has happened too seldom for the model to prove anything."""
    return [f"{COUNTS[what]} {what}, and not {number}" for what, number in ENOUGH.items() if COUNTS[what] < number]
