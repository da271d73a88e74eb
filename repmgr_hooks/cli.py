"""The command line: verbs, output, exit codes. The only place that prints."""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from repmgr_hooks import config, dispatcher, handlers, history, status
from repmgr_hooks.config import Config, Managed
from repmgr_hooks.errors import BadInput, StepFailed, Trouble, did_you_mean
from repmgr_hooks.event import Event, parse_event
from repmgr_hooks.hook import CONFIG, wake
from repmgr_hooks.journal import Journal, open_journal
from repmgr_hooks.lock import exclusive
from repmgr_hooks.queue import LOCK_WAIT, run_now
from repmgr_hooks.system import System
from repmgr_hooks.worker import Worker

OK, FAILED, USAGE, BUG = 0, 1, 2, 3

MAX_EVENT = 4096
UNITS = {"s": 1, "m": 60, "h": 3600}

log = logging.getLogger("repmgr_hooks")


def main() -> None:
    """Run the program and exit with its code."""
    sys.exit(run(sys.argv[1:]))


def run(argv: Sequence[str]) -> int:
    """Run one verb and return the exit code; the one place that turns errors into codes."""
    arguments = parser().parse_args(argv)
    verb: Callable[[argparse.Namespace], int] = arguments.verb
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


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="repmgr-hooks", description="What repmgr calls when something happens.")
    top.add_argument("--config", metavar="FILE", help="default: $REPMGR_HOOKS_CONFIG, else " + CONFIG)
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, does: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(verb=does)
        if name not in ("check", "handlers", "worker"):
            made.add_argument("--cluster", help="needed if the configuration has several")
        return made

    words = "NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]"
    event = verb("event", do_event, 'what repmgr calls: %%n %%e %%s "%%p" "%%t"; a single - reads them from stdin')
    event.add_argument("words", nargs="*", metavar=words)
    replay = verb("replay", do_replay, "the same now, in the foreground, showing each step")
    replay.add_argument("words", nargs="*", metavar=words)
    replay.add_argument("--id", type=int, help="an event of the journal, by its number in 'history'")
    reconcile = verb("reconcile", do_reconcile, "make it so, whatever the events said")
    for made in (replay, reconcile):
        made.add_argument("--dry-run", action="store_true", help="show the steps and change nothing")
    boot = verb("boot", do_reconcile, "at boot: chains, forwarding and routes as the cluster is now")
    reconcile.set_defaults(cause="reconcile")
    boot.set_defaults(cause="boot")
    worker = verb("worker", do_worker, "the service: handle what 'event' stores")
    worker.add_argument("--once", action="store_true", help="end when nothing waits any more")
    status = verb("status", do_status, "what is true; exit code 0 only if all is as it should be")
    history = verb("history", do_history, "what happened, newest last")
    history.add_argument("--failed", action="store_true", help="only runs that failed")
    history.add_argument("-n", type=int, default=20, metavar="N", help="so many runs (default 20)")
    for made in (status, history):
        made.add_argument("--json", action="store_true", help="for machines")
    pause = verb("pause", do_pause, "maintenance: events are stored, nothing is done")
    pause.add_argument("--for", dest="duration", type=duration, metavar="TIME", help="such as 90s, 30m or 2h")
    pause.add_argument("--reason", default="", help="shown by 'status'")
    verb("resume", do_resume, "end a pause and make up for it")
    verb("check", do_check, "find the mistakes in the configuration")
    verb("handlers", do_handlers, "what is installed, and from where")
    return top


