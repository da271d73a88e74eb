"""What `check` says: one finding a line, with what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``mend`` is what to do about it, empty if nothing."""

    level: Literal["OK", "WARN", "FAIL"]
    what: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.level:4}  {self.what}" + (f"; {self.mend}" if self.mend else "")
