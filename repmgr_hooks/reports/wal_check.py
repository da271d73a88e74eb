"""What ``check-wal`` shows: whether a restore from Barman would bring back what the cluster has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from repmgr_hooks.barman import archive, content, deep
from repmgr_hooks.barman.archive import Report
from repmgr_hooks.barman.deep import Progress, Proof
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal, primary_finder
from repmgr_hooks.settings.cluster import Barman, Cluster
from repmgr_hooks.system.steps import Host


@dataclass(frozen=True)
class WalCheck:
    """What ``check-wal`` has found: by names and by content, and what was proved besides, if that was asked for."""

    report: Report
    proofs: tuple[Proof, ...] = ()

    @property
    def healthy(self) -> bool:
        """True if all that was looked at is well."""
        return self.report.healthy and all(proof.healthy for proof in self.proofs)

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
) -> WalCheck:
    """Compare the WAL of a cluster's primary with what Barman has.

    ``progress``: follow the records too, and say how far. ``restore_within``: restore too, in so many seconds.
    """
    assert settings.barman is not None
    decision = primary_finder(settings, journal).decision(host)
    if decision.primary is None:
        return WalCheck(Report(settings.barman.server, advice=str(decision)))
    try:
        # The primary first: what it has closed by now is in Barman's hands when Barman has answered. And once more
        # after: Barman must not seem to be ahead.
        written = archive.look_at_primary(decision.primary, decision.timeline, host)
        held = content.look_closer(archive.look_at_archive(settings.barman, host), written, settings.barman, host)
        later = archive.look_again(written, host)
        conflict = content.conflict_in_words(held, later, settings.barman, host)
        found = replace(archive.report(held, written, settings.barman, host), conflict=conflict)
    except OperationFailed as error:
        return WalCheck(Report(settings.barman.server, advice=str(error)))
    proofs: list[Proof] = []
    if progress:
        proofs.append(_proved("deep", lambda: deep.follow(found, written, barman_of(settings), host, progress)))
    if restore_within:
        proofs.append(
            _proved(
                "restore",
                lambda: deep.restore(found, written, barman_of(settings), settings.postgres, host, restore_within),
            )
        )
    return WalCheck(found, tuple(proofs))


def _proved(kind: str, prove: Callable[[], Proof]) -> Proof:
    try:
        return prove()
    except OperationFailed as error:
        return Proof(kind, "", unable=str(error))


def barman_of(settings: Cluster) -> Barman:
    """Return Barman's settings; whoever asks has seen that they are there."""
    assert settings.barman is not None
    return settings.barman
