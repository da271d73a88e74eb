"""The benchmark's results as text for a screen of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.bench.measure import CAP_UNPLUGGED

PORT_TARGET = 4.0
UNPLUGGED_TARGET = 2.0
HELD_UP_TARGET = 100.0

Result = Mapping[str, Any]
Results = Sequence[Result]


@dataclass(frozen=True)
class Row:
    """One line of the table: how it reads, and the key of the results."""

    text: str
    key: str


STOPPED = (
    Row("client cannot write, s", "outage"),
    Row("client stalled again later, s", "later_stall"),
    Row("fault to promotion, s", "promotion"),
    Row("promotion to repmgr's event, s", "event_late"),
    Row("promotion to app port open, s", "promotion_to_port"),
    Row("app port closed again, s", "second_closure"),
    Row("repmgrd held up by the hook, s", "held_up"),
    Row("WAL segments missing in Barman", "missing"),
)
UNPLUGGED = (
    Row("client cannot write, s", "outage"),
    Row("fault to promotion, s", "promotion"),
    Row("promotion to app port open, s", "promotion_to_port"),
)
FAULTS = {"stopped": ("db1 stopped (-m immediate)", STOPPED), "unplugged": ("db1 unplugged", UNPLUGGED)}


def report(results: Results, machine: Mapping[str, str]) -> str:
    """Return the table, the targets, and what it was measured on."""
    lines = ["Medians (lowest-highest); ratio: article / ours"]
    for fault, (title, rows) in FAULTS.items():
        lines += ["", heading(title, fault, results), *(line(row, fault, results) for row in rows)]
    return "\n".join([*lines, "", *targets(results), "", *circumstances(results, machine), *cron_due(results)])


def heading(title: str, fault: str, results: Results) -> str:
    rounds = {side: f"{side} ({len(chosen(results, side, fault))})" for side in ("ours", "article")}
    return columns(title, rounds["ours"], rounds["article"], "ratio")


def line(row: Row, fault: str, results: Results) -> str:
    ours, article = (values(results, side, fault, row.key) for side in ("ours", "article"))
    bounded = row.key == "outage" or None not in article  # only the outage is counted from where the cap is
    return columns("  " + row.text, spread(ours), spread(article), ratio(ours, article) if bounded else "-")


def columns(text: str, ours: str, article: str, ratio: str) -> str:
    return f"{text:<33}{ours:>18}{article:>20}{ratio:>8}"


def chosen(results: Results, side: str, fault: str) -> list[Result]:
    return [result for result in results if (result["side"], result["fault"]) == (side, fault)]


def values(results: Results, side: str, fault: str, key: str) -> list[float | None]:
    """Return one value for each failover; None: it was not seen before the cap."""
    if key == "missing":
        return [float(len(result["missing_wal"])) for result in chosen(results, side, fault)]
    return [result[key] for result in chosen(results, side, fault)]


def spread(numbers: list[float | None]) -> str:
    """Return the median and the range as text.

    >>> spread([4.0, 3.0, 8.0]), spread([0.0, 0.0]), spread([None]), spread([])
    ('4.0 (3.0-8.0)', '0', 'not in 60 s', '-')
    """
    if not numbers:
        return "-"
    if None in numbers:
        return f"not in {CAP_UNPLUGGED:.0f} s"
    known = [number for number in numbers if number is not None]
    low, high = min(known), max(known)
    return short(low) if low == high else f"{short(median(known))} ({short(low)}-{short(high)})"


def short(number: float) -> str:
    return f"{number:.1f}" if number >= 0.1 else f"{number:.2f}" if number else "0"


def ratio(ours: list[float | None], article: list[float | None]) -> str:
    """Return how many times longer the article's side took.

    >>> ratio([2.0], [5.0]), ratio([2.0], [None]), ratio([0.0], [60.0]), ratio([None], [None])
    ('2.5', '> 30.0', '-', '-')
    """
    if not ours or not article or None in ours:
        return "-"
    base = median(number for number in ours if number is not None)
    if base == 0:
        return "-"
    capped = [CAP_UNPLUGGED if number is None else number for number in article]
    return f"{'> ' if None in article else ''}{median(capped) / base:.1f}"


def targets(results: Results) -> list[str]:
    """Return one line for each target of ours."""
    if not chosen(results, "ours", "stopped"):
        return ["Targets: ours was not measured"]
    port = middle(values(results, "ours", "stopped", "promotion_to_port"))
    closed, missing = (worst(values(results, "ours", "stopped", key)) for key in ("second_closure", "missing"))
    lines = [
        "Targets of ours",
        target(f"app port open at most {PORT_TARGET:.1f} s after the promotion (median)", port, PORT_TARGET),
        target("app port never closed again (s, worst)", closed, 0.0),
        target("no WAL segment missing in Barman (worst)", missing, 0.0),
    ]
    text = f"unplugged: outage at most {UNPLUGGED_TARGET:.1f} x what it was at the promotion"
    held = held_up_less(results)
    return [
        *lines,
        target(text, times_the_outage_at_promotion(results), UNPLUGGED_TARGET),
        *([f"  {'PASS' if held >= HELD_UP_TARGET else 'FAIL'}  repmgrd held up {held:.0f} times less"] if held else []),
    ]


def times_the_outage_at_promotion(results: Results) -> float | None:
    """Return ours' outage over what it was when db2 was promoted, with db1 unplugged (medians)."""
    outage, promotion = (middle(values(results, "ours", "unplugged", key)) for key in ("outage", "promotion"))
    return outage / promotion if outage and promotion else None


def held_up_less(results: Results) -> float | None:
    """Return how many times less repmgrd waits for our hook than for the article's (medians)."""
    ours, article = (middle(values(results, side, "stopped", "held_up")) for side in ("ours", "article"))
    return article / ours if ours and article else None


def middle(numbers: list[float | None]) -> float | None:
    """Return the median; None if there is no number or one was not seen."""
    known = [number for number in numbers if number is not None]
    return median(known) if known and len(known) == len(numbers) else None


def worst(numbers: list[float | None]) -> float | None:
    """Return the highest; None if one was not seen."""
    known = [number for number in numbers if number is not None]
    return max(known) if len(known) == len(numbers) else None


def target(text: str, number: float | None, limit: float) -> str:
    """Return one target with PASS or FAIL."""
    passed = number is not None and number <= limit
    return f"  {'PASS' if passed else 'FAIL'}  {text}: {'not seen' if number is None else short(number)}"


def circumstances(results: Results, machine: Mapping[str, str]) -> list[str]:
    """Return what the numbers were measured on."""
    loads = [result["load"] for result in results] or [0.0]
    load = f"load {min(loads):.1f}-{max(loads):.1f}"
    return [
        f"{len(results)} failovers, each in a fresh lab; {machine['cores']} cores, {load} when db1 broke",
        ", ".join(f"{name} {value}" for name, value in machine.items() if name != "cores"),
    ]


def cron_due(results: Results) -> list[str]:
    """Return what the article's figures depend on most."""
    due = ", ".join(f"{result['next_cron']:.0f}" for result in chosen(results, "article", "stopped"))
    return [f"article, db1 stopped: `barman cron` was due {due} s after the fault"] if due else []
