"""What hatchling runs before it makes the wheel (pyproject.toml): manual pages and shell completion are written.

Needs no library of the program's. Without shtab the wheel is made all the same, and has no completion.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface):
    """What pyproject.toml names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files."""
        sys.path.insert(0, self.root)
        try:
            write(Path(self.root, "tests/build/share"))
        finally:
            sys.path.remove(self.root)


def write(share: Path) -> None:
    """Write what goes below ``share`` of where the program is installed."""
    from tests.build import man

    shutil.rmtree(share, ignore_errors=True)
    files = {f"man/man{name.rpartition('.')[2]}/{name}": text for name, text in man.pages().items()}
    try:
        from tests.build import completion
    except ModuleNotFoundError as error:
        if error.name != "shtab":
            raise
        print("shtab is not installed: no shell completion is made", file=sys.stderr)
    else:
        files |= {place: completion.script(shell) for shell, place in completion.PLACES.items()}
    for place, text in files.items():
        path = share / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
