"""What is true of a cluster, in a few lines: its primary and why, its nodes, its ports, and what is missing."""

from __future__ import annotations

from repmgr_hooks import cluster, dispatcher
from repmgr_hooks.cluster import Decided
from repmgr_hooks.config import Managed
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.handlers import firewall
from repmgr_hooks.steps import Program, World


def describe(managed: Managed, world: World) -> tuple[list[str], bool]:
    """Return the lines, and whether all is as it should be."""
    settings = managed.cluster
    verdict = cluster.decide(cluster.observe(settings, world), settings.system_identifier)
    if verdict.primary is None:
        headline, missing = f"UNKNOWN primary: {verdict.reason}", []
    else:
        states = {state.node: state for state in verdict.states}
        decided = Decided(settings, verdict.primary, verdict.timeline, states)
        missing = _missing(managed, decided, world)
        headline = f"primary is node {verdict.primary}, timeline {verdict.timeline} ({verdict.reason})"
    lines = [f"{settings.name}: {headline}"]
    lines += [f"  {state}" for state in verdict.states]
    lines += [f"  {line}" for line in _ports(managed, world)]
    lines += [f"  MISSING {line}" for line in missing]
    if missing:
        lines.append(f"  mend it with: repmgr-hooks reconcile --cluster {settings.name}")
    return lines, verdict.primary is not None and not missing


def _missing(managed: Managed, decided: Decided, world: World) -> list[str]:
    done = dispatcher.preview(dispatcher.select(managed.routes, None), decided, world)
    return [text for item in done for text in ([item.error] if item.error else [step.what for step in item.steps])]


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
