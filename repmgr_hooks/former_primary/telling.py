"""What is done about a former primary, for people: in the log, the journal and an alert."""

from __future__ import annotations

import logging
from collections.abc import Callable

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.former_primary.on_node import Ended
from repmgr_hooks.former_primary.plan import Do
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.queries import FORMER_PRIMARY
from repmgr_hooks.journal.rows import Place, StepRow
from repmgr_hooks.log import hint
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.former_primary import FormerPrimary
from repmgr_hooks.system.alert import Alert, Severity

log = logging.getLogger(__name__)

WHAT = {
    "fence": "stop node {node}, a stale primary on timeline {timeline}",
    "rejoin": "keep the own WAL of node {node}, and rejoin it by pg_rewind",
    "clone": "clone node {node} anew",
}


class Teller:
    """Of one cluster; ``tell`` has an alert sent."""

    def __init__(
        self, cluster: Cluster, settings: FormerPrimary, journal: Journal, tell: Callable[[Alert], None]
    ) -> None:
        self._cluster, self._settings, self._journal, self._tell = cluster, settings, journal, tell
        self._stays: dict[int, str] = {}
        """What was said last of the nodes that stay stopped."""

    def fenced(self, former: Former, before: str, begun: float) -> None:
        """It was tried to stop a node; what goes wrong as it did ``before`` is known."""
        if former.problem:
            if former.problem != before:
                what = f"node {former.node} is a stale primary and could not be stopped: {former.problem}"
                self._say(former, "fence", what, begun, Problem("not_stopped", former.problem, former.hint))
            return
        how = "a program has switched off" if former.by_power else "stopped"
        what = f"{how} node {former.node}, a stale primary on timeline {former.timeline}"
        if not former.by_power:
            self._say(former, "fence", what, begun)
            return
        self._say(former, "fence", f"{what}; that its PostgreSQL is stopped was not seen", begun)

    def begun(self, former: Former) -> None:
        """A rewind or a clone has begun."""
        what = f"{self._what(former, former.phase)}; the primary is node {former.primary}"
        log.warning("%s: begins: %s", self._cluster.name, what)
        self._alert(former, f"{former.phase} begins", "warning", f"begins: {what}", "")

    def not_begun(self, former: Former, before: str, do: Do, begun: float) -> None:
        """A rewind or a clone could not be begun."""
        if former.problem != before:
            problem = Problem("not_begun", former.problem, former.hint)
            what = f"node {former.node} stays stopped for now: {former.problem}"
            self._say(former, do.name.lower(), what, begun, problem)

    def unheard_of(self, former: Former) -> None:
        """The node has not said for long how a rewind or a clone goes on."""
        wrong = Problem("unheard_of", former.problem, former.hint)
        self._say(former, former.phase, f"node {former.node}: {former.problem}", former.begun, wrong)

    def ended(self, former: Former, after: Former, ended: Ended) -> None:
        """A rewind or a clone has ended."""
        done = "was rewound" if former.phase == "rejoin" else "was cloned"
        if ended.good:
            self._say(former, former.phase, f"node {former.node} {done}, and was started", former.begun)
            return
        for line in ended.said.splitlines()[-40:]:
            log.info("node %d: %s", former.node, line[:300])
        what = f"node {former.node} could not be {'rewound' if former.phase == 'rejoin' else 'cloned'}: {after.problem}"
        self._say(former, former.phase, what, former.begun, Problem("not_rejoined", after.problem, after.hint))

    def over(self, former: Former) -> None:
        """It is a former primary no more."""
        self._stays.pop(former.node, None)
        what = f"node {former.node} is no stale primary any more"
        log.info("%s: %s", self._cluster.name, what)
        if former.attempts:
            self._alert(former, "over", "warning", what, "")

    def stays(self, former: Former) -> None:
        """Nothing more is tried; the receivers hear of it again each hour (``alerts/incident.py``)."""
        if not self._settings.rejoin:
            return
        said = f"node {former.node} stays stopped: {former.why_given_up(self._settings)}"
        way = f"rejoin it by hand; {self._cluster.rejoin(former.primary, 'repmgr')}"
        if self._stays.get(former.node) != said:
            self._stays[former.node] = said
            self._say(former, "stay", said, clock.wall(), Problem("attempts", said, way))
        else:
            self._alert(former, "stay", "critical", said, way)

    def _what(self, former: Former, phase: str) -> str:
        return WHAT.get(phase, "node {node} stays stopped").format(node=former.node, timeline=former.timeline)

    def _say(self, former: Former, phase: str, said: str, begun: float, problem: Problem | None = None) -> None:
        wrong = problem or Problem("", "")
        level = logging.ERROR if problem else logging.WARNING
        log.log(level, "%s: %s", self._cluster.name, said, extra=hint(wrong.hint))
        self._alert(former, phase, "critical" if problem else "warning", said, wrong.hint)
        place = Place(FORMER_PRIMARY, FORMER_PRIMARY)
        kind, what = f"{phase}_node", self._what(former, phase)
        seconds = max(clock.wall() - begun, 0.0)
        step = StepRow(
            *(place, kind, str(former.node), former.node, what, begun, seconds, wrong.message, wrong.code, wrong.hint)
        )
        try:
            run = self._journal.begin_run(self._cluster.name, FORMER_PRIMARY, 1, [])
            self._journal.add_step(run, step)
            self._journal.end_run(run, problem is None, False, said, former.primary, 0, wrong.code, wrong.hint)
        except OperationFailed as error:
            log.error("%s", error)

    def _alert(self, former: Former, phase: str, severity: Severity, what: str, way: str) -> None:
        """Each phase of each node is a condition of its own, or the next takes the place of what is not sent yet."""
        condition = f"{FORMER_PRIMARY}: node {former.node}, {phase}"
        self._tell(Alert(self._cluster.name, condition, severity, what, hint=way, momentary=True))
