"""A self-contained HTML page: no other file, no script, nothing from the network. It is well-formed XML too."""

from __future__ import annotations

from html import escape as escape_markup

from repmgr_hooks.text import MOST, printable

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


def page(title: str, heading: str, body: str) -> str:
    """Return a page; all three are markup already."""
    return f"""<!DOCTYPE html>
<html lang="en" xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8"/>
<meta name="viewport" content="width=device-width, initial-scale=1"/>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'"/>
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{heading}</h1>
{body}</body>
</html>
"""
