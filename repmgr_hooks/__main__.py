"""``repmgr-hooks`` and ``python -m repmgr_hooks``: an event is taken in at once, other commands go to ``cli``."""

import os
import sys

from repmgr_hooks.hook import taken


def main() -> None:
    """Run the program and exit with its code."""
    if None in (sys.stdin, sys.stdout, sys.stderr):
        from repmgr_hooks.cli import streams

        streams.reopen()
    code = taken(sys.argv[1:])
    if code is not None:
        # Nothing of ours is buffered, and repmgrd would wait for Python to tidy up (or for a disk that hangs).
        os._exit(code)
    from repmgr_hooks.cli import streams

    streams.take_signals()
    from repmgr_hooks.cli import main as cli

    sys.exit(cli.main(sys.argv[1:]))


if __name__ == "__main__":
    main()
