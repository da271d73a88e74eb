"""Where a PostgreSQL listens."""

from __future__ import annotations

from typing import NamedTuple


class Endpoint(NamedTuple):
    """An address and a port. Two nodes on one host differ by the port alone.

    >>> str(Endpoint("10.0.0.11", 5432)), str(Endpoint("fd00::11", 5433))
    ('10.0.0.11:5432', '[fd00::11]:5433')
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
