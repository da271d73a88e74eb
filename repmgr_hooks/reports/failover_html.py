"""The report of a failover as one self-contained HTML page: numbers, a chart, and every detail in a table.

What failed is said in words, not by a colour alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from repmgr_hooks.reports.failover import FailoverReport, Item
from repmgr_hooks.reports.failover_text import errors, figures, outcome, title
from repmgr_hooks.reports.page import escape, page

WIDTH = 760
MARGIN = 12
ROW = 21
HEAD = 64
FOOT = 30
LETTER = 6.3
"""The width of a letter of the chart, roughly."""


def render(story: FailoverReport) -> str:
    """Return the page."""
    change = story.change
    name, zero = escape(title(story)), time.localtime(story.zero)
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", zero)
    timelines = f"Timeline {change.was_timeline} to {change.timeline}"
    written = time.strftime("%Y-%m-%d %H:%M")
    said = "".join(f"<p>{escape(text)}</p>" for text in outcome(story))
    body = f"""<p class="soft">First sign {when}. {timelines}. Change {change.id} in the journal, written {written}.</p>
<dl>{"".join(_figures(story))}</dl>
{said}
<h2>Seconds since the first sign</h2>
<div class="chart">{_chart(story)}</div>
<h2>Everything, in order</h2>
<table>
<thead><tr><th class="number">at, s</th><th class="number">took, s</th><th>what</th></tr></thead>
<tbody>
{"".join(_rows(story))}</tbody>
</table>
"""
    return page(f"{name}, {when}", name, body)


def _figures(story: FailoverReport) -> Iterator[str]:
    for number, (seconds, what) in enumerate(figures(story)):
        first = ' class="first"' if number == 0 else ""
        yield f"<div{first}><dt>{escape(what)}</dt><dd>{seconds:.2f}<small> s</small></dd></div>"


def _rows(story: FailoverReport) -> Iterator[str]:
    for item, failed in zip(story.items, errors(story.items), strict=True):
        took = "" if item.took is None else f"{item.took:.2f}"
        error = f'\n<span class="bad">{escape(failed)}</span>' if failed else ""
        numbers = f'<td class="number">{item.at:.2f}</td><td class="number">{took}</td>'
        yield f"<tr>{numbers}<td>{escape(item.what)}{error}</td></tr>\n"


@dataclass(frozen=True)
class Scale:
    """Seconds to places on the chart."""

    first: float
    last: float

    def x(self, seconds: float) -> float:
        """Return the place of a moment."""
        part = (min(seconds, self.last) - self.first) / (self.last - self.first)
        return round(MARGIN + part * (WIDTH - 2 * MARGIN), 1)

    def ticks(self) -> list[float]:
        """Return about eight round seconds."""
        step = next(size for size in STEPS if (self.last - self.first) / size <= 9)
        return [number * step for number in range(int(self.last / step) + 1)]


STEPS = (*(digit * 10.0**power for power in range(-2, 7) for digit in (1, 2, 5)), float("inf"))


def _scale(story: FailoverReport) -> Scale:
    """From the first sign to a little after all was open and safe; what comes later stands in the table only."""
    marks = [story.promoted, story.cut or 0.0, story.archived or 0.0, *story.ports.values()]
    last = max((item.end for item in story.items), default=0.0)
    if story.ports and story.ok:
        last = min(last, max(marks) * 1.15 + 0.5)
    last = max(last, 0.1)
    return Scale(-0.1 * last, 1.02 * last)


def _chart(story: FailoverReport) -> str:
    scale = _scale(story)
    shown = [item for item in story.items if item.at <= scale.last and item.kind != "look"]
    rows: dict[tuple[str, str], list[Item]] = {}
    for item in shown:
        rows.setdefault((item.kind, item.what), []).append(item)
    labels = [_label(items, scale) for items in rows.values()]
    places = list(accumulate((ROW * label.lines for label in labels), initial=HEAD))
    bottom = places.pop() + 6
    parts = [*_axis(scale, bottom), *_band(story, scale), *_marks(story, scale, bottom)]
    for items, label, y in zip(rows.values(), labels, places, strict=True):
        parts += _row(items, label, scale, y + ROW / 2 + 4)
    later = sum(item.at > scale.last for item in story.items)
    if later:
        note = f"{later} later: in the table"
        parts.append(f'<text class="soft" x="{WIDTH - MARGIN}" y="{bottom + FOOT - 2}" text-anchor="end">{note}</text>')
    hatch = (
        '<defs><pattern id="hatch" width="5" height="5" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<line class="hatch" x1="0" y1="0" x2="0" y2="5" stroke-width="2"/></pattern></defs>'
    )
    box = f'viewBox="0 0 {WIDTH} {bottom + FOOT}" role="img" aria-label="{escape(title(story))}, on a time line"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{hatch}{"".join(parts)}</svg>'


def _axis(scale: Scale, bottom: float) -> Iterator[str]:
    for moment in scale.ticks():
        x = scale.x(moment)
        yield f'<line class="axis" x1="{x}" x2="{x}" y1="{HEAD}" y2="{bottom}"/>'
        yield f'<text class="soft" x="{x}" y="{bottom + 15}" text-anchor="middle">{moment:g} s</text>'


def _band(story: FailoverReport, scale: Scale) -> Iterator[str]:
    """Who was the primary: the old one, nobody, the new one."""
    begin, end = scale.x(0.0), scale.x(story.promoted)
    y = HEAD - 22
    yield f'<rect class="lost" x="{begin}" y="{y}" width="{max(end - begin, 1)}" height="18"/>'
    if end - begin > 12 * LETTER:
        yield f'<text class="lost-ink" x="{(begin + end) / 2}" y="{y + 13}" text-anchor="middle">no primary</text>'
    yield f'<text x="{end + 6}" y="{y + 13}">node {story.change.node}, timeline {story.change.timeline}</text>'
    if begin > 8 * LETTER + MARGIN:
        yield f'<text class="soft" x="{begin - 6}" y="{y + 13}" text-anchor="end">node {story.change.was}</text>'


def _marks(story: FailoverReport, scale: Scale, bottom: float) -> Iterator[str]:
    """Lines for the moments of the big numbers."""
    port = story.last_port
    marks = [(0.0, "first sign"), (story.promoted, "promotion seen")]
    marks += [(story.ports[port], f"port {port} open")] if port else []
    free = 0.0
    for moment, words in marks:
        x = scale.x(moment)
        text = f"{words}, {moment:.2f} s" if moment else words
        room = len(text) * LETTER
        left = min(max(x - room / 2, 0), WIDTH - room)
        y, free = (12, left + room + 8) if left >= free else (27, free)
        yield f'<line class="mark" x1="{x}" x2="{x}" y1="{y + 4}" y2="{bottom}"/>'
        yield f'<text x="{left:.1f}" y="{y}">{escape(text)}</text>'


@dataclass(frozen=True)
class Label:
    """The words of a row: where they stand, and whether on a line of their own above (``lines``: 2)."""

    words: str
    x: float
    anchor: str
    lines: int = 1


def _label(items: Sequence[Item], scale: Scale) -> Label:
    """Right of the bars, else left of them, else above."""
    failed = sum(bool(item.error) for item in items)
    often = f" {failed} of {len(items)} times" if len(items) > 1 else ""
    words = (f"FAILED{often}: " if failed else "") + "".join(items[0].what.splitlines()[:1])
    most = int((WIDTH - 2 * MARGIN) / LETTER)
    words = words if len(words) <= most else words[: most - 1] + "…"
    begin, end, room = scale.x(items[0].at) - 9, scale.x(items[-1].end) + 9, len(words) * LETTER
    if end + room <= WIDTH:
        return Label(words, end, "start")
    if begin - room >= 0:
        return Label(words, begin, "end")
    return Label(words, min(begin + 9, WIDTH - room), "start", 2)


def _row(items: Sequence[Item], label: Label, scale: Scale, y: float) -> Iterator[str]:
    """One step or event, each time that it came."""
    ink = ' class="bad"' if any(item.error for item in items) else ' class="soft"' if items[0].took is None else ""
    yield f'<text{ink} x="{label.x:.1f}" y="{y}" text-anchor="{label.anchor}">{escape(label.words)}</text>'
    y += ROW * (label.lines - 1) - 3 * (label.lines > 1)
    for item in items:
        x, end = scale.x(item.at), scale.x(item.end)
        error = f": FAILED: {item.error}" if item.error else ""
        said = f"<title>{escape(f'{item.at:.2f} s: {item.what}{error}')}</title>"
        if item.took is None:
            yield f'<path class="moment" d="M{x} {y - 8} l4 4 l-4 4 l-4 -4 z">{said}</path>'
        else:
            kind, width = "failed" if item.error else "bar", f"{max(end - x, 2):.1f}"
            yield f'<rect class="{kind}" x="{x}" y="{y - 9}" width="{width}" height="10" rx="1">{said}</rect>'
