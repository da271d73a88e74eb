"""What ``check-wal`` shows: whether a restore from Barman would bring back what the cluster has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from repmgr_hooks.barman import archive, backup, content, deep
from repmgr_hooks.barman.backup import Report
from repmgr_hooks.barman.deep import Effort, Progress, Proof
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.journal import wal_checks
from repmgr_hooks.journal.finder import primary_finder
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.wal_checks import WalCheckRow
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host
from repmgr_hooks.text import MOST, one_line


@dataclass(frozen=True)
class WalCheck:
    """What ``check-wal`` has found: by names and by content, and what was proved besides, if that was asked for."""

    report: Report
    proofs: tuple[Proof, ...] = ()
    primary: int | None = None
    timeline: int = 0

    @property
    def whole(self) -> bool:
        """True if the WAL that was looked at is well, whether there is a backup or not."""
        return self.report.whole and all(proof.healthy for proof in self.proofs)

    @property
    def healthy(self) -> bool:
        """True if all that was looked at is well."""
        return self.whole and self.report.healthy

    def row(self, part: str, now: float) -> WalCheckRow | None:
        """Return what following the records has shown, as the journal keeps it; None if they were not followed."""
        proof = next((proof for proof in self.proofs if proof.kind == "deep"), None)
        if proof is None or self.primary is None:
            return None
        return self._row(part, now, proof.problem, proof.unable, proof.text)

    def keep(self, journal: Journal, cluster: str, part: str, now: float) -> None:
        """Keep what ``status`` and the alerts show too. Raises OperationFailed."""
        if row := self.row(part, now):
            wal_checks.keep(journal, cluster, row)
        if self.report.files:
            lacking = self.report.no_backup
            wal_checks.keep_backup(journal, cluster, lacking and self._row(lacking.code, now, lacking.message))

    def _row(self, part: str, now: float, *said: str) -> WalCheckRow:
        problem, unable, text = (one_line(each, MOST) for each in (*said, "", "")[:3])
        assert self.primary is not None
        return WalCheckRow(part, now, self.primary, self.timeline, problem, unable, text)

    def lines(self, cluster: str) -> list[str]:
        """Return the lines for the screen."""
        return [*self.report.lines(cluster), *(proof.line(cluster) for proof in self.proofs)]

    def as_dict(self) -> dict[str, Any]:
        """Return the same as plain data."""
        proofs = {proof.kind: proof.as_dict() for proof in self.proofs}
        return {**self.report.as_dict(), **proofs, "healthy": self.healthy}


def compared(
    settings: Cluster,
    host: Host,
    journal: Journal | None,
    progress: Progress | None = None,
    restore_within: float | None = None,
    effort: Effort = deep.ALL,
) -> WalCheck:
    """Compare the WAL of a cluster's primary with what Barman has.

    ``progress``: follow the records too, with so much ``effort``, and say how far. ``restore_within``: restore too, in
    so many seconds.
    """
    assert settings.barman is not None
    decision = primary_finder(settings, journal).decision(host)
    if decision.primary is None:
        return WalCheck(_unknown(settings.barman, decision.problem))
    try:
        # The primary first: what it has closed by now is in Barman's hands when Barman has answered. And once more
        # after: Barman must not seem to be ahead.
        written = archive.look_at_primary(decision.primary, decision.timeline, host)
        held = content.look_closer(archive.look_at_archive(settings.barman, host), written, settings.barman, host)
        later = archive.look_again(written, host)
        held, conflict = content.judged(held, later, settings.barman, host)
        found = replace(backup.report(held, written, settings.barman, host), conflict=conflict)
    except OperationFailed as error:
        return WalCheck(_unknown(settings.barman, Problem.of(error)), (), decision.primary, decision.timeline)
    proofs: list[Proof] = []
    if progress:
        proofs.append(_proved("deep", lambda: deep.follow(found, written, barman_of(settings), host, progress, effort)))
    if restore_within:
        proofs.append(
            _proved(
                "restore",
                lambda: deep.restore(found, written, barman_of(settings), settings.postgres, host, restore_within),
            )
        )
    return WalCheck(found, tuple(proofs), decision.primary, decision.timeline)


def _unknown(barman: Barman, why: Problem) -> Report:
    return Report(barman.server, code=why.code, message=why.message, hint=why.hint)


def _proved(kind: str, prove: Callable[[], Proof]) -> Proof:
    try:
        return prove()
    except OperationFailed as error:
        return Proof(kind, "", unable=str(error))


def barman_of(settings: Cluster) -> Barman:
    """Return Barman's settings; whoever asks has seen that they are there."""
    assert settings.barman is not None
    return settings.barman
