"""What would be done, and nothing is changed: each action builds on the imagined steps of those before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.engine.asking import look
from repmgr_hooks.engine.run import ActionResult, ScheduledAction
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.netfilter.backends import BACKENDS
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.layers import HostLayer
from repmgr_hooks.system.steps import DropConnections, Host, Program, Step


def preview(chosen: Sequence[ScheduledAction], state: ClusterState, host: Host) -> list[ActionResult]:
    """Return the steps that each action lacks now, and change nothing."""
    done = []
    for item in chosen:
        try:
            missing = look(item.action, replace(state, event=item.event), host)
            done.append(ActionResult(item.action, tuple(missing)))
        except OperationFailed as error:
            done.append(ActionResult(item.action, problems=(Problem.of(error),)))
    return done


def dry_run_steps(chosen: Sequence[ScheduledAction], state: ClusterState, host: Host) -> list[ActionResult]:
    """Return the steps that would be taken now, one action after the other, and change nothing."""
    imagined, done = DryRunHost(host, state.cluster), list[ActionResult]()
    for item in chosen:
        done += preview([item], state, imagined)
        imagined.imagine(done[-1].steps)
    return done


def differences(done: Sequence[ActionResult]) -> list[Problem]:
    """Return what a preview has found missing, or what kept it from looking."""
    return [problem for item in done for problem in item.problems or [Problem(s.kind, s.what) for s in item.steps]]


class DryRunHost(HostLayer):
    """A host on which steps are imagined, as far as netfilter goes; nothing else is looked at by two actions."""

    def __init__(self, host: Host, cluster: Cluster) -> None:
        super().__init__(host)
        self._changes: dict[str, list[str]] = {name: [] for name in BACKENDS}
        self._writing = {backend.writing(cluster): name for name, backend in BACKENDS.items()}
        self._reading = {backend.reading(cluster): name for name, backend in BACKENDS.items()}
        self._cut = False

    def imagine(self, steps: Iterable[Step]) -> None:
        """Let these be taken."""
        for step in steps:
            self._cut |= isinstance(step.do, DropConnections)
            if isinstance(step.do, Program) and (backend := self._writing.get(step.do.argv)):
                self._changes[backend].append(step.do.stdin)

    def run(self, program: Program, limit: float) -> str:
        """Answer as a look would be answered then."""
        if program.argv[:2] == ("conntrack", "-L") and self._cut:
            return ""
        said = super().run(program, limit)
        if backend := self._reading.get(program.argv):
            for change in self._changes[backend]:
                said = BACKENDS[backend].after(said, change)
        return said
