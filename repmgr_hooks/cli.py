"""The command line: verbs, output, exit codes. The only place that prints."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TextIO

from repmgr_hooks import check, config, dispatcher, handlers, history, status
from repmgr_hooks.arguments import parser
from repmgr_hooks.config import Config, which_cluster
from repmgr_hooks.decide import Memory
from repmgr_hooks.errors import BadInput, StepFailed, Trouble, did_you_mean
from repmgr_hooks.event import Event, parse_event
from repmgr_hooks.hook import wake
from repmgr_hooks.journal import Journal, open_journal
from repmgr_hooks.lock import exclusive, lock_name
from repmgr_hooks.queue import LOCK_WAIT, run_now
from repmgr_hooks.routes import Managed
from repmgr_hooks.run import Run
from repmgr_hooks.system import System
from repmgr_hooks.worker import Worker

OK, FAILED, USAGE, BUG = 0, 1, 2, 3

MAX_EVENT = 4096

log = logging.getLogger("repmgr_hooks")


def main() -> None:
    """Run the program and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one verb and return the exit code; the one place that turns errors into codes."""
    arguments = parser().parse_args(argv)
    verb = VERBS[arguments.verb]
    try:
        return verb(arguments)
    except BadInput as error:
        complain(error)
        return USAGE
    except Trouble as error:
        complain(error)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted; 'repmgr-hooks reconcile' does what is left")
        return FAILED
    except Exception:
        log.exception("this is a bug in repmgr_hooks; please report it with the lines below")
        return BUG


def complain(error: object) -> None:
    """Say on stderr what went wrong."""
    print(f"repmgr-hooks: {error}", file=sys.stderr)


def do_event(arguments: argparse.Namespace) -> int:
    """Handle an event that could not be stored (``hook.py`` stores it otherwise)."""
    if arguments.words == ["-"]:
        cluster, *arguments.words = sys.stdin.read(MAX_EVENT).split("\n")[:-1] or [""]
        arguments.cluster = cluster or None
    show_log_lines()
    return handle(arguments, parse_event(arguments.words), "event")


def do_replay(arguments: argparse.Namespace) -> int:
    """Handle an event in the foreground."""
    show_log_lines(sys.stdout)
    if arguments.id is None:
        return handle(arguments, parse_event(arguments.words), "replay")
    if arguments.words:
        raise BadInput("give either --id or the words of an event, not both")
    with journal_of(config.load(config.config_path(arguments.config))) as journal:
        found = journal.event(arguments.id)
    if found is None:
        raise BadInput(f"the journal has no event {arguments.id}; 'repmgr-hooks history' shows their numbers")
    arguments.cluster, event = found
    return handle(arguments, event, "replay")


def do_reconcile(arguments: argparse.Namespace) -> int:
    """Handle what every route asks for."""
    show_log_lines(sys.stdout)
    if getattr(arguments, "forget", False) and not arguments.dry_run:
        loaded = config.load(config.config_path(arguments.config))
        with journal_of(loaded) as journal:
            for managed in choose(loaded, arguments.cluster, None):
                journal.forget(managed.cluster.name)
    return handle(arguments, None, arguments.verb)


def handle(arguments: argparse.Namespace, event: Event | None, cause: str) -> int:
    """Run the dispatcher for the chosen clusters."""
    loaded = config.load(config.config_path(arguments.config))
    chosen = choose(loaded, arguments.cluster, event)
    events = [event] if event else []
    if getattr(arguments, "dry_run", False):
        with contextlib.ExitStack() as stack:
            journal, _ = journal_or_why_not(loaded, stack)
            known = None if getattr(arguments, "forget", False) else journal
            memories = [known.memory(managed.cluster.name) if known else Memory() for managed in chosen]
        good = [preview(managed, events, memory) for managed, memory in zip(chosen, memories, strict=True)]
        return OK if all(good) else FAILED
    with contextlib.ExitStack() as stack:
        journal, error = journal_or_why_not(loaded, stack)
        if error:
            log.error("%s; going on without it", error)
        good = [carry_out(loaded, managed, events, cause, journal) for managed in chosen]
        return OK if all(good) else FAILED


def preview(managed: Managed, events: list[Event], memory: Memory) -> bool:
    """Show what would be done for one cluster."""
    result = dispatcher.handle(managed, System(managed.cluster.conninfos()), events, dry_run=True, memory=memory)
    show_plan(result)
    return result.ok


def carry_out(loaded: Config, managed: Managed, events: list[Event], cause: str, journal: Journal | None) -> bool:
    """Run the dispatcher for one cluster, alone."""
    name = managed.cluster.name
    log.info("%s: %s", name, events[0] if events else cause)
    if cause in ("boot", "event") and journal and journal.paused(name):
        log.info("%s: paused: nothing is done", name)
        return True
    with exclusive(loaded.state_dir / lock_name(name), LOCK_WAIT):
        return run_now(managed, System(managed.cluster.conninfos()), events, cause, journal).ok


def show_plan(result: Run) -> None:
    """Print what a dry run would do."""
    for item in result.done:
        print(f"{item.action.title}{': ' + item.error if item.error else '' if item.steps else ': as it should be'}")
        for step in item.steps:
            print(f"  would {step.what}\n    {step.do}")
            if stdin := getattr(step.do, "stdin", ""):
                print("".join(f"      {line}\n" for line in stdin.splitlines()), end="")


def choose(loaded: Config, name: str | None, event: Event | None) -> list[Managed]:
    """Return the cluster of an event; without one, the named cluster, or all of them. Raises BadInput."""
    if event is None:
        if name is not None and name not in loaded.clusters:
            raise BadInput(f"{loaded.path} has no cluster {name!r}{did_you_mean(name, loaded.clusters)}")
        return [loaded.clusters[name]] if name is not None else list(loaded.clusters.values())
    name = which_cluster(loaded.clusters, name, event.node)
    nodes = loaded.clusters[name].cluster.nodes
    if event.node not in nodes:
        known = ", ".join(str(node) for node in nodes)
        raise BadInput(f"{loaded.path}: clusters.{name}.nodes has no node {event.node} (it has {known})")
    return [loaded.clusters[name]]


@contextlib.contextmanager
def journal_of(loaded: Config) -> Iterator[Journal]:
    """Open the journal. Raises StepFailed."""
    journal = open_journal(loaded.state_dir / "journal.db")
    try:
        yield journal
    finally:
        journal.close()


def journal_or_why_not(loaded: Config, stack: contextlib.ExitStack) -> tuple[Journal | None, str]:
    """Open the journal, or say why that cannot be; what is true can be seen and mended without it."""
    try:
        return stack.enter_context(journal_of(loaded)), ""
    except StepFailed as error:
        return None, str(error)


def do_worker(arguments: argparse.Namespace) -> int:
    """Be the service."""
    show_log_lines()
    Worker(config.config_path(arguments.config)).serve(arguments.once)
    return OK


def do_status(arguments: argparse.Namespace) -> int:
    """Show each cluster on the screen."""
    loaded = config.load(config.config_path(arguments.config))
    chosen = choose(loaded, arguments.cluster, None)
    with contextlib.ExitStack() as stack:
        journal, error = journal_or_why_not(loaded, stack)
        found = [status.look(managed, System(managed.cluster.conninfos()), journal, loaded) for managed in chosen]
    if error:
        complain(error)
    if arguments.json:
        print(json.dumps({picture.cluster.name: picture.as_dict() for picture in found}, indent=2))
    else:
        print("\n".join(line for picture in found for line in picture.lines()))
    return OK if all(picture.good for picture in found) and not error else FAILED


def do_continuity(arguments: argparse.Namespace) -> int:
    """Say whether Barman has all WAL that a restore would need."""
    loaded = config.load(config.config_path(arguments.config))
    chosen = [managed for managed in choose(loaded, arguments.name, None) if managed.cluster.barman]
    if not chosen:
        raise BadInput(f"{loaded.path}: no section 'barman': there is nothing to check")
    with contextlib.ExitStack() as stack:
        journal, _ = journal_or_why_not(loaded, stack)
        found = {
            managed.cluster.name: status.compared(managed.cluster, System(managed.cluster.conninfos()), journal)
            for managed in chosen
        }
    if arguments.json:
        print(json.dumps({name: report.as_dict() for name, report in found.items()}, indent=2))
    else:
        print("\n".join(line for name, report in found.items() for line in report.lines(name)))
    return OK if all(report.good for report in found.values()) else FAILED


def do_history(arguments: argparse.Namespace) -> int:
    """Show what happened."""
    loaded = config.load(config.config_path(arguments.config))
    choose(loaded, arguments.cluster, None)
    with journal_of(loaded) as journal:
        runs = history.read(journal, arguments.n, arguments.cluster, arguments.failed)
    print(json.dumps(runs, indent=2) if arguments.json else "\n".join(history.lines(runs)) or "nothing yet")
    return OK


def do_pause(arguments: argparse.Namespace) -> int:
    """Begin a maintenance."""
    loaded = config.load(config.config_path(arguments.config))
    until = None if arguments.duration is None else time.time() + arguments.duration
    with journal_of(loaded) as journal:
        for managed in choose(loaded, arguments.cluster, None):
            journal.pause(managed.cluster.name, until, arguments.reason)
            print(f"{managed.cluster.name}: PAUSED {status.until_when(until)}: events are stored, nothing is done")
    return OK


def do_resume(arguments: argparse.Namespace) -> int:
    """End a maintenance, and make it so."""
    loaded = config.load(config.config_path(arguments.config))
    with journal_of(loaded) as journal:
        for managed in choose(loaded, arguments.cluster, None):
            journal.resume(managed.cluster.name)
    wake(str(loaded.state_dir / "spool"))
    return do_reconcile(arguments)


def do_check(arguments: argparse.Namespace) -> int:
    """Say what would go wrong."""
    found = check.findings(config.load(config.config_path(arguments.config)))
    print("\n".join(map(str, found)))
    return FAILED if any(finding.level == "FAIL" for finding in found) else OK


def do_handlers(arguments: argparse.Namespace) -> int:
    """List the handlers."""
    for name, handler in sorted(handlers.installed().items()):
        print(f"{name:12} {handler.origin:24} {(handler.module.__doc__ or '').partition(chr(10))[0]}")
    return OK


def show_log_lines(stream: TextIO | None = None) -> None:
    """Send the log to ``stream`` (default stderr), one line an entry."""
    output = logging.StreamHandler(stream or sys.stderr)
    output.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    log.addHandler(output)
    log.setLevel(logging.INFO)


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "event": do_event,
    "worker": do_worker,
    "replay": do_replay,
    "reconcile": do_reconcile,
    "boot": do_reconcile,
    "status": do_status,
    "continuity": do_continuity,
    "history": do_history,
    "pause": do_pause,
    "resume": do_resume,
    "check": do_check,
    "handlers": do_handlers,
}
