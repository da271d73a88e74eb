"""The report of a drill as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from repmgr_hooks.checks.finding import Finding, by_weight
from repmgr_hooks.drill import report
from repmgr_hooks.drill.facts import Facts
from repmgr_hooks.drill.grade import is_slow
from repmgr_hooks.errors import Problem
from repmgr_hooks.reports.page import escape, page


def render(facts: Facts, grades: Sequence[Finding]) -> str:
    """Return the page."""
    name = escape(report.title(facts, grades))
    body = f"""<p class="soft">A switchover there and back while a client wrote, {escape(report.when(facts))}.</p>
<dl>{"".join(_figures(facts))}</dl>
<h2>Grades</h2>
<table>
<thead><tr><th>grade</th><th>of</th><th>what was seen</th></tr></thead>
<tbody>
{"".join(_grades(grades))}</tbody>
</table>
<h2>Steps</h2>
<table>
<thead><tr><th class="number">took, s</th><th class="number">usually, s</th><th>what</th></tr></thead>
<tbody>
{"".join(_steps(facts))}</tbody>
</table>
"""
    return page(name, name, body)


def _figures(facts: Facts) -> Iterator[str]:
    for leg in facts.legs:
        if leg.held is not None:
            what = f"for which clients were held, node {leg.source} to node {leg.target}"
            yield f'<div class="first"><dt>{what}</dt><dd>{leg.held:.1f}<small> s</small></dd></div>'
    failed = sum(bool(one.error) for one in facts.transactions)
    acknowledged = len(facts.transactions) - failed
    lost = "?" if isinstance(facts.lost, Problem) else len(facts.lost)
    for number, what in (
        (acknowledged, "transactions acknowledged"),
        (lost, "of them lost"),
        (failed, "transactions failed"),
    ):
        yield f"<div><dt>{what}</dt><dd>{number}</dd></div>"


def _grades(grades: Sequence[Finding]) -> Iterator[str]:
    for each in by_weight(grades):
        hint = f"\nHINT: {each.hint}" if each.hint else ""
        ink = "" if each.level == "OK" else ' class="bad"'
        of = each.code.partition(".")[2]
        yield f"<tr><td{ink}>{each.level}</td><td>{escape(of)}</td><td>{escape(each.message)}{escape(hint)}</td></tr>\n"


def _steps(facts: Facts) -> Iterator[str]:
    for step in facts.steps:
        error = f'\n<span class="bad">FAILED at first: {escape(step.errors[0])}</span>' if step.errors else ""
        note = ' <span class="bad">(slow)</span>' if is_slow(step) else ""
        usual = "" if step.usual is None else f"{step.usual:.2f}"
        numbers = f'<td class="number">{step.took:.2f}</td><td class="number">{usual}</td>'
        yield f"<tr>{numbers}<td>{escape(step.what)}{note}{error}</td></tr>\n"
