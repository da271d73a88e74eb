"""Commands that change something, or show what they would change."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks.cli.configured import choose, configured, world_of
from repmgr_hooks.cli.journals import journal_of, journal_or_why_not
from repmgr_hooks.cli.logged import log, show_log_lines
from repmgr_hooks.cli.output import FAILED, OK
from repmgr_hooks.cli.rights import complain_of_passfiles, refuse_without_rights
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.config import Config
from repmgr_hooks.engine import dispatcher, simulation
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import RunResult
from repmgr_hooks.errors import UsageError, did_you_mean, hint_lines
from repmgr_hooks.event import CATALOGUE, Event, parse_event
from repmgr_hooks.hook import forwards
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.pauses import pause_of
from repmgr_hooks.lock import LOCK_WAIT, exclusive, lock_name
from repmgr_hooks.log import Lines, about
from repmgr_hooks.service.foreground import run_now

MAX_EVENT = 4096


def do_event(arguments: argparse.Namespace) -> int:
    """Handle an event that could not be stored (``hook.py`` stores it otherwise)."""
    if arguments.words == ["-"]:
        try:
            text = sys.stdin.read(MAX_EVENT)
        except UnicodeDecodeError as error:
            raise UsageError(f"the event on stdin is not UTF-8: {error.reason}; repmgr sends plain words") from None
        stored = text.split("\n")[:-1] or [""]
        if forwards(arguments.config):
            from repmgr_hooks.cli.forward import hand_over_now  # what a gateway has no use for

            return hand_over_now(Path(arguments.config), stored)
        cluster, *arguments.words = stored
        arguments.cluster = cluster or None
    return handle(arguments, parse_event(arguments.words), "event", show_log_lines(sys.stderr))


def do_replay(arguments: argparse.Namespace) -> int:
    """Handle an event in the foreground."""
    lines = show_log_lines(sys.stdout, arguments.log)
    if arguments.id is None:
        event = parse_event(arguments.words)
        if event.name not in CATALOGUE:  # typed by somebody: repmgr sends its own names
            raise UsageError(f"unknown event {event.name!r}", hint=did_you_mean(event.name, CATALOGUE))
        return handle(arguments, event, "replay", lines)
    if arguments.words:
        raise UsageError("give either --id or the words of an event, not both")
    with journal_of(configured(arguments).state_dir) as journal:
        found = journal.event(arguments.id)
    if found is None:
        raise UsageError(f"the journal has no event {arguments.id}", hint="'repmgr-hooks history' shows their numbers")
    arguments.cluster, event = found
    return handle(arguments, event, "replay", lines)


def do_reconcile(arguments: argparse.Namespace) -> int:
    """Handle what every route asks for."""
    lines = show_log_lines(sys.stdout, arguments.log)
    if arguments.reset_state and not arguments.dry_run:
        loaded = configured(arguments)
        with journal_of(loaded.state_dir) as journal:
            for managed in choose(loaded, arguments.cluster, None):
                journal.forget(managed.cluster.name)
    return handle(arguments, None, arguments.command, lines)


def do_simulate_failover(arguments: argparse.Namespace) -> int:
    """Show what a failover to a standby would do now. Nothing is changed."""
    lines = show_log_lines(sys.stdout, arguments.log)
    loaded = configured(arguments)
    promotion = Event(arguments.node, simulation.EVENT)
    (managed,) = choose(loaded, arguments.cluster, promotion)
    complain_of_passfiles([managed])
    last_known = all_last_known(loaded, [managed])[0]
    return shown(simulation.simulate(managed, world_of(managed), promotion, last_known), lines)


def handle(arguments: argparse.Namespace, event: Event | None, cause: str, lines: Lines) -> int:
    """Run the dispatcher for the chosen clusters."""
    loaded = configured(arguments)
    chosen = choose(loaded, arguments.cluster, event)
    if cause != "event" and not arguments.dry_run:
        refuse_without_rights(chosen)
    events = [event] if event else []
    if arguments.dry_run:
        complain_of_passfiles(chosen)
        known = [LastKnownPrimary()] * len(chosen) if arguments.reset_state else all_last_known(loaded, chosen)
        return max(
            preview(managed, events, last_known, lines) for managed, last_known in zip(chosen, known, strict=True)
        )
    with contextlib.ExitStack() as stack:
        journal, error = journal_or_why_not(loaded.state_dir, stack)
        if error:
            log.error("%s; going on without it", error)
        good = []
        for managed in chosen:
            with about(cluster=managed.cluster.name, named=len(chosen) > 1):
                good.append(carry_out(loaded, managed, events, cause, journal, lines))
        return OK if all(good) else FAILED


def all_last_known(loaded: Config, chosen: list[ManagedCluster]) -> list[LastKnownPrimary]:
    """Return what the journal remembers of each cluster; nothing, if it cannot be used."""
    with contextlib.ExitStack() as stack:
        journal, _ = journal_or_why_not(loaded.state_dir, stack)
        return [journal.last_known(managed.cluster.name) if journal else LastKnownPrimary() for managed in chosen]


def preview(managed: ManagedCluster, events: list[Event], last_known: LastKnownPrimary, lines: Lines) -> int:
    """Show what would be done for one cluster now."""
    return shown(dispatcher.handle(managed, world_of(managed), events, dry_run=True, last_known=last_known), lines)


def carry_out(
    loaded: Config, managed: ManagedCluster, events: list[Event], cause: str, journal: Journal | None, lines: Lines
) -> bool:
    """Run the dispatcher for one cluster, alone."""
    name = managed.cluster.name
    log.info("%s: %s", name, events[0] if events else cause)
    if cause in ("boot", "event") and pause_of(name, journal, loaded.state_dir):
        if events:  # one that could be stored does not come here
            log.error(
                "%s: paused, and %s could not be stored: it is lost; 'resume' puts the cluster right without it",
                name,
                events[0],
            )
            return False
        log.info("%s: paused: nothing is done", name)
        return True
    with contextlib.ExitStack() as alone:
        with lines.waiting("the end of another run", LOCK_WAIT):
            alone.enter_context(exclusive(loaded.state_dir / lock_name(name), LOCK_WAIT))
        alone.enter_context(not_suspended())
        return run_now(managed, world_of(managed), events, cause, journal, lines.waiting).ok


@contextlib.contextmanager
def not_suspended() -> Iterator[None]:
    """Let no terminal stop us (Ctrl-Z, output in the background) while others wait for our lock."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTSTP, signal.SIGTTOU)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def shown(result: RunResult, lines: Lines) -> int:
    """Print what a dry run would do, and return the exit code."""
    for item in result.done:
        state = f": {item.error}" if item.error else "" if item.steps else ": in the desired state"
        for line in (f"{item.action.title}{state}", *hint_lines(*item.hints)):
            lines.say(line)
        for step in item.steps:
            lines.say(f"  would {step.what}\n    {step.do}")
            for line in getattr(step.do, "stdin", "").splitlines():
                lines.say(f"      {line}")
    return OK if result.ok else FAILED
