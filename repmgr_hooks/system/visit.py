"""What a visit to a cluster showed; ``client.py`` pays it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LATE = "no answer in time"

Stage = Literal["connect", "ask", "commit", "done"]


@dataclass(frozen=True)
class Visit:
    """How far a client came, and what it was told: ``stage`` is what it was at when it ended.

    ``error``: libpq's or the server's own words; LATE if the time was up. ``server`` and ``port``: where the server
    says that it listens. ``read_only``: empty, or where that setting comes from (``pg_settings.source``).
    ``rejected``: the server itself has ended the connection before it began, in words of its own language.
    """

    stage: Stage = "connect"
    error: str = ""
    sqlstate: str = ""
    server: str = ""
    in_recovery: bool = False
    read_only: str = ""
    pid: int = 0
    seconds: float = 0.0
    rejected: bool = False
    port: int = 0
