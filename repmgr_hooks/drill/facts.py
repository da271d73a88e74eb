"""What was seen in a drill: all that ``grade`` judges, gathered and not judged here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import median

from repmgr_hooks.cluster.wal import TimelineHistory
from repmgr_hooks.errors import Problem
from repmgr_hooks.journal.queries import SWITCHOVER
from repmgr_hooks.reports.wal_check import WalCheck
from repmgr_hooks.switchover.drive import Outcome

FEWEST = 3
"""Times that a step must have been taken before, to have a usual time."""


@dataclass(frozen=True)
class Way:
    """How a client comes to the primary: through a port of the gateway, or (``pooled``) through a PgBouncer."""

    name: str
    dsn: str
    pooled: bool = False


@dataclass(frozen=True)
class Transaction:
    """One transaction of the probe, in seconds since the epoch; ``error``: why it was not acknowledged.

    ``xid``, ``timeline`` and ``lsn`` say where it stands in the WAL, if it was.
    """

    way: Way
    began: float
    ended: float
    xid: int = 0
    timeline: int = 0
    lsn: int = 0
    error: str = ""


@dataclass(frozen=True)
class Leg:
    """One of the two switchovers. ``against``: what hindered it; without an ``outcome`` it was not begun."""

    source: int
    target: int
    outcome: Outcome | None = None
    held: float | None = None
    against: tuple[Problem, ...] = ()

    @property
    def good(self) -> bool:
        """True if its target is the primary, and served."""
        return self.outcome is not None and self.outcome.served and self.outcome.primary == self.target and not self.why

    @property
    def why(self) -> Problem | None:
        """What went wrong first."""
        return (self.outcome and self.outcome.problem) or next(iter(self.against), None)

    @property
    def closed(self) -> float | None:
        """When all clients were held: who connects later waits."""
        phases = self.outcome.phases if self.outcome else ()
        return next((each.started + each.seconds for each in phases if each.phase.name == "hold"), None)


@dataclass(frozen=True)
class Step:
    """A step of the drill, all of its times: ``took`` the longest, ``usual`` the median of those before the drill."""

    kind: str
    target: str
    what: str
    took: float
    usual: float | None
    errors: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sent:
    """An alert that was raised meanwhile; ``receivers``: to whom it went out."""

    severity: str
    summary: str
    receivers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """A drill that has ended. ``source``: who was the primary before; ``primary``: who is it now.

    ``unsettled``: what was still not as before at its end. ``lost``: acknowledged transactions that the primary does
    not have, or why that is not known. ``wal``: what Barman has; None without Barman.
    """

    cluster: str
    begun: float
    ended: float
    source: int
    primary: int | None
    legs: tuple[Leg, ...]
    ways: tuple[Way, ...]
    transactions: tuple[Transaction, ...]
    lost: tuple[Transaction, ...] | Problem = ()
    unsettled: tuple[Problem, ...] = ()
    wal: WalCheck | None = None
    sent: tuple[Sent, ...] = ()
    steps: tuple[Step, ...] = ()
    interrupted: bool = False


def missing(
    acknowledged: Sequence[Transaction], lineage: TimelineHistory, not_committed: Collection[int]
) -> tuple[Transaction, ...]:
    """Return the transactions that a primary with this history does not have. Pure.

    That a number is committed there is not enough: a primary that has lost a transaction gives its number to another.
    If it has the transaction's message, it has replayed a record with that number, and gives it to no other
    (xlogrecovery.c, ApplyWalRecord); then the number's state is the transaction's.
    """
    return tuple(one for one in acknowledged if one.xid in not_committed or not has(lineage, one))


def has(lineage: TimelineHistory, one: Transaction) -> bool:
    """True if a transaction's message is in a history."""
    if one.timeline == lineage.timeline:
        return True
    end = lineage.end_of(one.timeline)
    return end is not None and one.lsn <= end


def compared(rows: Sequence[tuple[str, str, str, float, float, str]], begun: float) -> tuple[Step, ...]:
    """Return the steps since ``begun``, beside their usual times; of each row: kind, target, what, started, seconds,
    error. Pure.
    """
    before: dict[tuple[str, str], list[float]] = {}
    now: dict[tuple[str, str], list[tuple[str, float, str]]] = {}
    for kind, target, what, started, seconds, error in rows:
        key = (kind, "" if kind.startswith(f"{SWITCHOVER}_") else target)  # a phase is the same there and back
        if started >= begun:
            now.setdefault(key, []).append((what, seconds, error))
        elif not error:
            before.setdefault(key, []).append(seconds)
    return tuple(
        Step(
            *key,
            taken[-1][0],
            max(seconds for _, seconds, _ in taken),
            median(before[key]) if len(before.get(key, ())) >= FEWEST else None,
            tuple(error for _, _, error in taken if error),
        )
        for key, taken in now.items()
    )
