"""Does one step, and looks whether it has worked."""

from __future__ import annotations

import logging
import re
from dataclasses import replace

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.conntrack import parse_conntrack
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.layers import seconds_for
from repmgr_hooks.system.steps import FIRST_POLL, POLL, ConsoleCommand, DropConnections, Host, Program, Rows, Sql, Step
from repmgr_hooks.text import MOST, one_line

log = logging.getLogger(__name__)

SHORTEST_TRY = 1.0
"""Nothing is begun again with less than so many seconds left: "not finished" would hide why it failed before."""


def apply(step: Step, host: Host) -> None:
    """Do one step within its limit. Raises OperationFailed."""
    begun = host.now()
    end = begun + seconds_for(step, host)
    while True:
        try:
            said = _do(step.do, host, end - host.now())
        except OperationFailed as error:
            if error.code in ("program_failed", "timeout"):
                error.hint = error.hint or step.hint
            raise
        again = host.now() + step.every
        if step.until is None or _becomes_true(step, step.until, host, again if end - again >= SHORTEST_TRY else end):
            return
        if host.now() >= end:
            waited = f"{step.what}: not seen within {host.now() - begun:.0f} s"
            what = "; ".join(filter(None, [waited, said]))
            raise OperationFailed(what, code="no_effect", hint=step.hint)


def _do(action: Program | Sql | ConsoleCommand | DropConnections | Alert, host: Host, limit: float) -> str:
    """Do it, and return what a program that should go on running has said as it ended."""
    match action:
        case Program():
            said = host.run(action, limit)
            return one_line(said.strip(), MOST) if action.resident else ""
        case Sql():
            host.fetch(action, limit)
        case ConsoleCommand():
            said_there = host.ask_consoles({action.console: (action.command,)}, limit)[action.console]
            if isinstance(said_there, OperationFailed):
                raise said_there
        case DropConnections():
            _reset(host.run(action.forget, limit), host, action.reset_clients)
        case Alert():
            host.tell(action)
    return ""


def _reset(deleted: str, host: Host, wanted: bool) -> None:
    """Reset the clients of what conntrack has deleted; the rest does not depend on it."""
    if wanted and deleted.strip():
        try:
            host.reset_clients(found.flow for found in parse_conntrack(deleted) if found.alive)
        except OperationFailed as error:
            log.warning("clients not reset: %s; going on without it", error)


def _becomes_true(step: Step, question: Sql | Program, host: Host, end: float) -> bool:
    begun = host.now()
    while True:
        limit = max(end - host.now(), SHORTEST_TRY)
        if isinstance(question, Program):
            rows: Rows = [(_is_said(question, host, limit),)]
        else:
            rows = host.fetch(question, limit)
        if rows and rows[0][0]:
            return True
        if rows and rows[0][0] is None:
            what = f"{step.what}: cannot be seen any more, for something else has been undone meanwhile"
            raise OperationFailed(what, code="undone")
        if host.now() >= end:
            return False
        host.sleep(min(max((host.now() - begun) / 8, FIRST_POLL), POLL))


def _is_said(question: Program, host: Host, limit: float) -> bool:
    """Return whether a program prints what is expected; where nothing is, whether it prints anything."""
    said = host.run(replace(question, expect=""), limit)
    return bool(re.search(question.expect, said) if question.expect else said.strip())
