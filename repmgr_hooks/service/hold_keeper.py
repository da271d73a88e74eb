"""Takes back what nobody else takes back: a hold whose limit is over or whose holder is gone, in a thread of its own.

It waits for no run, no lock, no journal and no primary, and begins with the service: after a crash, and at boot. What a
process has held that lives on is looked at as long as that lives: it may have been stopped just before it held. While
the record cannot be read (the disk hangs), what was read of it last is what counts. One that holds something else is
taken as the worst: all that we could have paused is let go.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from repmgr_hooks import clock
from repmgr_hooks.engine import hold as engine
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal import holds
from repmgr_hooks.journal.holds import Hold, Holder, why_over
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.queries import HOLD
from repmgr_hooks.log import about
from repmgr_hooks.service.others_hold import OthersHold
from repmgr_hooks.system.alert import Alert, Severity
from repmgr_hooks.system.steps import Host

log = logging.getLogger(__name__)

LOOK_EVERY, SEEK_EVERY = 1.0, 5.0
"""Seconds between two looks at a hold, and for one: that nobody is held costs next to nothing."""
RETRY_EVERY = 2.0
KEPT = 3600.0
"""Seconds for which what a process has held is looked at, when its limit is over and it lives."""
LEFT = "start that PgBouncer anew: a restart forgets PAUSE"
UNREADABLE = "its record holds something else"
SAY_AGAIN = 300.0
"""Seconds after which it is said again that clients cannot be let go."""


def _lives(hold: Hold) -> bool:
    """Whether its process may still go on; not for ever, for one of another user's may have its number."""
    recent = hold.seconds(clock.monotonic()) < KEPT
    return recent and hold.holder.boot == holds.boot_id() and holds.is_alive(hold.holder)


@dataclass
class _Said:
    """Why a hold could not be taken back when that was said last, as codes, and when it is to be said again."""

    codes: tuple[str, ...] = ()
    again: float = 0.0


class HoldKeeper(threading.Thread):
    """Looks after the hold of one cluster; ``tell`` has an alert sent, ``make_host`` makes what it acts with."""

    def __init__(
        self, managed: ManagedCluster, journal: Journal, tell: Callable[[Alert], None], make_host: Callable[[], Host]
    ) -> None:
        super().__init__(name=f"hold of {managed.cluster.name}", daemon=True)
        self._managed, self._journal, self._tell, self._make_host = managed, journal, tell, make_host
        self._others = OthersHold(managed, tell, make_host)
        self.cluster = managed.cluster.name
        self._stopping = threading.Event()
        self._known: Hold | None = None
        self._unreadable: Hold | None = None
        self._said = _Said()
        self._unseen = False
        """Whether it has been said that the record cannot be read."""

    def stop(self) -> None:
        """End soon."""
        self._stopping.set()

    def run(self) -> None:
        """Look until stopped."""
        wait = 0.0
        while not self._stopping.wait(wait):
            try:
                with about(cluster=self._managed.cluster.name):
                    wait = self.look()
            except Exception:
                log.exception("%s: a bug in repmgr_hooks; please report it", self._managed.cluster.name)
                wait = RETRY_EVERY
        self._others.close()

    def look(self) -> float:
        """Take the hold back if it is over, and return the seconds until the next look."""
        hold = self._known = self._read()
        if hold is None:
            self._others.look()
            return SEEK_EVERY
        broken = hold == self._unreadable
        if not (why := UNREADABLE if broken else why_over(hold)):
            return LOOK_EVERY
        host = self._make_host()
        try:
            failed = engine.release(self._managed, hold, host, keep := _lives(hold))
        finally:
            host.close_idle()
        if broken or not hold.over or failed:
            self._say(hold, why, failed)
        if not failed and not self._is_there(hold):
            self._known, self._said = None, _Said()
        return RETRY_EVERY if failed or keep else SEEK_EVERY

    def _read(self) -> Hold | None:
        if self._known is None and not self._unseen and not holds.may_be_held(self._managed.cluster):
            return None
        try:
            found, self._unseen = holds.read(self._managed.cluster), False
            return found
        except OperationFailed as error:
            if error.code == holds.NO_HOLD:
                log.error("%s; what could be held is let go", error)
                self._unreadable = self._anything()
                return self._unreadable
            if self._known is None and not self._unseen:
                log.error("%s; whether clients are held cannot be seen", error)
            self._unseen = True
            return self._known

    def _anything(self) -> Hold:
        """Return a hold of all that there is, which is over."""
        paused = engine.pgbouncers_of(self._managed)
        nobody, name = Holder(0, 0, ""), self._managed.cluster.name
        ports = self._managed.opened_ports
        return Hold(name, nobody, clock.wall(), clock.monotonic(), 0.0, (), 0, 0, "unknown", paused, True, ports)

    def _is_there(self, hold: Hold) -> bool:
        return hold.begun == getattr(self._read(), "begun", None)

    def _say(self, hold: Hold, why: str, failed: Sequence[OperationFailed]) -> None:
        """Log, write down and send what has become of a hold; of one that cannot be taken back, now and then."""
        held = f"clients were held for {hold.seconds(clock.monotonic()):.0f} s ({hold.why})"
        said = "; ".join(map(str, failed)) or "they go on"
        what, now = f"{held}; taken back, because {why}: {said}", clock.monotonic()
        codes = tuple(error.code for error in failed)
        if codes and codes == self._said.codes and now < self._said.again:
            return
        self._said = _Said(codes, now + SAY_AGAIN)
        log.log(logging.ERROR if failed else logging.WARNING, "%s", what)
        severity: Severity = "critical" if failed else "warning"
        hints = " ".join(filter(None, (error.hint for error in failed))) or LEFT * bool(failed)
        self._tell(Alert(hold.cluster, "hold", severity, what, hint=hints, momentary=True))
        try:
            run = self._journal.begin_run(hold.cluster, HOLD, 1, [])
            self._journal.end_run(run, not failed, False, what, None, 0)
        except OperationFailed as error:
            log.error("%s", error)
