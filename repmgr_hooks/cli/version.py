"""``repmgr-hooks --version``."""

from __future__ import annotations

import argparse


class Version(argparse.Action):
    """It is looked up only when it is asked for: that takes as long as a bare Python."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: object) -> None:
        from importlib.metadata import version

        print(parser.prog, version("repmgr_hooks"))
        parser.exit()
