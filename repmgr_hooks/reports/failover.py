"""The report of one change of the primary: what was seen, said and done, in seconds since the first sign.

The first sign is the first look that did not see the old primary any more, or an event of trouble that came before it.
When between the last good look and the first sign the primary was lost, nobody here knows; so both are told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from repmgr_hooks.errors import UsageError
from repmgr_hooks.event import Event, RoleClaim
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import RUN_COLUMNS, Observation, ProbeRow, RunRow, run_row

AROUND = 60.0
"""Seconds for which a sign belongs to what follows (the worker hurries as long after one), and a run to the last."""

CHANGES = """
select id, cluster, since, "primary", timeline, lag("primary") over found, lag(timeline) over found,
       lag(since) over found, lead(since) over found
  from role window found as (partition by cluster order by id)
"""
EVENTS = """
select received, node, name, success, other_node, timestamp
  from event where cluster = ? and received between ? and ? order by received
"""
OBSERVATIONS = """
select at, before, "primary", timeline, code, decision, nodes
  from observation where cluster = ? and at > ? and at < ? order by id
"""
PROBES = """
select at, before, port, code, node, said from probe where cluster = ? and at between ? and ? order by id
"""
RUNS = f"select {RUN_COLUMNS} from run where cluster = ? and started between ? and ? order by id"


@dataclass(frozen=True)
class Change:
    """A primary that was found in the place of another. Times are seconds since the epoch.

    ``before`` and ``until``: when the one before was found, and the one after.
    """

    id: int
    cluster: str
    found: float
    node: int
    timeline: int
    was: int
    was_timeline: int
    before: float
    until: float | None


@dataclass(frozen=True)
class Item:
    """One line of the report: a ``look``, an ``event``, a ``step``, or the end of a ``run``.

    ``at`` in seconds since the first sign; ``took`` in seconds, None for a moment. ``step``: its kind; ``what`` and
    ``error`` are for people.
    """

    at: float
    kind: str
    what: str
    took: float | None = None
    error: str = ""
    step: str = ""
    target: str = ""
    node: int | None = None
    code: str = ""
    hint: str = ""

    @property
    def end(self) -> float:
        """When it was over."""
        return self.at + (self.took or 0.0)


@dataclass(frozen=True)
class FailoverReport:
    """A change of the primary, and what belongs to it; None is what did not happen or is not known.

    Times are seconds since the first sign, which is ``zero`` (seconds since the epoch). ``last_good``: the last look
    that saw the old primary. ``promoted``: the first that saw the new one. ``ports``: when each led to it. ``cut``:
    when the first connections to the old one were. ``archived``: when Barman had WAL of the new timeline. ``ok``: how
    the last run ended, None if it has not.
    """

    change: Change
    zero: float
    last_good: float | None
    promoted: float
    ports: dict[str, float]
    cut: float | None
    archived: float | None
    ok: bool | None
    items: tuple[Item, ...]
    outages: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Of each port: the first client that could not write, and the first that could again, on the new primary."""

    @property
    def last_port(self) -> str | None:
        """The port that was opened last: from then on clients are let in."""
        return max(self.ports, key=lambda port: self.ports[port], default=None)


def find(journal: Journal, which: str, clusters: Sequence[str]) -> Change:
    """Return the ``last`` change of the primary, or the one of a number. Raises UsageError."""
    found = changes(journal, clusters)
    chosen = found[-1:] if which == "last" else [change for change in found if str(change.id) == which]
    if not chosen and not found:
        raise UsageError(f"the journal knows of no change of the primary of {' and '.join(clusters)}")
    if not chosen:
        known = ", ".join(str(change.id) for change in found)
        raise UsageError(f"the journal has no change of the primary {which!r}; it has {known}, and 'last'")
    return chosen[0]


def changes(journal: Journal, clusters: Sequence[str]) -> list[Change]:
    """Return the changes of the primary of some clusters, oldest first."""
    rows = (Change(*row) for row in journal.read(CHANGES) if row[1] in clusters and None not in (row[3], row[5]))
    return sorted(rows, key=lambda change: change.id)


