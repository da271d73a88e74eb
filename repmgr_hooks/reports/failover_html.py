"""The report of a failover as one self-contained HTML page: numbers, a chart, and every detail in a table.

It is well-formed XML too. What failed is said in words, not by a colour alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape as escape_markup
from itertools import accumulate

from repmgr_hooks.reports.failover import FailoverReport, Item
from repmgr_hooks.reports.failover_text import errors, figures, outcome, title
from repmgr_hooks.text import MOST, printable

WIDTH = 760
MARGIN = 12
ROW = 21
HEAD = 64
FOOT = 30
LETTER = 6.3
"""The width of a letter of the chart, roughly."""

STYLE = """
:root { color-scheme: light dark; --ink: #22252a; --soft: #6b7078; --line: #dfe1e5; --paper: #fdfdfb; --bar: #4a7298;
        --lost: #f3e3c3; --lost-ink: #7a5410; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e5e7; --soft: #9a9fa8; --line: #363a41; --paper: #17191c; --bar: #7ea6cc;
          --lost: #4a3b1c; --lost-ink: #e8c98a; --bad: #ff8a80; } }
body { margin: 0 auto; max-width: 50rem; padding: 2.5rem 1.5rem; background: var(--paper); color: var(--ink);
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "DejaVu Sans", sans-serif;
       font-variant-numeric: tabular-nums; }
h1 { margin: 0; font-size: 1.6rem; font-weight: 600; line-height: 1.25; }
h2 { margin: 2.4rem 0 .6rem; font-size: 1rem; font-weight: 600; }
p { margin: .4rem 0; } .soft { color: var(--soft); } .bad { color: var(--bad); }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 1.4rem; margin: 2rem 0 1.2rem; }
dl div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
dd { margin: 0; font-size: 2.1rem; font-weight: 300; line-height: 1.2; white-space: nowrap; }
dd small { font-size: 1.1rem; } dt { color: var(--soft); font-size: .85rem; line-height: 1.35; }
.first dd { font-weight: 600; }
.chart { overflow-x: auto; } svg { display: block; width: 100%; min-width: 40rem; height: auto; }
svg text { font-size: 11.5px; fill: var(--ink); stroke: var(--paper); stroke-width: 3px; paint-order: stroke; }
 svg .soft { fill: var(--soft); } svg .bad { fill: var(--bad); }
.axis { stroke: var(--line); } .mark { stroke: var(--soft); stroke-dasharray: 2 3; }
.bar { fill: var(--bar); } .failed { fill: url(#hatch); stroke: var(--bad); } .hatch { stroke: var(--bad); }
.moment { fill: var(--soft); } .lost { fill: var(--lost); } svg .lost-ink { fill: var(--lost-ink); stroke: none; }
table { width: 100%; border-collapse: collapse; font-size: .87rem; }
th { color: var(--soft); font-weight: 400; text-align: left; }
th, td { padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { overflow-wrap: anywhere; white-space: pre-line; }
.number { text-align: right; white-space: nowrap; }
@page { size: A4; margin: 12mm 15mm; }
@media print {
  :root { color-scheme: light; --ink: #000; --soft: #555; --line: #ccc; --paper: #fff; --bar: #4a7298; --lost: #f3e3c3;
          --lost-ink: #7a5410; --bad: #b3261e; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { max-width: none; padding: 0; font-size: 9.5pt; } h1 { font-size: 16pt; } svg { width: 93%; min-width: 0; }
  h2 { margin: .8rem 0 .3rem; break-after: avoid; } p { margin: .2rem 0; }
  dl { grid-template-columns: repeat(4, 1fr); margin: .8rem 0 .5rem; } .chart, tr { break-inside: avoid; }
  table { font-size: 8pt; line-height: 1.3; } th, td { padding-block: .06rem; }
}
"""


def escape(text: str) -> str:
    """Return a text as it stands in the page: the journal is a file that others may write, too."""
    return escape_markup(printable(text, 2 * MOST))


def render(story: FailoverReport) -> str:
    """Return the page."""
    change = story.change
    name, zero = escape(title(story)), time.localtime(story.zero)
    when = time.strftime("%Y-%m-%d %H:%M:%S %z", zero)
    timelines = f"Timeline {change.was_timeline} to {change.timeline}"
    written = time.strftime("%Y-%m-%d %H:%M")
    said = "".join(f"<p>{escape(text)}</p>" for text in outcome(story))
    return f"""<!DOCTYPE html>
<html lang="en" xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>{name}, {when}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{name}</h1>
<p class="soft">First sign {when}. {timelines}. Change {change.id} in the journal, written {written}.</p>
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
</body>
</html>
"""


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
