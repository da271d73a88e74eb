"""Keeps the incidents, and sends them: one thread for each receiver, so that a run waits for none of them.

The incidents are in memory; the journal holds them for the next start, and without it they are sent all the same.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from repmgr_hooks import clock
from repmgr_hooks.alerts import receivers
from repmgr_hooks.alerts.incident import FORGET_AFTER, Delivery, Incident, happened, left_to_another, raised
from repmgr_hooks.alerts.receivers import Receiver
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.log import about
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

LOOK_AGAIN = 60.0
PAUSED = 10.0

COLUMNS = "cluster, condition, severity, summary, details, hint, momentary, since, ended, flapping, deliveries"
SAVE = f"insert or replace into alert ({COLUMNS}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"


class Notifier:
    """The incidents of all clusters, and a thread for each receiver."""

    def __init__(self, journal: Journal, host: Host) -> None:
        self._journal, self._host = journal, host
        self._alone = threading.RLock()
        self._incidents: dict[str, dict[str, Incident]] = {}
        self._noted: dict[str, Sequence[Alert]] = {}
        self._threads: dict[Receiver, Messenger] = {}

    def use(self, wanted: Collection[Receiver], clusters: Collection[str]) -> None:
        """Send to these receivers what concerns these clusters from now on."""
        with self._alone:
            read = {name: self._read(name) for name in clusters if wanted and name not in self._incidents}
            self._incidents = {
                name: incidents for name, incidents in {**self._incidents, **read}.items() if name in clusters
            }
            self._noted.clear()
            for receiver in self._threads.keys() - set(wanted):
                self._threads.pop(receiver).stop()
            for receiver in set(wanted) - self._threads.keys():
                self._threads[receiver] = Messenger(receiver, self, self._host)
                self._threads[receiver].start()

    def close(self, limit: float) -> None:
        """Send what is due now, for at most so many seconds; the rest is sent after the next start."""
        end = clock.monotonic() + limit
        for thread in self._threads.values():
            thread.stop()
        for thread in self._threads.values():
            thread.join(max(end - clock.monotonic(), 0.0))

    # -- what the runs say -------------------------------------------------------------------------------------------

    def note(self, cluster: str, found: Sequence[Alert]) -> None:
        """Take in which alerts a cluster calls for now: all of them."""
        if not self._threads or self._noted.get(cluster) == found:
            return
        with self._alone:
            self._noted[cluster] = found
            now, incidents = clock.wall(), self._incidents.setdefault(cluster, {})
            self._keep(cluster, raised(incidents, {alert.condition: alert for alert in found}, now))

    def leave(self, cluster: str, but: Collection[str]) -> None:
        """End what is open, but these conditions: the gateway that has the address has incidents of its own.

        A receiver that was told of one here is told that it has ended here; of the others nobody hears.
        """
        with self._alone:
            for condition, incident in list(self._incidents.get(cluster, {}).items()):
                if condition not in but and incident.state == "open":
                    if any(last.said for last in incident.deliveries.values()):
                        self._keep(cluster, {condition: left_to_another(incident, clock.wall())})
                    else:
                        self._forget(cluster, condition)

    def tell(self, alert: Alert) -> None:
        """Take in what has happened."""
        if not self._threads:
            return
        with self._alone:
            incidents = self._incidents.setdefault(alert.cluster, {})
            if incident := happened(incidents.get(alert.condition), alert, clock.wall()):
                self._keep(alert.cluster, {alert.condition: incident})

    def _keep(self, cluster: str, changed: dict[str, Incident]) -> None:
        for condition, incident in changed.items():
            self._incidents[cluster][condition] = incident
            self._save(incident)
        if changed:
            for thread in self._threads.values():
                thread.wake()

    # -- what the messengers ask -------------------------------------------------------------------------------------

    def next_for(self, receiver: Receiver) -> tuple[Incident | None, float]:
        """Return an incident that the receiver is to hear of now; else the seconds until there may be one."""
        now, wait = clock.wall(), LOOK_AGAIN
        with self._alone:
            for cluster, incidents in self._incidents.items():
                self._forget_old(incidents, now)
                paused = self._paused(cluster)
                for incident in filter(receiver.wants, incidents.values()):
                    seconds = incident.wait(receiver.name, receiver.repeat_interval, now)
                    if seconds == 0 and not paused:
                        return incident, 0.0
                    if seconds is not None:
                        wait = min(wait, seconds or PAUSED)
        return None, wait

    def was_sent(self, receiver: Receiver, incident: Incident, error: str) -> None:
        """Remember that a message was sent, or could not be."""
        now = clock.wall()
        with self._alone:
            incidents = self._incidents.get(incident.alert.cluster, {})
            current = incidents.get(incident.alert.condition)
            if current is None and incident.state == "open" and not error and incident.alert.cluster in self._incidents:
                current = left_to_another(incident, now)  # it was forgotten while this was on its way
            if current is None:
                return
            last = current.deliveries.get(receiver.name, Delivery())
            last = (
                replace(last, tried=now, failures=last.failures + 1) if error else Delivery(incident.headline, now, now)
            )
            current = replace(current, deliveries={**current.deliveries, receiver.name: last})
            self._incidents[incident.alert.cluster][incident.alert.condition] = current
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
            return {row[1]: _incident(*row) for row in rows}
        except OperationFailed as error:
            log.error("%s", error)
            return {}

    def _save(self, incident: Incident) -> None:
        alert = incident.alert
        deliveries = json.dumps({name: dataclasses.asdict(last) for name, last in incident.deliveries.items()})
        values = (*dataclasses.astuple(alert), incident.since, incident.ended, incident.flapping, deliveries)
        self._write(SAVE, values)

    def _forget_old(self, incidents: Mapping[str, Incident], now: float) -> None:
        """Forget what ended a day ago, or will have ended in a day by a clock that was set; not before it is sent."""
        for condition, incident in list(incidents.items()):
            old = incident.ended is not None and abs(now - incident.ended) > FORGET_AFTER
            waiting = [receiver for receiver in self._threads if receiver.wants(incident)]
            if old and all(incident.wait(receiver.name, receiver.repeat_interval, now) is None for receiver in waiting):
                self._forget(incident.alert.cluster, condition)

    def _forget(self, cluster: str, condition: str) -> None:
        del self._incidents[cluster][condition]
        self._write("delete from alert where cluster = ? and condition = ?", (cluster, condition))

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._journal.change(lambda db: db.execute(statement, values))
        except OperationFailed as error:
            log.error("%s; what was sent is not known after a restart", error)


def _incident(*row: Any) -> Incident:
    *alert, since, ended, flapping, deliveries = row
    by_receiver = {name: Delivery(**fields) for name, fields in json.loads(deliveries).items()}
    return Incident(Alert(*alert), since, ended, bool(flapping), by_receiver)


class Messenger(threading.Thread):
    """Sends to one receiver; it may hang for its time-out, and only its own messages wait for it."""

    def __init__(self, receiver: Receiver, notifier: Notifier, host: Host) -> None:
        super().__init__(name=receiver.name, daemon=True)
        self._receiver, self._notifier, self._host = receiver, notifier, host
        self._woken = threading.Event()
        self._stopping = False

    def wake(self) -> None:
        """Look now whether there is something to send."""
        self._woken.set()

    def stop(self) -> None:
        """End when nothing is due any more."""
        self._stopping = True
        self._woken.set()

    def run(self) -> None:
        """Send until stopped."""
        while True:
            self._woken.clear()
            incident, wait = self._notifier.next_for(self._receiver)
            if incident:
                with about(cluster=incident.alert.cluster, condition=incident.alert.condition):
                    self._tell(incident)
            elif self._stopping:
                return
            else:
                self._woken.wait(wait)

    def _tell(self, incident: Incident) -> None:
        try:
            error = attempt(self._receiver, incident, self._host)
        except Exception as bug:
            log.exception("a bug in repmgr_hooks; please report it")
            error = repr(bug)
        if error:
            log.error("the alert to %s has failed (%s): %s", self.name, incident.headline, error)
        else:
            log.info("alert sent to %s: %s", self.name, incident.headline)
        self._notifier.was_sent(self._receiver, incident, error)


def attempt(receiver: Receiver, incident: Incident, host: Host) -> str:
    """Send an incident to a receiver; return why that failed, empty if it did not."""
    try:
        host.run(receivers.program(receiver, incident), receiver.timeout)
        return ""
    except OperationFailed as error:
        return str(error)
