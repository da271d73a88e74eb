"""Send a message about an event to the receivers under ``alerts``; the service does it in the background."""

from __future__ import annotations

from dataclasses import dataclass

from repmgr_hooks.cluster.notice import Notice
from repmgr_hooks.handlers import contract
from repmgr_hooks.system.alert import Alert, Severity
from repmgr_hooks.system.steps import Step

LIMIT = 5.0

observe = None
validate = contract.always_valid  # that somebody stands under 'alerts' is seen where the whole file is read
fail_open_after = contract.never_fails_open
shared = contract.exists_once
on_tick = contract.looks_on_tick
fingerprint = contract.no_fingerprint
warnings = contract.no_warnings
helper = contract.always_helps
housekeep = contract.no_housekeeping
fence = contract.fence_nothing


@dataclass(frozen=True)
class Config:
    """``severity`` says who gets it: each receiver under ``alerts`` names the least severity that it is for."""

    severity: Severity = "warning"


def plan(config: Config, notice: Notice, seen: None) -> list[Step]:
    """Return the one step: hand the message over."""
    what = str(notice.event or "reconcile")
    failed = "" if notice.event is None or notice.event.success else ", reported as failed"
    known = f"the primary is node {notice.primary}, timeline {notice.timeline}"
    primary = known if notice.primary else "the primary is unknown"
    alert = Alert(
        notice.cluster.name,
        what,
        config.severity,
        f"{what}{failed}; {primary}{', which the event contradicts' if notice.contradicts else ''}",
        "\n".join(map(str, notice.states.values())),
        f"repmgr-hooks status --cluster {notice.cluster.name}",
        momentary=True,
    )
    return [Step(f"send an alert: {what}", alert, LIMIT, kind="send_alert", target=config.severity)]
