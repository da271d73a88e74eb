"""What somebody is to be told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["warning", "critical"]


@dataclass(frozen=True)
class Alert:
    """Something that is wrong: in few words, in full, and what to type next.

    ``momentary``: it has happened, and is nothing that goes on and ends.
    """

    cluster: str
    condition: str
    severity: Severity
    summary: str
    details: str = ""
    next: str = ""
    momentary: bool = False

    def __str__(self) -> str:
        return f"{self.severity}: {self.summary}"
