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
    import gc

    gc.disable()  # until a command runs: what is imported is no garbage, and looking for some takes a tenth of the time
    from repmgr_hooks.cli import streams

    streams.take_signals()
    from repmgr_hooks.cli import main as cli

    code = cli.main(sys.argv[1:])
    if work_is_left():
        sys.exit(code)
    # All is written: to take every module down again takes as long as a bare Python.
    os._exit(code)


def work_is_left() -> bool:
    """True while a thread runs that Python waits for at its end, such as one that resets clients."""
    threading = sys.modules.get("threading")  # where it was not imported, none has begun
    if threading is None:
        return False
    return any(not each.daemon and each is not threading.main_thread() for each in threading.enumerate())


if __name__ == "__main__":
    main()
