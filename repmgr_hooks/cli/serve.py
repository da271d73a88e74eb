"""The command that is the service."""

from __future__ import annotations

import argparse
import sys

from repmgr_hooks.cli.logged import show_log_lines
from repmgr_hooks.cli.output import OK
from repmgr_hooks.config_file import config_path
from repmgr_hooks.service.worker import Worker


def do_worker(arguments: argparse.Namespace) -> int:
    """Run the service."""
    show_log_lines(sys.stderr, arguments.log)
    Worker(config_path(arguments.config)).serve(arguments.once)
    return OK
