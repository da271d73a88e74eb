"""The grammar of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

from repmgr_hooks.cli.values import (
    Version,
    amount,
    duration,
    event_number,
    host_name,
    node_id,
    path,
    reason,
    wal_amount,
)
from repmgr_hooks.cli.width import formatter
from repmgr_hooks.hook import CONFIG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

WORDS = "NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]"

LOGGING = {
    "boot",
    "drill",
    "forward",
    "reconcile",
    "replay",
    "resume",
    "serve-http",
    "simulate-failover",
    "switchover",
    "worker",
}
"""These commands say what they do while they do it."""
OF_NO_CLUSTER = ("check", "complete", "config-schema", "forward", "handlers", "receive-event", "serve-http", "worker")
OF_EACH_CLUSTER = ("boot", "check-wal", "history", "metrics", "pause", "reconcile", "resume", "status")
OF_ALL, OF_ONE = "this one only; without it each cluster", "required if the configuration has several clusters"
OF_NEW = "what the cluster is to be called (default: main)"
UNLISTED = ("complete",)
"""Only the shell calls it."""

Parser = argparse.ArgumentParser


def parser(words: Sequence[str] = ()) -> Parser:
    """Return the parser of the command line; if the words begin with a command, that of this command alone."""
    top = Parser(
        prog="repmgr-hooks",
        description="Make the gateway and Barman follow the PostgreSQL primary.",
        allow_abbrev=False,
        formatter_class=formatter,
    )
    top.add_argument("--config", metavar="FILE", help="default: $REPMGR_HOOKS_CONFIG, else " + CONFIG)
    top.add_argument("--version", nargs=0, action=Version, help="print it and exit")
    top.set_defaults(file=None, dry_run=False, reset_state=False)
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name in words[:1] if words and words[0] in COMMANDS else COMMANDS:
        text, add_options = COMMANDS[name]
        # A description's percent signs are printed as they are, those of a help are doubled.
        listed: Any = {} if name in UNLISTED else {"help": text}
        made = commands.add_parser(
            name, description=text.replace("%%", "%"), allow_abbrev=False, formatter_class=formatter, **listed
        )
        made.set_defaults(command=name)
        if name not in OF_NO_CLUSTER:
            which = {"init": OF_NEW, **dict.fromkeys(OF_EACH_CLUSTER, OF_ALL)}
            made.add_argument("--cluster", help=which.get(name, OF_ONE))
        if name in LOGGING:
            made.add_argument("--log", choices=["plain", "json"], default="plain", help="json: one object per line")
        add_options(made)
        if name in ("status", "check-wal", "history"):
            made.add_argument("--json", action="store_true", help="print JSON")
    return top


def no_options(command: Parser) -> None:
    """It has none of its own."""


def event(command: Parser) -> None:
    command.add_argument("words", nargs="*", metavar=WORDS)


def replay(command: Parser) -> None:
    command.add_argument("words", nargs="*", metavar=WORDS)
    command.add_argument("--id", type=event_number, help="an event of the journal, by its number in 'history'")
    dry_run(command)


def reconcile(command: Parser) -> None:
    command.add_argument(
        "--reset-state",
        action="store_true",
        help="first forget the primary's timeline and system identifier: after a restore",
    )
    dry_run(command)


def dry_run(command: Parser) -> None:
    command.add_argument("--dry-run", action="store_true", help="show the steps and change nothing")


def simulate_failover(command: Parser) -> None:
    command.add_argument("node", type=node_id, metavar="NODE", help="the repmgr node id of a standby")


def switchover(command: Parser) -> None:
    command.add_argument("--to", type=node_id, metavar="NODE", help="the repmgr node id of the standby")
    command.add_argument("--dry-run", action="store_true", help="show what hinders it and what would be done")


def drill(command: Parser) -> None:
    command.add_argument("--to", type=node_id, metavar="NODE", help="the repmgr node id of the standby")
    command.add_argument("--rehearse", action="store_true", help="show what hinders it and what would be done")
    command.add_argument("--html", type=path, dest="file", metavar="FILE", help="also write the report as an HTML page")


def worker(command: Parser) -> None:
    command.add_argument("--once", action="store_true", help="handle the stored events, then exit")


def forward(command: Parser) -> None:
    command.add_argument("--once", action="store_true", help="hand over what waits, then exit")


def receive_event(command: Parser) -> None:
    command.add_argument("--host", type=host_name, required=True, metavar="NAME", help="the host whose key it is")


def check_wal(command: Parser) -> None:
    command.add_argument("--deep", action="store_true", help="also check every WAL record since the newest backup")
    command.add_argument(
        "--restore", action="store_true", help="also restore into a temporary directory next to Barman's"
    )
    command.add_argument(
        "--newest",
        type=wal_amount,
        default=0,
        metavar="AMOUNT",
        help="with --deep: only this much of the newest WAL, such as 1GB, including the last switchpoint",
    )
    command.add_argument(
        "--within", type=duration, metavar="TIME", help="the time limit (default: --deep 6h, --restore 1h)"
    )


def history(command: Parser) -> None:
    command.add_argument("--failed", action="store_true", help="only runs that failed")
    command.add_argument("-n", type=amount, metavar="N", help="the number of runs to show (default 20)")
    command.add_argument("--failover", metavar="N", help="show one change of the primary, by its number, or 'last'")
    command.add_argument("--html", type=path, metavar="FILE", help="with --failover: write it as an HTML page")


def metrics(command: Parser) -> None:
    command.add_argument(
        "--file", type=path, metavar="FILE", help="write to this file (.prom), for node_exporter's textfile collector"
    )


def may_promote(command: Parser) -> None:
    command.add_argument("node", type=node_id, metavar="NODE", help="the repmgr node id of the candidate (%%n)")
    command.add_argument(
        "--max-lost-wal",
        type=wal_amount,
        metavar="AMOUNT",
        help="no, if it lacks more of the primary's WAL than this, such as 64MB (default: any amount is lost)",
    )
    directory(command)


def serve_http(command: Parser) -> None:
    command.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS:PORT",
        help="where to listen (default 127.0.0.1:8008); may be given several times",
    )
    directory(command)


def directory(command: Parser) -> None:
    command.add_argument(
        "--directory",
        type=path,
        default="/run/repmgr-hooks",
        metavar="DIRECTORY",
        help="where the service leaves what it saw (default: its RuntimeDirectory, /run/repmgr-hooks)",
    )


def pause(command: Parser) -> None:
    command.add_argument(
        "--for",
        dest="duration",
        type=duration,
        metavar="TIME",
        help="end the pause after this time, such as 90s, 30m or 2h",
    )
    command.add_argument("--reason", type=reason, default="", help="a text that 'status' shows")


def check(command: Parser) -> None:
    command.add_argument(
        "--offline",
        nargs="*",
        type=path,
        metavar="FILE",
        help="judge configuration files (-: stdin) by themselves, on any machine; nothing else is looked at",
    )
    command.add_argument(
        "--end-to-end", action="store_true", help="also send an event through repmgr.conf, as repmgrd does"
    )
    command.add_argument(
        "--restore", action="store_true", help="also test on each standby that it gets WAL and a backup from Barman"
    )
    command.add_argument(
        "--send-test-alert", action="store_true", help="send a test message to each receiver under 'alerts'"
    )
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON")
    forms.add_argument(
        "--nagios", action="store_true", help="print one line, with the exit codes of a monitoring plug-in"
    )


def init(command: Parser) -> None:
    command.add_argument("directory", nargs="?", type=path, default="repmgr-hooks-draft", metavar="DIRECTORY")
    command.add_argument(
        "--repmgr-conf", type=path, metavar="FILE", help="read this repmgr.conf (default: the first that is found)"
    )
    command.add_argument("--barman", metavar="SERVER", help="Barman's server, if it has several")
    command.add_argument("--barman-host", metavar="USER@HOST", help="where Barman is, if not here; asked by ssh")
    command.add_argument("--gateway", metavar="ADDRESS", help="this host's address for clients and Barman")
    command.add_argument(
        "--other-gateway",
        metavar="ADDRESS",
        help="the own address of a second gateway; --gateway is the one they share",
    )
    command.add_argument(
        "--repmgrd-on-nodes", action="store_true", help="let the database hosts hand over events; draft no repmgr.conf"
    )
    command.add_argument(
        "--forward-to", action="append", metavar="ADDRESS", help="on a database host: its files, for this gateway"
    )
    command.add_argument("--install", action="store_true", help="install the files of DIRECTORY, and check them")
    command.add_argument("--replace", action="store_true", help="also replace files that exist; a copy is kept")


def complete(command: Parser) -> None:
    command.add_argument("kind", choices=["changes", "clusters", "event", "events", "nodes"])
    command.add_argument("words", nargs=argparse.REMAINDER, help="what was typed before")


COMMANDS: Mapping[str, tuple[str, Callable[[Parser], None]]] = {
    "event": (
        'store an event; repmgr calls it with %%n %%e %%s "%%p" "%%t" (a single - reads these from stdin)',
        event,
    ),
    "replay": ("handle an event in the foreground, and show each step", replay),
    "reconcile": ("bring the cluster to its desired state, whatever the events said", reconcile),
    "simulate-failover": (
        "show each step that a failover to this standby would take now; change nothing",
        simulate_failover,
    ),
    "switchover": ("make a standby the primary, as planned; clients wait meanwhile", switchover),
    "drill": ("switch over to a standby and back while a client writes, and grade it; exit code 0: passed", drill),
    "boot": ("run at boot: set up chains, forwarding and routes for the cluster as it is now", no_options),
    "worker": ("run the service, which handles what 'event' stores", worker),
    "forward": ("run the service of a database host, which hands to the gateways what 'event' stores", forward),
    "receive-event": ("store what a database host hands over on stdin; the command of its ssh key", receive_event),
    "status": ("show the state of each cluster; exit code 0 only if it is the desired state", no_options),
    "check-wal": (
        "check whether a restore from Barman would bring back what the cluster has; exit code 1 if not",
        check_wal,
    ),
    "history": ("show what happened, newest last", history),
    "metrics": ("print status and history as metrics for Prometheus", metrics),
    "may-promote": (
        "say whether repmgrd may promote a node (exit code 4: no); a failover_validation_command",
        may_promote,
    ),
    "serve-http": ("answer load balancers and Prometheus over HTTP from what the service saw last", serve_http),
    "pause": ("begin maintenance: events are stored, nothing is done", pause),
    "resume": ("end a pause and do what was left undone", no_options),
    "check": ("show what would make a failover fail, and how to fix it; exit code 1 if anything would", check),
    "init": ("write a draft of every file for this cluster into a directory; --install installs it", init),
    "handlers": ("list the handlers and where each comes from", no_options),
    "config-schema": ("print the JSON schema of the configuration file, with the options of every handler", no_options),
    "complete": ("print what fits, for shell completion", complete),
}