def duration(text: str) -> int:
    """Return the seconds of ``90s``, ``30m`` or ``2h``. Raises ArgumentTypeError."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in UNITS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 30m or 2h")
    return int(number) * UNITS[unit]


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
    return handle(arguments, None, arguments.cause)


def handle(arguments: argparse.Namespace, event: Event | None, cause: str) -> int:
    """Run the dispatcher for the chosen clusters."""
    loaded = config.load(config.config_path(arguments.config))
    chosen = choose(loaded, arguments.cluster, event)
    events = [event] if event else []
    if getattr(arguments, "dry_run", False):
        good = [preview(managed, events) for managed in chosen]
        return OK if all(good) else FAILED
    with contextlib.ExitStack() as stack:
        journal = None
        try:
            journal = stack.enter_context(journal_of(loaded))
        except StepFailed as error:
            log.error("%s; going on without it", error)
        good = [carry_out(loaded, managed, events, cause, journal) for managed in chosen]
        return OK if all(good) else FAILED


def preview(managed: Managed, events: list[Event]) -> bool:
    """Show what would be done for one cluster."""
    result = dispatcher.handle(managed, System(managed.cluster.conninfos()), events, dry_run=True)
    show_plan(result)
    return result.ok


def carry_out(loaded: Config, managed: Managed, events: list[Event], cause: str, journal: Journal | None) -> bool:
    """Run the dispatcher for one cluster, alone."""
    name = managed.cluster.name
    log.info("%s: %s", name, events[0] if events else cause)
    with exclusive(loaded.state_dir / f"{name}.lock", LOCK_WAIT):
        return run_now(managed, System(managed.cluster.conninfos()), events, cause, journal).ok


def show_plan(result: dispatcher.Run) -> None:
    """Print what a dry run would do."""
    for item in result.done:
        print(f"{item.action.title}{': ' + item.error if item.error else '' if item.steps else ': as it should be'}")
        for step in item.steps:
            print(f"  would {step.what}\n    {step.do}")
            if stdin := getattr(step.do, "stdin", ""):
                print("".join(f"      {line}\n" for line in stdin.splitlines()), end="")


def choose(loaded: Config, name: str | None, event: Event | None) -> list[Managed]:
    """Return the named cluster, the only one, or all of them when there is no event. Raises BadInput."""
    if name is not None and name not in loaded.clusters:
        raise BadInput(f"{loaded.path} has no cluster {name!r}{did_you_mean(name, loaded.clusters)}")
    chosen = [loaded.clusters[name]] if name is not None else list(loaded.clusters.values())
    if event is None:
        return chosen
    if len(chosen) > 1:
        raise BadInput(f"several clusters ({', '.join(loaded.clusters)}): name one with --cluster")
    nodes = chosen[0].cluster.nodes
    if event.node not in nodes:
        known = ", ".join(str(node) for node in nodes)
        raise BadInput(
            f"{loaded.path}: clusters.{chosen[0].cluster.name}.nodes has no node {event.node} (it has {known})"
        )
    return chosen


@contextlib.contextmanager
def journal_of(loaded: Config) -> Iterator[Journal]:
    """Open the journal. Raises StepFailed."""
    journal = open_journal(loaded.state_dir / "journal.db")
    try:
        yield journal
    finally:
        journal.close()


def do_worker(arguments: argparse.Namespace) -> int:
    """Be the service."""
    show_log_lines()
    Worker(config.config_path(arguments.config)).serve(arguments.once)
    return OK


def do_status(arguments: argparse.Namespace) -> int:
    """Show each cluster on the screen."""
    loaded = config.load(config.config_path(arguments.config))
    chosen = choose(loaded, arguments.cluster, None)
    with journal_of(loaded) as journal:
        found = [status.look(managed, System(managed.cluster.conninfos()), journal, loaded) for managed in chosen]
    if arguments.json:
        print(json.dumps({picture.cluster: picture.as_dict() for picture in found}, indent=2))
    else:
        print("\n".join(line for picture in found for line in picture.lines()))
    return OK if all(picture.good for picture in found) else FAILED


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
    arguments.cause = "resume"
    return do_reconcile(arguments)


def do_check(arguments: argparse.Namespace) -> int:
    """Check the configuration."""
    loaded = config.load(config.config_path(arguments.config))
    routes = sum(len(managed.routes) for managed in loaded.clusters.values())
    print(f"{loaded.path}: OK, {len(loaded.clusters)} cluster(s), {routes} route(s)")
    return OK


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
