"""The command that lists the handlers."""

from __future__ import annotations

import argparse

from repmgr_hooks import handlers
from repmgr_hooks.cli.output import OK, say


def do_handlers(arguments: argparse.Namespace) -> int:
    """List the handlers."""
    rows = [(name, handlers.OURS, what) for name, what in handlers.BUILT_IN.items()]
    rows += [
        (name, found.origin, (found.module.__doc__ or "").partition("\n")[0])
        for name, found in handlers.plug_ins().items()
    ]
    widest, longest = (max(map(len, column)) for column in list(zip(*rows, strict=True))[:2])
    say(f"{name:{max(widest, 12)}} {origin:{max(longest, 24)}} {what}" for name, origin, what in sorted(rows))
    return OK
