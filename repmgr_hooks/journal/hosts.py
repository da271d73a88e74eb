"""SQL on the database hosts that hand events over: which events came from where, and how far their clocks are off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from repmgr_hooks.errors import Problem
from repmgr_hooks.event import Origin
from repmgr_hooks.journal.journal import Journal

AHEAD, BEHIND = 2.0, 30.0
"""Seconds by which a clock may seem to be off. What takes long to be handed over, as long as a command may take
(``forward.gateways.NAME.timeout``), makes a clock seem to be behind, and never ahead."""
COLUMNS = "host, substr(spooled, length(host) + 2), ahead"
NEWEST = """
select host, node, name, received, ahead from event
 where id in (select max(id) from event where cluster = ? and host is not null group by host, node)
 order by host, received
"""


@dataclass(frozen=True)
class HostRow:
    """The last event about a node that a host has handed over, and how far its clock was ahead then."""

    host: str
    node: int
    event: str
    received: float
    ahead: float

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.received))
        return f"{self.event} of node {self.node} from {self.host}, {when}"


def origins(journal: Journal, run: int) -> dict[int, Origin]:
    """Return which of the events of a run other hosts have handed over."""
    rows = journal.read(f"select id, {COLUMNS} from event where run = ? and host is not null", run)
    return {number: Origin(*row) for number, *row in rows}


def last_heard(journal: Journal, cluster: str) -> list[HostRow]:
    """Return what each host has handed over last about each node, the newest of a host last."""
    return [HostRow(*row) for row in journal.read(NEWEST, cluster)]


def clocks_off(rows: list[HostRow]) -> Iterator[Problem]:
    """Say which host's clock is not ours, by what it has handed over last."""
    for row in {row.host: row for row in rows}.values():
        if how := off(row.ahead):
            hint = f"set it right (timedatectl), then compare anew: repmgr-hooks check --end-to-end on {row.host}"
            yield Problem("clock_off", f"the clock of {row.host} is {how} this host's", hint)


def off(ahead: float) -> str:
    """Return how far a clock is off, in words; empty if it is right.

    >>> off(-37.2), off(-3.1), off(3.1)
    ('37 s behind', '', '3 s ahead of')
    """
    return "" if -BEHIND <= ahead <= AHEAD else f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'}"
