"""Keeps the cases, and tells each target of them: one thread for each, so that a run waits for none of them.

The cases are in memory; the journal holds them for the next start, and if it cannot be used they are told all the same.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from repmgr_hooks.alerts import receivers
from repmgr_hooks.alerts.incident import FORGET_AFTER, Incident, Told, happened, raised
from repmgr_hooks.alerts.receivers import Receiver
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.log import about
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

LOOK_AGAIN = 60.0
PAUSED = 10.0

COLUMNS = "cluster, condition, severity, summary, details, hint, momentary, since, ended, flapping, told"
SAVE = f"insert or replace into alert ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Notifier:
    """The cases of all clusters, and a thread for each target."""

    def __init__(self, journal: Journal, host: Host) -> None:
        self._journal, self._host = journal, host
        self._alone = threading.RLock()
        self._cases: dict[str, dict[str, Incident]] = {}
        self._noted: dict[str, Sequence[Alert]] = {}
        self._threads: dict[Receiver, Messenger] = {}

    def use(self, wanted: Collection[Receiver], clusters: Collection[str]) -> None:
        """Tell these targets of these clusters from now on."""
        with self._alone:
            read = {name: self._read(name) for name in clusters if wanted and name not in self._cases}
            self._cases = {name: cases for name, cases in {**self._cases, **read}.items() if name in clusters}
            self._noted.clear()
            for target in self._threads.keys() - set(wanted):
                self._threads.pop(target).stop()
            for target in set(wanted) - self._threads.keys():
                self._threads[target] = Messenger(target, self, self._host)
                self._threads[target].start()

    def close(self, limit: float) -> None:
        """Tell what is due now, for at most so many seconds; the rest is told after the next start."""
        end = time.monotonic() + limit
        for thread in self._threads.values():
            thread.stop()
        for thread in self._threads.values():
            thread.join(max(end - time.monotonic(), 0.0))

    # -- what the runs say -------------------------------------------------------------------------------------------

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        """Take in which alerts a cluster calls for now: all of them."""
        if not self._threads or self._noted.get(cluster) == found:
            return
        with self._alone:
            self._noted[cluster] = found
            now, cases = time.time(), self._cases.setdefault(cluster, {})
            self._keep(cluster, raised(cases, {alert.condition: alert for alert in found}, now))

    def tell(self, alert: Alert) -> None:
        """Take in what has happened."""
        if not self._threads:
            return
        with self._alone:
            cases = self._cases.setdefault(alert.cluster, {})
            if case := happened(cases.get(alert.condition), alert, time.time()):
                self._keep(alert.cluster, {alert.condition: case})

    def _keep(self, cluster: str, changed: dict[str, Incident]) -> None:
        for condition, case in changed.items():
            self._cases[cluster][condition] = case
            self._save(case)
        if changed:
            for thread in self._threads.values():
                thread.wake()

    # -- what the messengers ask -------------------------------------------------------------------------------------

    def next_for(self, target: Receiver) -> tuple[Incident | None, float]:
        """Return a case that the target is to be told of now; else the seconds until there may be one."""
        now, wait = time.time(), LOOK_AGAIN
        with self._alone:
            for cluster, cases in self._cases.items():
                self._forget_old(cases, now)
                paused = self._paused(cluster)
                for case in filter(target.wants, cases.values()):
                    seconds = case.wait(target.name, target.repeat_interval, now)
                    if seconds == 0 and not paused:
                        return case, 0.0
                    if seconds is not None:
                        wait = min(wait, seconds or PAUSED)
        return None, wait

    def was_told(self, target: Receiver, case: Incident, error: str) -> None:
        """Remember that the target was told, or could not be."""
        now = time.time()
        with self._alone:
            current = self._cases.get(case.alert.cluster, {}).get(case.alert.condition)
            if current is None:
                return
            told = current.told.get(target.name, Told())
            told = replace(told, tried=now, failures=told.failures + 1) if error else Told(case.headline, now, now)
            current = replace(current, told={**current.told, target.name: told})
            self._cases[case.alert.cluster][case.alert.condition] = current
            self._save(current)

    def _paused(self, cluster: str) -> bool:
        try:
            return self._journal.paused(cluster) is not None
        except OperationFailed:
            return False

    # -- the journal ---------------------------------------------------------------------------------------------------

    def _read(self, cluster: str) -> dict[str, Incident]:
        try:
            rows = self._journal.read(f"select {COLUMNS} from alert where cluster = ?", cluster)
            return {row[1]: _case(*row) for row in rows}
        except OperationFailed as error:
            log.error("%s", error)
            return {}

    def _save(self, case: Incident) -> None:
        alert = case.alert
        told = json.dumps({name: dataclasses.asdict(told) for name, told in case.told.items()})
        values = (*dataclasses.astuple(alert), case.since, case.ended, case.flapping, told)
        self._write(SAVE, values)

    def _forget_old(self, cases: dict[str, Incident], now: float) -> None:
        """Forget what ended a day ago, or will have ended in a day by a clock that was set; not before it is told."""
        for condition, case in list(cases.items()):
            old = case.ended is not None and abs(now - case.ended) > FORGET_AFTER
            waiting = [target for target in self._threads if target.wants(case)]
            if old and all(case.wait(target.name, target.repeat_interval, now) is None for target in waiting):
                del cases[condition]
                self._write("delete from alert where cluster = ? and condition = ?", (case.alert.cluster, condition))

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._journal.change(lambda db: db.execute(statement, values))
        except OperationFailed as error:
            log.error("%s; who was told is not known after a restart", error)


def _case(*row: Any) -> Incident:
    *alert, since, ended, flapping, told = row
    by_target = {name: Told(**fields) for name, fields in json.loads(told).items()}
    return Incident(Alert(*alert), since, ended, bool(flapping), by_target)


class Messenger(threading.Thread):
    """Tells one target; it may hang for its time-out, and only its own messages wait for it."""

    def __init__(self, target: Receiver, notifier: Notifier, host: Host) -> None:
        super().__init__(name=target.name, daemon=True)
        self._target, self._notifier, self._host = target, notifier, host
        self._woken = threading.Event()
        self._stopping = False

    def wake(self) -> None:
        """Look now whether there is something to tell."""
        self._woken.set()

    def stop(self) -> None:
        """End when nothing is due any more."""
        self._stopping = True
        self._woken.set()

    def run(self) -> None:
        """Tell until stopped."""
        while True:
            self._woken.clear()
            case, wait = self._notifier.next_for(self._target)
            if case:
                with about(cluster=case.alert.cluster, condition=case.alert.condition):
                    self._tell(case)
            elif self._stopping:
                return
            else:
                self._woken.wait(wait)

    def _tell(self, case: Incident) -> None:
        try:
            error = attempt(self._target, case, self._host)
        except Exception as bug:
            log.exception("a bug in repmgr_hooks; please report it")
            error = repr(bug)
        if error:
            log.error("%s could not be told (%s): %s", self.name, case.headline, error)
        else:
            log.info("told %s: %s", self.name, case.headline)
        self._notifier.was_told(self._target, case, error)


def attempt(target: Receiver, case: Incident, host: Host) -> str:
    """Tell a target of a case; return why that failed, empty if it did not."""
    try:
        host.run(receivers.program(target, case), target.timeout)
        return ""
    except OperationFailed as error:
        return str(error)
