"""What is true of a cluster: its primary and why, its nodes, its ports, what is missing, and what the journal says."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from repmgr_hooks import dispatcher
from repmgr_hooks.cluster import Decided, Verdict
from repmgr_hooks.config import Config, Managed
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.handlers import firewall
from repmgr_hooks.journal import Journal
from repmgr_hooks.records import Memory, Pause, RunRow
from repmgr_hooks.steps import Program, World


@dataclass(frozen=True)
class Picture:
    """One cluster, looked at now."""

    cluster: str
    verdict: Verdict
    ports: tuple[str, ...]
    missing: tuple[str, ...]
    waiting: int
    paused: Pause | None
    failed: RunRow | None
    attempts: int

    @property
    def good(self) -> bool:
        """True if all is as it should be."""
        return self.verdict.primary is not None and not (self.missing or self.paused or self.failed or self.waiting)

    def lines(self) -> list[str]:
        """Return the lines for the screen, the most important first."""
        verdict = self.verdict
        known = f"primary is node {verdict.primary}, timeline {verdict.timeline} ({verdict.reason})"
        lines = [f"{self.cluster}: {known if verdict.primary else f'UNKNOWN primary: {verdict.reason}'}"]
        if self.paused:
            reason = f" ({self.paused.reason})" if self.paused.reason else ""
            lines.append(f"  PAUSED {until_when(self.paused.until)}{reason}; end it with: repmgr-hooks resume")
        lines += [f"  {state}" for state in verdict.states]
        lines += [f"  {line}" for line in self.ports]
        lines += [f"  MISSING {line}" for line in self.missing]
        if self.waiting:
            lines.append(f"  {self.waiting} event(s) wait to be handled; is repmgr-hooks.service running?")
        if self.failed:
            standing = self.failed.attempt >= self.attempts or not self.failed.again
            lines.append(
                f"  {'FAILED, given up' if standing else 'FAILED, will be tried again'}: {self.failed.message}"
            )
        if self.missing or self.failed:
            lines.append(f"  mend it with: repmgr-hooks reconcile --cluster {self.cluster}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain data."""
        return {"good": self.good, **dataclasses.asdict(self)}


def look(managed: Managed, world: World, journal: Journal | None, loaded: Config) -> Picture:
    """Look at a cluster now."""
    settings = managed.cluster
    memory = journal.memory(settings.name) if journal else Memory()
    verdict = dispatcher.Judge(settings, memory).verdict(world)
    last = journal.runs(1, settings.name) if journal else []
    return Picture(
        settings.name,
        verdict,
        tuple(_ports(managed, world)),
        tuple(_missing(managed, verdict, world)),
        len(journal.waiting(settings.name)) if journal else 0,
        journal.paused(settings.name) if journal else None,
        last[0] if last and last[0].ok is False else None,
        loaded.service.retry.attempts,
    )


def until_when(moment: float | None) -> str:
    """Return the end of a pause in words."""
    return "until it is resumed" if moment is None else f"until {time.strftime('%H:%M:%S', time.localtime(moment))}"


def _missing(managed: Managed, verdict: Verdict, world: World) -> list[str]:
    if verdict.primary is None:
        return []
    states = {state.node: state for state in verdict.states}
    decided = Decided(managed.cluster, verdict.primary, verdict.timeline, states)
    return dispatcher.differences(dispatcher.preview(dispatcher.select(managed.routes, []), decided, world))


def _ports(managed: Managed, world: World) -> list[str]:
    gateway = managed.cluster.gateway
    save = Program((f"{firewall.Family(gateway.address).iptables}-save", "-t", "nat"))
    try:
        open_to = firewall.leads_to(managed.cluster, firewall.parse_rules(world.run(save, firewall.LIMIT)))
    except StepFailed as error:
        return [f"ports: {error}"]
    return [
        f"port {number} ({name}): " + (f"leads to node {open_to[name]}" if open_to[name] else "closed")
        for name, number in gateway.ports.items()
    ]
