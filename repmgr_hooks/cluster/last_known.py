"""What is remembered of a cluster: its primary. The journal keeps it, and what decides is given it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LastKnownPrimary:
    """What is remembered of a cluster: the last primary that was found, its timeline and its system.

    ``promoted``: nodes of which repmgr has said, since that primary was found, that they are the primary now.
    ``changes``: how often the primary has changed lately (``flap_limit.window``). ``began``: of each timeline, the node
    that began it.
    """

    primary: int | None = None
    timeline: int = 0
    system_identifier: str = ""
    promoted: frozenset[int] = field(default=frozenset(), compare=False)
    changes: int = field(default=0, compare=False)
    began: Mapping[int, int] = field(default_factory=dict, compare=False)
    since: float = field(default=0.0, compare=False)
    """When that primary was found, in seconds since the epoch."""
    previous: int | None = field(default=None, compare=False)
    """The primary before that one."""
    away: bool = field(default=False, compare=False)
    """Of several gateways, this one has not known the primary for long: others may have followed a newer one."""


NOTHING_KNOWN = LastKnownPrimary()