def report(journal: Journal, change: Change) -> FailoverReport:
    """Return the report of a change."""
    limit = change.until or math.inf
    observations = [Observation(*row) for row in journal.read(OBSERVATIONS, change.cluster, change.before, limit)]
    lost, promoted = _lost(observations, change), _promoted(observations, change)
    start = min(lost.at if lost else change.found, promoted)
    since = max(start - AROUND, change.before)
    signs = [at for at, event in _events(journal, change, since, change.found) if _is_sign(event, change)]
    runs = _belonging([run_row(row) for row in journal.read(RUNS, change.cluster, since, limit)], change)
    during = [run.started for run in runs if run.started <= change.found <= _end(run)]
    zero = min([start, *(signs if lost or signs else during)])
    runs = [run for run in runs if _end(run) >= zero]
    steps = {run.id: journal.steps(run.id) for run in runs}
    end = max([change.found, *map(_end, runs)])
    probes = [ProbeRow(*row) for row in journal.read(PROBES, change.cluster, zero - AROUND, min(end + AROUND, limit))]
    outages = _outages(probes, change, promoted)
    items = [
        *(Item(at - zero, "event", f"event: {event}") for at, event in _events(journal, change, zero, end)),
        *(
            Item(observation.at - zero, "look", _words(observation))
            for observation in observations
            if zero <= observation.at <= end
        ),
        *(Item(row.at - zero, "client", row.said) for row in probes if _of_outage(row, outages)),
        *(
            Item(s.started - zero, "step", s.what, s.duration, s.error, s.kind, s.target, s.node, s.code, s.hint)
            for run in runs
            for s in steps[run.id]
        ),
        *(_end_of_run(run, len(steps[run.id]), run.ended - zero) for run in runs if run.ended and _tells(run)),
    ]
    last_good = lost.before - zero if lost and lost.before else None
    if last_good is not None:
        items.append(Item(last_good, "look", f"node {change.was} is the primary: the last look that says so"))
    items.sort(key=lambda item: item.at)
    return FailoverReport(
        change,
        zero,
        last_good,
        promoted - zero,
        _opened(items, change),
        _end_of_first(items, "reset_connections"),
        _end_of_first(items, "switch_wal", change.node),
        runs[-1].ok if runs else True,
        tuple(items),
        {port: (first - zero, last - zero) for port, (first, last) in outages.items()},
    )


def _outages(probes: Sequence[ProbeRow], change: Change, promoted: float) -> dict[str, tuple[float, float]]:
    """Return, of each port, the first client in vain of those that end with one who writes on the new primary.

    That node may have been the primary before: what ended earlier is another story.
    """
    outages, first = {}, dict[str, float]()
    for row in probes:
        if row.code != "writes":
            first.setdefault(row.port, row.at)
        elif row.port in first:
            begun = first.pop(row.port)
            if row.node == change.node and row.at >= promoted and row.port not in outages:
                outages[row.port] = (begun, row.at)
    return outages


def _of_outage(row: ProbeRow, outages: Mapping[str, tuple[float, float]]) -> bool:
    return row.port in outages and outages[row.port][0] <= row.at <= outages[row.port][1]


def _lost(observations: Iterable[Observation], change: Change) -> Observation | None:
    """Return the first observation without the old primary, of those after the last with it."""
    lost = None
    for observation in observations:
        if observation.at > change.found + AROUND:
            break
        if (observation.primary, observation.timeline) == (change.was, change.was_timeline):
            lost = None
        elif lost is None:
            lost = observation
    return lost


def _promoted(observations: Iterable[Observation], change: Change) -> float:
    """Return when the new primary was seen first; at the latest, when it was remembered."""
    seen = [
        observation.at
        for observation in observations
        if (observation.primary, observation.timeline) == (change.node, change.timeline)
    ]
    return min([change.found, *seen])


def _events(journal: Journal, change: Change, since: float, until: float) -> list[tuple[float, Event]]:
    rows = journal.read(EVENTS, change.cluster, since, until)
    return [(at, Event(node, name, bool(ok), other, said)) for at, node, name, ok, other, said in rows]


def _is_sign(event: Event, change: Change) -> bool:
    claims = event.meaning is RoleClaim.PRIMARY and event.node == change.node
    return claims or event.meaning is RoleClaim.TROUBLE


def _belonging(runs: Sequence[RunRow], change: Change) -> list[RunRow]:
    """Return the runs of a change: up to a quiet minute after one that was good, or the run of the next change."""
    end, again, chosen = change.found, False, []
    for run in runs:
        if (run.started > end + AROUND and not again) or (change.until and _end(run) >= change.until):
            break
        chosen.append(run)
        end, again = max(end, _end(run)), not run.ok and run.again
    return chosen


def _end(run: RunRow) -> float:
    return math.inf if run.ended is None else run.ended


def _tells(run: RunRow) -> bool:
    """False for a run of an event that no route is for."""
    return run.primary is not None or not run.ok


def _words(observation: Observation) -> str:
    """What a look saw; a line for each node."""
    return f"{observation.decision}\n{observation.nodes}"


def _end_of_run(run: RunRow, steps: int, at: float) -> Item:
    """How a run ended."""
    attempt = f", attempt {run.attempt}" if run.attempt > 1 else ""
    what = f"end of run {run.id} ({run.cause}{attempt})"
    if run.ok:
        return Item(
            at, "run", f"{what}: done: {steps} step(s)" if steps else f"{what}: nothing to do: in the desired state"
        )
    return Item(at, "run", what, error=run.message, code=run.code, hint=run.hint)


def _opened(items: Iterable[Item], change: Change) -> dict[str, float]:
    """Return when each port was led to the new primary first."""
    ports: dict[str, float] = {}
    for item in items:
        if (item.step, item.node) == ("open_port", change.node) and not item.error:
            ports.setdefault(item.target, item.end)
    return ports


def _end_of_first(items: Iterable[Item], kind: str, node: int | None = None) -> float | None:
    """Return when the first step of a kind had worked; ``node``: only one of that node."""
    found = (item for item in items if item.step == kind and not item.error)
    return next((item.end for item in found if node in (None, item.node)), None)
