"""The grammar of the command line."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from repmgr_hooks.catalogue import is_node_id, shorten
from repmgr_hooks.hook import CONFIG
from repmgr_hooks.settings.schema import AMOUNT, PLAIN_NAME
from repmgr_hooks.settings.schema import amount as in_bytes

UNITS = {"s": 1, "m": 60, "h": 3600}
LONGEST_PAUSE = 720 * 3600
LONGEST_REASON = 200

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


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="repmgr-hooks",
        description="Make the gateway and Barman follow the PostgreSQL primary.",
        allow_abbrev=False,
    )
    top.add_argument("--config", metavar="FILE", help="default: $REPMGR_HOOKS_CONFIG, else " + CONFIG)
    top.set_defaults(file=None, dry_run=False, reset_state=False)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        # A description's percent signs are printed as they are, those of a help are doubled.
        description = text.replace("%%", "%")
        made = commands.add_parser(name, help=text, description=description, allow_abbrev=False)
        made.set_defaults(command=name)
        if name not in ("check", "config-schema", "forward", "handlers", "receive-event", "serve-http", "worker"):
            made.add_argument("--cluster", help="required if the configuration has several clusters")
        if name in LOGGING:
            made.add_argument("--log", choices=["plain", "json"], default="plain", help="json: one object per line")
        return made

    words = "NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]"
    event = command(
        "event", 'store an event; repmgr calls it with %%n %%e %%s "%%p" "%%t" (a single - reads these from stdin)'
    )
    event.add_argument("words", nargs="*", metavar=words)
    replay = command("replay", "handle an event in the foreground, and show each step")
    replay.add_argument("words", nargs="*", metavar=words)
    replay.add_argument("--id", type=event_number, help="an event of the journal, by its number in 'history'")
    reconcile = command("reconcile", "bring the cluster to its desired state, whatever the events said")
    reconcile.add_argument(
        "--reset-state",
        action="store_true",
        help="first forget the primary's timeline and system identifier: after a restore",
    )
    for made in (replay, reconcile):
        made.add_argument("--dry-run", action="store_true", help="show the steps and change nothing")
    simulated = command(
        "simulate-failover", "show each step that a failover to this standby would take now; change nothing"
    )
    simulated.add_argument("node", type=node_id, metavar="NODE", help="the repmgr node id of a standby")
    switchover = command("switchover", "make a standby the primary, as planned; clients wait meanwhile")
    switchover.add_argument("--to", type=node_id, metavar="NODE", help="the repmgr node id of the standby")
    switchover.add_argument("--dry-run", action="store_true", help="show what hinders it and what would be done")
    drill = command(
        "drill", "switch over to a standby and back while a client writes, and grade it; exit code 0: passed"
    )
    drill.add_argument("--to", type=node_id, metavar="NODE", help="the repmgr node id of the standby")
    drill.add_argument("--rehearse", action="store_true", help="show what hinders it and what would be done")
    drill.add_argument("--html", type=Path, dest="file", metavar="FILE", help="also write the report as an HTML page")
    command("boot", "run at boot: set up chains, forwarding and routes for the cluster as it is now")
    worker = command("worker", "run the service, which handles what 'event' stores")
    worker.add_argument("--once", action="store_true", help="handle the stored events, then exit")
    forward = command("forward", "run the service of a database host, which hands to the gateways what 'event' stores")
    forward.add_argument("--once", action="store_true", help="hand over what waits, then exit")
    receive = command("receive-event", "store what a database host hands over on stdin; the command of its ssh key")
    receive.add_argument("--host", type=host_name, required=True, metavar="NAME", help="the host whose key it is")
    status = command("status", "show the state of each cluster; exit code 0 only if it is the desired state")
    wal = command(
        "check-wal", "check whether a restore from Barman would bring back what the cluster has; exit code 1 if not"
    )
    wal.add_argument("--deep", action="store_true", help="also check every WAL record since the newest backup")
    wal.add_argument("--restore", action="store_true", help="also restore into a temporary directory next to Barman's")
    wal.add_argument(
        "--newest",
        type=wal_amount,
        default=0,
        metavar="AMOUNT",
        help="with --deep: only this much of the newest WAL, such as 1GB, including the last switchpoint",
    )
    wal.add_argument(
        "--within", type=duration, metavar="TIME", help="the time limit (default: --deep 6h, --restore 1h)"
    )
    history = command("history", "show what happened, newest last")
    history.add_argument("--failed", action="store_true", help="only runs that failed")
    history.add_argument("-n", type=amount, default=20, metavar="N", help="the number of runs to show (default 20)")
    history.add_argument("--failover", metavar="N", help="show one change of the primary, by its number, or 'last'")
    history.add_argument("--html", type=Path, metavar="FILE", help="with --failover: write it as an HTML page")
    metrics = command("metrics", "print status and history as metrics for Prometheus")
    metrics.add_argument(
        "--file", type=Path, metavar="FILE", help="write to FILE.prom, for node_exporter's textfile collector"
    )
    vote = command(
        "may-promote", "say whether repmgrd may promote a node (exit code 4: no); a failover_validation_command"
    )
    vote.add_argument("node", type=node_id, metavar="NODE", help="the repmgr node id of the candidate (%%n)")
    vote.add_argument(
        "--max-lost-wal",
        type=wal_amount,
        metavar="AMOUNT",
        help="no, if it lacks more of the primary's WAL than this, such as 64MB (default: any amount is lost)",
    )
    http = command("serve-http", "answer load balancers and Prometheus over HTTP from what the service saw last")
    http.add_argument(
        "--listen",
        action="append",
        metavar="ADDRESS:PORT",
        help="where to listen (default 127.0.0.1:8008); may be given several times",
    )
    for made in (http, vote):
        made.add_argument(
            "--directory",
            type=Path,
            default=Path("/run/repmgr-hooks"),
            metavar="DIRECTORY",
            help="where the service leaves what it saw (default: its RuntimeDirectory, /run/repmgr-hooks)",
        )
    for made in (status, wal, history):
        made.add_argument("--json", action="store_true", help="print JSON")
    pause = command("pause", "begin maintenance: events are stored, nothing is done")
    pause.add_argument(
        "--for",
        dest="duration",
        type=duration,
        metavar="TIME",
        help="end the pause after this time, such as 90s, 30m or 2h",
    )
    pause.add_argument("--reason", type=reason, default="", help="a text that 'status' shows")
    command("resume", "end a pause and do what was left undone")
    check = command("check", "show what would make a failover fail, and how to fix it; exit code 1 if anything would")
    check.add_argument(
        "--offline",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="judge configuration files (-: stdin) by themselves, on any machine; nothing else is looked at",
    )
    check.add_argument(
        "--end-to-end", action="store_true", help="also send an event through repmgr.conf, as repmgrd does"
    )
    check.add_argument(
        "--restore", action="store_true", help="also test on each standby that it gets WAL and a backup from Barman"
    )
    check.add_argument(
        "--send-test-alert", action="store_true", help="send a test message to each receiver under 'alerts'"
    )
    forms = check.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON")
    forms.add_argument(
        "--nagios", action="store_true", help="print one line, with the exit codes of a monitoring plug-in"
    )
    init = command("init", "write a draft of every file for this cluster into a directory; --install installs it")
    init.add_argument("directory", nargs="?", type=Path, default=Path("repmgr-hooks-draft"), metavar="DIRECTORY")
    init.add_argument(
        "--repmgr-conf", type=Path, metavar="FILE", help="read this repmgr.conf (default: the first that is found)"
    )
    init.add_argument("--barman", metavar="SERVER", help="Barman's server, if it has several")
    init.add_argument("--gateway", metavar="ADDRESS", help="this host's address for clients and Barman")
    init.add_argument(
        "--repmgrd-on-nodes", action="store_true", help="let the database hosts hand over events; draft no repmgr.conf"
    )
    init.add_argument(
        "--forward-to", action="append", metavar="ADDRESS", help="on a database host: its files, for this gateway"
    )
    init.add_argument("--install", action="store_true", help="install the files of DIRECTORY, and check them")
    init.add_argument("--replace", action="store_true", help="also replace files that exist; a copy is kept")
    command("handlers", "list the handlers and where each comes from")
    command("config-schema", "print the JSON schema of the configuration file, with the options of every handler")
    # Without a help it is not listed: only the shell calls it.
    complete = commands.add_parser("complete", allow_abbrev=False, description="print what fits, for shell completion")
    complete.add_argument("kind", choices=["changes", "clusters", "event", "events", "nodes"])
    complete.add_argument("words", nargs=argparse.REMAINDER, help="what was typed before")
    complete.set_defaults(command="complete")
    return top


def duration(text: str) -> int:
    """Return the seconds of ``90s``, ``30m`` or ``2h``. Raises ArgumentTypeError."""
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and len(number) < 8 and unit in UNITS):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a time such as 90s, 30m or 2h")
    seconds = int(number) * UNITS[unit]
    if not 0 < seconds <= LONGEST_PAUSE:
        raise argparse.ArgumentTypeError(f"{text} is not between 1s and 720h")
    return seconds


def wal_amount(text: str) -> int:
    """Return the bytes of ``1GB``. Raises ArgumentTypeError."""
    if not AMOUNT.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not an amount in PostgreSQL's units, such as 1GB")
    return in_bytes(text)


def amount(text: str) -> int:
    """Return a number of runs. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a number of runs")
    return int(text)


def node_id(text: str) -> int:
    """Return the number of a node. Raises ArgumentTypeError."""
    if not is_node_id(text):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a repmgr node id, a whole number from 1")
    return int(text)


def host_name(text: str) -> str:
    """Return the name of a host. Raises ArgumentTypeError."""
    if not re.fullmatch(PLAIN_NAME, text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not a plain name (letters, digits, _ . -)")
    return text


def reason(text: str) -> str:
    """Return what stands on a line of ``status``. Raises ArgumentTypeError."""
    if len(text) > LONGEST_REASON:
        raise argparse.ArgumentTypeError(f"{len(text)} characters are more than {LONGEST_REASON}; write less")
    return text


def event_number(text: str) -> int:
    """Return the number of an event in the journal. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"{shorten(text)} is not the number of an event; see 'history'")
    return int(text)
