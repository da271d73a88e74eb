"""What the service found at its last look at a cluster and takes long to find: ``status`` of many takes it from here.

One small file for each cluster, beside that of ``journal/last_seen.py`` and as that is: in memory, written only when
something has changed, and believed until its modification time. It is there only while the service finds nothing wrong:
whatever is wrong, ``status`` looks at itself.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import ClusterState, PrimaryDecision
from repmgr_hooks.cluster.obstacles import Hindrance
from repmgr_hooks.cluster.probe import Probe, ProbeCode
from repmgr_hooks.cluster.readiness import Files
from repmgr_hooks.engine.drift import Drift, fingerprint_of
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.engine.run import ScheduledAction
from repmgr_hooks.files import atomic_write
from repmgr_hooks.journal.last_seen import BOOT, LARGEST, SLACK, believed_until, boot_id, without_links
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

PROBED_WITHIN, LATE_BY = 120.0, 30.0
"""Seconds for which the last visits of clients are believed, and by which one that is due may be late: of very many
ports each is visited less often."""


@dataclass(frozen=True)
class LastLook:
    """A look that found nothing wrong, and the visits of clients that did not either.

    ``settings``: a sum of the configuration that it followed. ``fingerprints``: by the path of each action that was in
    the desired state, what its handler's ``fingerprint`` was. ``probed``: when the first of the ports was visited, and
    ``interval``: the seconds between two looks. ``against``: what a file says against the promotion of a node, which is
    nothing wrong while another one would be promoted.
    """

    settings: str
    primary: int | None
    timeline: int
    fingerprints: Mapping[str, str]
    probes: tuple[Probe, ...]
    probed: float
    period: float
    interval: float
    against: Mapping[int, tuple[Hindrance, str]]

    @property
    def valid_for(self) -> float:
        """Seconds after a look until it is too old."""
        return 2 * self.interval + SLACK

    def holds(self, managed: ManagedCluster, decision: PrimaryDecision) -> bool:
        """True if the nodes say the same now, and it is about all that this configuration asks for."""
        places = [managed.cluster.client.shell, ()] if managed.cluster.client.shell else [()]
        visited = {(port, " ".join(place)) for port in managed.opened_ports for place in places}
        return (
            decision.primary is not None
            and (decision.primary, decision.timeline) == (self.primary, self.timeline)
            and not decision.notes
            and self.settings == settings_of(managed)
            and visited == {(probe.port, probe.origin) for probe in self.probes}
            and 0 <= clock.wall() - self.probed <= max(PROBED_WITHIN, self.period + LATE_BY)
        )

    def leaves(self, chosen: Sequence[ScheduledAction], state: ClusterState, host: Host) -> list[ScheduledAction]:
        """Return the actions that are to be looked at all the same, for what they depend on is something else now.

        What no look without an event asks (``on_tick``), its run has proved.
        """
        ticking = [item for item in chosen if item.action.on_tick]
        names = {item.action.name: item.action for item in ticking}
        now_there = {name: fingerprint_of(action, state, host) for name, action in names.items()}
        return [
            item
            for item in ticking
            if now_there[item.action.name] is None
            or self.fingerprints.get(item.action.path) != repr(now_there[item.action.name])
        ]


def settings_of(managed: ManagedCluster) -> str:
    """Return a sum of all that is configured for a cluster."""
    import hashlib  # OpenSSL's; most commands need no sum

    told = managed.cluster, [(action.path, action.config) for action in managed.actions]
    return hashlib.sha256(repr(told).encode()).hexdigest()


class Visits(NamedTuple):
    """The last visits of clients, when the first of them was, and the seconds from one to the next."""

    probes: Sequence[Probe]
    probed: float
    period: float


class LookFile:
    """Where the service keeps it."""

    def __init__(self, directory: Path, managed: ManagedCluster) -> None:
        self._path = _path(directory, managed.cluster.name)
        self._settings = settings_of(managed)
        self._written: LastLook | None = None
        self._there = True  # one of another service may be

    def keep(
        self,
        drift: Drift,
        fingerprints: Mapping[str, object],
        files: Files,
        visits: Visits,
        interval: float,
    ) -> None:
        """Keep a look that has just found nothing wrong."""
        known = {path: repr(value) for path, value in fingerprints.items() if value is not None}
        decision = drift.decision
        where = (decision.primary, decision.timeline)
        probes, probed, period = visits
        look = LastLook(self._settings, *where, known, tuple(probes), probed, period, interval, files.against)
        until = believed_until(look.valid_for)
        try:
            if look == self._written:
                os.utime(self._path, ns=until, follow_symlinks=False)
            else:
                self._write(look, until)
            self._written, self._there = look, True
        except OSError as error:
            self._written = None
            log.debug("status of many clusters looks by itself: %s", error)

    def _write(self, look: LastLook, until: tuple[int, int]) -> None:
        data = {"boot": boot_id(BOOT), **vars(look)}
        data["probes"] = [{**vars(probe), "code": probe.code.value} for probe in look.probes]
        data["against"] = [(node, code.name, detail) for node, (code, detail) in look.against.items()]
        with atomic_write(self._path) as file:
            file.write(json.dumps(data))
            file.flush()
            os.utime(file.fileno(), ns=until)

    def forget(self) -> None:
        """Something is wrong, or may be: whoever wants to know looks."""
        if self._there:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
                self._there, self._written = False, None


def last_look(directory: Path, cluster: str) -> tuple[LastLook | None, float]:
    """Return the last look at a cluster, and how many seconds ago it was; None if there is none to be believed."""
    try:
        with open(_path(directory, cluster), "rb", opener=without_links) as file:
            status = os.fstat(file.fileno())
            look = _of(json.loads(file.read(LARGEST))) if status.st_uid == os.geteuid() else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None, 0.0
    left = status.st_mtime_ns / 1e9 - clock.since_boot()
    return (look, max(look.valid_for - left, 0.0)) if look and 0 < left <= look.valid_for else (None, 0.0)


def _of(data: Any) -> LastLook | None:
    """Return it, or None if it is of another boot. Raises ValueError, TypeError, KeyError."""
    if not isinstance(data, dict) or data.pop("boot", "") != boot_id(BOOT):
        return None
    probes = tuple(Probe(**{**probe, "code": ProbeCode(probe["code"])}) for probe in data.pop("probes"))
    against = {int(node): (Hindrance[code], str(detail)) for node, code, detail in data.pop("against")}
    return LastLook(**data, probes=probes, against=against)


def _path(directory: Path, cluster: str) -> Path:
    return directory / f"cluster-{cluster}.look"
