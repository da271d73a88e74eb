"""A program of the user's, run on its events, with the event as JSON on stdin and in the environment. No shell."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks.cluster.notice import Notice
from repmgr_hooks.handlers import contract
from repmgr_hooks.settings.schema import ProgramWords, Timeout
from repmgr_hooks.system.steps import Program, Step

observe = None
validate = contract.always_valid
fail_open_after = contract.never_fails_open
shared = contract.exists_once
on_tick = contract.looks_on_tick
helper = contract.never_helps
fingerprint = contract.no_fingerprint
warnings = contract.no_warnings
housekeep = contract.no_housekeeping
fence = contract.fence_nothing


@dataclass(frozen=True)
class Config:
    """``run`` is the program's absolute path and its arguments; ``timeout`` is in seconds."""

    run: ProgramWords
    timeout: Timeout = 30


def plan(config: Config, notice: Notice, seen: None) -> list[Step]:
    """Return the one step: run the program. What is not known is null in the JSON, and empty in the environment."""
    document = {
        "cluster": notice.cluster.name,
        "primary": notice.primary,
        "primary_host": notice.primary_host or None,
        "primary_port": notice.primary_port,
        "timeline": notice.timeline or None,
        "old_primary": notice.old_primary,
        "old_primary_host": notice.old_primary_host or None,
        "old_primary_port": notice.old_primary_port,
        "contradicts": notice.contradicts,
        "event": dataclasses.asdict(notice.event) if notice.event else None,
    }
    environment = {
        "REPMGR_HOOKS_CLUSTER": notice.cluster.name,
        "REPMGR_HOOKS_PRIMARY": str(notice.primary or ""),
        "REPMGR_HOOKS_PRIMARY_HOST": notice.primary_host,
        "REPMGR_HOOKS_PRIMARY_PORT": str(notice.primary_port or ""),
        "REPMGR_HOOKS_OLD_PRIMARY": str(notice.old_primary or ""),
        "REPMGR_HOOKS_OLD_PRIMARY_HOST": notice.old_primary_host,
        "REPMGR_HOOKS_OLD_PRIMARY_PORT": str(notice.old_primary_port or ""),
        "REPMGR_HOOKS_CONTRADICTS": "1" if notice.contradicts else "",
        "REPMGR_HOOKS_EVENT": notice.event.name if notice.event else "",
        "REPMGR_HOOKS_NODE": str(notice.event.node) if notice.event else "",
        "REPMGR_HOOKS_SUCCESS": str(int(notice.event.success)) if notice.event else "",
    }
    program = Program(config.run, stdin=json.dumps(document) + "\n", env=environment, whole=False)
    name = Path(config.run[0]).name
    return [Step(f"run {name}", program, config.timeout, kind="run_program", target=name)]
