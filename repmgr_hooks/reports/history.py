"""What the journal holds: each run, the events that it covered, and its steps with their durations."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from repmgr_hooks.errors import hint_lines
from repmgr_hooks.event import CATALOGUE, NAMED, Origin
from repmgr_hooks.journal.hosts import off, origins
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import RunRow, StepRow


def read(journal: Journal, limit: int, cluster: str | None, failed: bool) -> list[dict[str, Any]]:
    """Return the newest runs, oldest first, as plain data."""
    return [
        {
            **run._asdict(),
            "left": [{**item.place._asdict(), "code": item.code} for item in run.left],
            "events": _events(journal, run),
            "steps": [_plain(step) for step in journal.steps(run.id)],
        }
        for run in journal.runs(limit, cluster, failed)
    ]


def _events(journal: Journal, run: RunRow) -> list[dict[str, Any]]:
    """Return the events of a run; of one that a database host has handed over also that, and its clock."""
    came_from = origins(journal, run.id)
    return [
        {
            "id": item.id,
            **dataclasses.asdict(item.event),
            "contradicts": item.event.contradicts(run.primary),
            **(_origin(came_from[item.id]) if item.id in came_from else {}),
        }
        for item in journal.events_of(run.id)
    ]


def _origin(origin: Origin) -> dict[str, Any]:
    return {"host": origin.host, "stored_there": origin.stored, "clock_ahead": origin.ahead}


def _plain(step: StepRow) -> dict[str, Any]:
    """Return a step as plain data; of its place, what all steps have."""
    plain = step._asdict()
    del plain["place"]
    return {"path": step.place.path, "action": step.place.action, **plain}


def lines(runs: list[dict[str, Any]]) -> list[str]:
    """Return the lines for the screen."""
    return [line for run in runs for line in _lines(run)]


def _lines(run: dict[str, Any]) -> list[str]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run["started"]))
    outcome = {None: "running", True: "ok", False: "FAILED"}[run["ok"]]
    attempt = f", attempt {run['attempt']}" if run["attempt"] > 1 else ""
    head = f"{when}  {run['cluster']}  {outcome}  {run['cause']}{attempt}"
    events = run["events"]
    named = [f"    event {e['id']}: {e['name']} of node {e['node']}{_doubts(e, run)}" for e in events[-NAMED:]]
    more = [f"    {len(events) - NAMED} more before these"] if len(events) > NAMED else []
    steps = [line for step in run["steps"] for line in _step(step)]
    return [head, *more, *named, *steps, f"    {run['message']}", *_hints(run)]


def _doubts(event: dict[str, Any], run: dict[str, Any]) -> str:
    """What is to be said of an event besides: repmgr's ``%s``, and whether the cluster agrees."""
    failed = "" if event["success"] else ", reported as failed"
    denied = f", contradicts the cluster: the primary is node {run['primary']}" if event["contradicts"] else ""
    new = "" if event["name"] in CATALOGUE else ", which this version does not know"
    return failed + denied + new + _from(event)


def _from(event: dict[str, Any]) -> str:
    """The host that has handed it over, and when it stored it by its own clock."""
    if "host" not in event:
        return ""
    wrong = off(event["clock_ahead"])
    there = time.strftime("%H:%M:%S", time.localtime(event["stored_there"]))
    return f", from {event['host']}, {there} there{f' (its clock is {wrong} this one)' if wrong else ''}"


def _step(step: dict[str, Any]) -> list[str]:
    error = f": FAILED: {step['error']}" if step["error"] else ""
    return [f"  {step['duration']:6.2f} s  {step['what']}{error}", *_hints(step)]


def _hints(of: dict[str, Any]) -> list[str]:
    return [f"    {line}" for line in hint_lines(of["hint"])]
