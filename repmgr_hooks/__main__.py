"""``repmgr-hooks`` and ``python -m repmgr_hooks``: an event is taken in at once, other commands go to ``cli``."""

import sys

from repmgr_hooks.hook import taken


def main() -> None:
    """Run the program and exit with its code."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from repmgr_hooks.cli import streams

        streams.reopen()
    code = taken(sys.argv[1:])
    if code is None:
        from repmgr_hooks.cli import streams

        streams.take_signals()
        from repmgr_hooks.cli import main as cli

        code = cli.main(sys.argv[1:])
    sys.exit(code)


if __name__ == "__main__":
    main()
