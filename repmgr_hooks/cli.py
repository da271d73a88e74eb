"""The command line: verbs, output, exit codes. The only place that prints."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn, TextIO

from repmgr_hooks import config, dispatcher, handlers
from repmgr_hooks.config import Config, Managed
from repmgr_hooks.errors import BadInput, Trouble, did_you_mean
from repmgr_hooks.event import Event, parse_event
from repmgr_hooks.status import describe
from repmgr_hooks.steps import System

OK, FAILED, USAGE, BUG = 0, 1, 2, 3

MAX_EVENT = 4096

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
    top.add_argument("--config", metavar="FILE", help="default: $REPMGR_HOOKS_CONFIG, else " + config.DEFAULT_PATH)
    verbs = top.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, does: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(verb=does)
        if name not in ("check", "handlers"):
            made.add_argument("--cluster", help="needed if the configuration has several")
        return made

    words = "NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]"
    event = verb("event", do_event, 'what repmgr calls: %%n %%e %%s "%%p" "%%t"; a single - reads them from stdin')
    event.add_argument("words", nargs="*", metavar=words)
    replay = verb("replay", do_replay, "the same now, in the foreground, showing each step")
    replay.add_argument("words", nargs="*", metavar=words)
    reconcile = verb("reconcile", do_reconcile, "make it so, whatever the events said")
    for made in (replay, reconcile):
        made.add_argument("--dry-run", action="store_true", help="show the steps and change nothing")
    verb("boot", do_reconcile, "at boot: chains, forwarding and routes as the cluster is now").set_defaults(
        dry_run=False
    )
    verb("status", do_status, "what is true; exit code 0 only if all is as it should be")
    verb("check", do_check, "find the mistakes in the configuration")
    verb("handlers", do_handlers, "what is installed, and from where")
    return top


def do_event(arguments: argparse.Namespace) -> int:
    """Handle an event before returning to repmgr; only root may, so anybody else hands it over."""
    if arguments.words == ["-"]:
        return do_event(parser().parse_args(["event", *read_words(sys.stdin.readline(MAX_EVENT))]))
    event = parse_event(arguments.words)
    if os.geteuid() != 0:
        hand_over([*(["--cluster", arguments.cluster] if arguments.cluster else []), *arguments.words])
    show_log_lines()
    return handle(arguments, event)


def read_words(line: str) -> list[str]:
    """Return the words of an event that was handed over as a JSON list. Raises BadInput."""
    try:
        words = json.loads(line)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or words == ["-"]:
        raise BadInput("stdin must hold one line, a JSON list of the event's words")
    return words


def hand_over(words: list[str]) -> NoReturn:
    """Become ``sudo repmgr-hooks event -``, with the words on stdin: sudoers need no wildcard that way."""
    reader, writer = os.pipe()
    os.write(writer, json.dumps(words).encode() + b"\n")
    os.close(writer)
    os.dup2(reader, 0)
    os.execvp("sudo", ["sudo", "-n", "/usr/local/bin/repmgr-hooks", "event", "-"])


def do_replay(arguments: argparse.Namespace) -> int:
    """Handle an event in the foreground."""
    show_log_lines(sys.stdout)
    return handle(arguments, parse_event(arguments.words))


def do_reconcile(arguments: argparse.Namespace) -> int:
    """Handle what every route asks for."""
    show_log_lines(sys.stdout)
    return handle(arguments, None)


def handle(arguments: argparse.Namespace, event: Event | None) -> int:
    """Run the dispatcher for the chosen clusters."""
    loaded = config.load(config.config_path(arguments.config))
    chosen = choose(loaded, arguments.cluster, event)
    dry_run = getattr(arguments, "dry_run", False)
    results = [handle_cluster(loaded, managed, event, dry_run) for managed in chosen]
    return OK if all(results) else FAILED


def handle_cluster(loaded: Config, managed: Managed, event: Event | None, dry_run: bool) -> bool:
    """Run the dispatcher for one cluster, alone."""
    name = managed.cluster.name
    world = System(managed.cluster.conninfos())
    log.info("%s: %s", name, event or "reconcile")
    if dry_run:
        result = dispatcher.handle(managed, world, event, dry_run=True)
        show_plan(result)
        return result.ok
    with dispatcher.one_at_a_time(loaded.state_dir / f"{name}.lock", world):
        return dispatcher.handle(managed, world, event).ok


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


def do_status(arguments: argparse.Namespace) -> int:
    """Show each cluster on the screen."""
    loaded = config.load(config.config_path(arguments.config))
    code = OK
    for managed in choose(loaded, arguments.cluster, None):
        lines, good = describe(managed, System(managed.cluster.conninfos()))
        print("\n".join(lines))
        code = code if good else FAILED
    return code


def do_check(arguments: argparse.Namespace) -> int:
    """Check the configuration."""
    loaded = config.load(config.config_path(arguments.config))
    routes = sum(len(managed.routes) for managed in loaded.clusters.values())
    print(f"{loaded.path}: OK, {len(loaded.clusters)} cluster(s), {routes} route(s)")
    return OK


def do_handlers(arguments: argparse.Namespace) -> int:
    """List the handlers."""
    for name, handler in sorted(handlers.installed().items()):
        print(f"{name:12} {handler.origin:24} {(handler.module.__doc__ or '').splitlines()[0]}")
    return OK


def show_log_lines(stream: TextIO | None = None) -> None:
    """Send the log to ``stream`` (default stderr), one line an entry."""
    output = logging.StreamHandler(stream or sys.stderr)
    output.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", "%H:%M:%S"))
    log.addHandler(output)
    log.setLevel(logging.INFO)
