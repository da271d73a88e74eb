"""What is sent to the receivers: something that is wrong, or that has happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from repmgr_hooks.text import MOST, printable

Severity = Literal["warning", "critical"]


@dataclass(frozen=True)
class Alert:
    """Something that is wrong: in few words, in full, and what to do about it.

    ``momentary``: it has happened, and is nothing that goes on and ends.
    """

    cluster: str
    condition: str
    severity: Severity
    summary: str
    details: str = ""
    hint: str = ""
    momentary: bool = False

    def __post_init__(self) -> None:
        for name in ("summary", "details", "hint"):  # each may repeat what a node, a program or a plug-in has said
            object.__setattr__(self, name, printable(getattr(self, name), 2 * MOST))

    def __str__(self) -> str:
        return f"{self.severity}: {self.summary}"
