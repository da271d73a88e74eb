"""A switchover in the journal: each phase is a step, and so is the time for which clients were held."""

from __future__ import annotations

from repmgr_hooks.errors import Problem
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.queries import SWITCHOVER
from repmgr_hooks.journal.rows import Place, StepRow
from repmgr_hooks.switchover.drive import Outcome
from repmgr_hooks.switchover.phases import Ended, Plan

HELD = "hold_clients"
"""The kind of the step that says from when on, and for how long, clients were held."""
OPENED, RESUMED = "open_port", "resume"
"""The kinds of the steps of the service's run after which clients go on."""
MOST_RUNS = 10


def held_for(outcome: Outcome, plan: Plan, journal: Journal) -> float | None:
    """Return for how many seconds clients were held: until the last step that let them go on. Raises OperationFailed.

    Where no run had to let them go on, until the command did.
    """
    since = outcome.held_since
    if since is None:
        return None
    steps = [step for run in journal.runs(MOST_RUNS, plan.name) for step in journal.steps(run.id)]
    let_go = [step for step in steps if step.kind == RESUMED or (step.kind == OPENED and step.target in plan.ports)]
    ends = [step.started + step.duration for step in let_go if step.started > since and not step.error]
    return max(ends, default=outcome.released) - since


def write_down(journal: Journal, plan: Plan, outcome: Outcome, seconds: float | None, said: str) -> None:
    """Write a switchover that has ended into the journal. Raises OperationFailed."""
    run = journal.begin_run(plan.name, SWITCHOVER, 1, [])
    for phase in outcome.phases:
        journal.add_step(run, _step(plan, phase))
    if outcome.held_since is not None and seconds is not None:
        place, ports = Place(SWITCHOVER, SWITCHOVER), " ".join(plan.ports)
        what = f"clients of port {' and '.join(plan.ports)} were held"
        journal.add_step(run, StepRow(place, HELD, ports, plan.target, what, outcome.held_since, seconds))
    problem = outcome.problem or Problem("", "")
    journal.end_run(run, outcome.good(plan), False, said, outcome.primary, 0, problem.code, problem.hint)


def _step(plan: Plan, ended: Ended) -> StepRow:
    place = Place(f"{SWITCHOVER}.{ended.phase.name}", f"{SWITCHOVER}: {ended.phase.name}")
    wrong = (ended.problem.message, ended.problem.code, ended.problem.hint) if ended.problem else ()
    kind, target = f"{SWITCHOVER}_{ended.phase.name}", str(plan.target)
    return StepRow(place, kind, target, plan.target, ended.phase.what, ended.started, ended.seconds, *wrong)
