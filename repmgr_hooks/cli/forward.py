"""Commands of the way from the database hosts to the gateways."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.cli.logged import show_log_lines
from repmgr_hooks.cli.output import FAILED, OK
from repmgr_hooks.config_file import config_path
from repmgr_hooks.forward import settings
from repmgr_hooks.forward.delivery import hand_over_to_each
from repmgr_hooks.forward.letter import letter
from repmgr_hooks.forward.receive import receive
from repmgr_hooks.hook import state_dir
from repmgr_hooks.service.forwarder import Forwarder


def do_forward(arguments: argparse.Namespace) -> int:
    """Run the service of a database host."""
    show_log_lines(sys.stderr, arguments.log)
    Forwarder(config_path(arguments.config)).serve(arguments.once)
    return OK


def do_receive_event(arguments: argparse.Namespace) -> int:
    """Store what a database host hands over."""
    spool = Path(state_dir(str(config_path(arguments.config))), "spool")
    receive(sys.stdin.fileno(), arguments.host, str(spool), lambda line: print(line, flush=True))
    return OK


def hand_over_now(config: Path, stored: list[str]) -> int:
    """Hand an event over that could not be stored, to each gateway that takes it now."""
    show_log_lines(sys.stderr)
    number = f"{int(clock.wall() * 1e9):020d}-0"
    return OK if hand_over_to_each(letter(number, stored), settings.load(config).gateways) else FAILED
