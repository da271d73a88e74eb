"""Looks after former primaries, in a thread of its own: nothing that moves a port or makes a backup whole waits for it.

A rewind or a clone may take hours. It goes on by itself on its node, and is asked for from time to time; a service that
has begun anew asks on. What is done is written down before (``former_primary/record.py``), and looked at twice more:
here, whether the primary is still verified, and on the node (``former_primary/scripts.py``).
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from repmgr_hooks import clock
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.config import Config
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import HooksError, OperationFailed, Stopped
from repmgr_hooks.former_primary import record
from repmgr_hooks.former_primary.on_node import ByShell, OnNode
from repmgr_hooks.former_primary.plan import Deed, Do, after_job, certainly_stale, plan, verified_primary
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.former_primary.telling import Teller
from repmgr_hooks.journal.finder import primary_finder
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.pauses import pause_of
from repmgr_hooks.log import about
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.former_primary import FormerPrimary
from repmgr_hooks.switchover import record as switchover
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host, Program

log = logging.getLogger(__name__)

LOOK_EVERY, SEEK_EVERY = 2.0, 5.0
"""Seconds between two looks while there is something to do, and while there is nothing."""
SETTLED = 3.0
"""So many seconds a node must have been seen as the same stale primary beside the same primary."""
UNHEARD_OF = 600.0
"""Seconds beyond its limit for which a job is asked for on a node that does not answer."""
MakeNode = Callable[[Cluster, FormerPrimary, Host], OnNode]


class Looks(Protocol):
    """What looks after the cluster; ``ClusterController`` is the real one."""

    looked: PrimaryDecision | None
    """What its last look has decided, if it found nothing for a run to do: a port comes first."""


def local_host(cluster: Cluster) -> Host:
    """A host of its own: nothing here holds up a look, or a run."""
    return LocalHost(cluster.conninfos())


@dataclass(frozen=True)
class Seen:
    """What a look has found: who is the primary, and what was remembered of it by then."""

    decision: PrimaryDecision
    last_known: LastKnownPrimary


class FormerPrimaryKeeper(threading.Thread):
    """Of one cluster that has the section ``former_primary``; ``looks`` looks after the cluster otherwise."""

    def __init__(
        self,
        managed: ManagedCluster,
        journal: Journal,
        loaded: Config,
        looks: Looks,
        tell: Callable[[Alert], None],
        make_host: Callable[[Cluster], Host] = local_host,
        make_node: MakeNode = ByShell,
    ) -> None:
        super().__init__(name=f"former primaries of {managed.cluster.name}", daemon=True)
        assert managed.cluster.former_primary is not None
        self.cluster, self._of, self._settings = managed.cluster.name, managed.cluster, managed.cluster.former_primary
        self._journal, self._loaded, self._looks = journal, loaded, looks
        self._make_host, self._make_node = make_host, make_node
        self._teller = Teller(self._of, self._settings, journal, tell)
        self._stopping = threading.Event()
        self._first_seen: dict[tuple[object, ...], float] = {}
        self._said = ""

    def stop(self) -> None:
        """End soon; what is under way on a node goes on."""
        self._stopping.set()

    def run(self) -> None:
        """Look until stopped."""
        wait = 0.0
        while not self._stopping.wait(wait):
            with about(cluster=self.cluster):
                try:
                    wait, said = self.look(), ""
                except Stopped:
                    return
                except HooksError as error:
                    wait, said = SEEK_EVERY, str(error)
                    if said != self._said:
                        log.error("%s: %s", self.cluster, error)
                except Exception:
                    wait, said = SEEK_EVERY, "bug"
                    if said != self._said:
                        log.exception("%s: a bug in repmgr_hooks; please report it", self.cluster)
                self._said = said

    def look(self) -> float:
        """Do what is to be done now, and return the seconds until the next look. Raises HooksError."""
        decision, formers = self._looks.looked, record.read(self._of)
        if decision is None:
            return SEEK_EVERY  # a run has something to do, and ports come first
        stale, window = decision.stale_primaries, self._settings.limit.window
        if not stale and all(each.phase == "done" and each.recent(window, clock.wall()) for each in formers.values()):
            self._first_seen.clear()
            return SEEK_EVERY
        if self._resting():
            return SEEK_EVERY
        host = self._make_host(self._of)
        try:
            # Of several gateways, the one that has the address stops a node. What this one has stopped, the other does
            # not know of.
            serving = serves(self._of.gateway, host)
            if not serving and not formers:
                return SEEK_EVERY
            deeds = [deed for deed in self._deeds(host) if serving or deed.do is not Do.FENCE]
            self._take_each(deeds, host)
        finally:
            host.close_idle()
        busy = any(deed.do in (Do.ASK, Do.REJOIN, Do.CLONE, Do.FENCE) for deed in deeds)
        return LOOK_EVERY if busy or stale else SEEK_EVERY

    def _take_each(self, deeds: Sequence[Deed], host: Host) -> None:
        """A node that does not answer keeps nobody from the others. Raises what went wrong first."""
        failed: HooksError | None = None
        for deed in deeds:
            if self._stopping.is_set():
                break
            try:
                self._take(deed, host)
            except OperationFailed as error:
                failed = failed or error
        if failed:
            raise failed

    def _resting(self) -> bool:
        """True in a pause, and while a switchover is under way, in which repmgr itself rejoins the old primary."""
        paused = pause_of(self.cluster, self._journal, self._loaded.state_dir)
        return paused is not None or switchover.read(self._of) is not None

    def _deeds(self, host: Host) -> list[Deed]:
        """Look, and return what is to be done of what has been so for long enough."""
        seen, now = self._seen(host), host.now()
        primary = verified_primary(seen.decision, seen.last_known)
        keys = {
            state.node: (state.node, state.timeline, primary and (primary.node, primary.timeline))
            for state in certainly_stale(seen.decision, seen.last_known)
        }
        self._first_seen = {key: self._first_seen.get(key, now) for key in keys.values()}
        fresh = {node for node, key in keys.items() if now - self._first_seen[key] < SETTLED}
        return [deed for deed in self._planned(seen) if deed.do is not Do.FENCE or deed.former.node not in fresh]

    def _seen(self, host: Host) -> Seen:
        finder = primary_finder(self._of, self._journal)
        return Seen(finder.decision(host), finder.last_known)

    def _planned(self, seen: Seen) -> list[Deed]:
        formers = record.read(self._of)
        return plan(self._of, self._settings, seen.decision, seen.last_known, formers, clock.wall())

    # -- what is done ------------------------------------------------------------------------------------------------

    def _take(self, deed: Deed, host: Host) -> None:
        if not deed.changes_the_node:
            self._note(deed, host)
            return
        seen = self._seen(host)  # at once before: roles change
        planned = {item.former.node: item.do for item in self._planned(seen)}
        if planned.get(deed.former.node) is not deed.do or self._resting():
            return
        if deed.do is Do.FENCE:
            self._fence(deed.former, host)
        else:
            self._begin(deed, seen, host)

    def _fence(self, former: Former, host: Host) -> None:
        """Have it stopped. Only its own host, or the program, can say that it is: one that is silent may run on."""
        known, begun = record.read(self._of).get(former.node), clock.wall()
        node, before = self._make_node(self._of, self._settings, host), known.problem if known else ""
        try:
            former = node.look(former)
            self._keep(former)
            former = node.stop(former, self._settings.fence.timeout)
        except OperationFailed as error:
            former = self._switched_off(former, error, host)
        former = replace(former, begun=clock.wall())
        self._keep(former)
        self._teller.fenced(former, before, begun)

    def _switched_off(self, former: Former, error: OperationFailed, host: Host) -> Former:
        """It cannot be stopped: have the program switch it off, if there is one and it still is what it was."""
        failed = replace(former, problem=str(error), hint=error.hint)
        fence = self._settings.fence
        if not fence.program or error.code == "another":
            return failed
        seen = self._seen(host)
        if former.node not in [state.node for state in certainly_stale(seen.decision, seen.last_known)]:
            return failed
        self._keep(failed)
        address = self._of.nodes[former.node].host
        environment = {"NODE": str(former.node), "HOST": address, "CLUSTER": self.cluster}
        program = Program(fence.program, env={f"REPMGR_HOOKS_{name}": value for name, value in environment.items()})
        try:
            host.run(program, fence.timeout)
            host.close_idle()
            state = next(state for state in self._seen(host).decision.states if state.node == former.node)
        except OperationFailed as wrong:
            return replace(failed, problem=f"{error}; {wrong}", hint=wrong.hint or error.hint)
        if state.reachable:
            what = f"{error}; {fence.program[0]} has ended well, and the node still answers"
            return replace(failed, problem=what)
        return replace(former, phase="fenced", by_power=True, problem="", hint="")

    def _begin(self, deed: Deed, seen: Seen, host: Host) -> None:
        former, primary = deed.former, verified_primary(seen.decision, seen.last_known)
        assert primary is not None
        node, job = self._make_node(self._of, self._settings, host), secrets.token_hex(8)
        phase: record.Phase = "clone" if deed.do is Do.CLONE else "rejoin"
        begins = former.begins(phase, job, clock.wall())
        try:
            begins = node.look(replace(begins, primary=primary.node))
            self._keep(begins)
            if deed.do is Do.CLONE:
                node.clone(begins, primary)
            else:
                node.rejoin(begins, primary, seen.last_known.began.get(former.timeline))
        except OperationFailed as error:
            now = clock.wall()
            failed = replace(former, problem=str(error), hint=error.hint, begun=now)
            self._keep(failed)
            self._teller.not_begun(failed, former.problem, deed.do, now)
            return
        self._teller.begun(begins)

    def _note(self, deed: Deed, host: Host) -> None:
        """What changes nothing on the node."""
        former = deed.former
        if deed.do is Do.ASK:
            self._ask(former, host)
        elif deed.do is Do.STAY:
            self._teller.stays(former)
        elif deed.do is Do.FORGET:
            self._keep(former, forget=True)
        else:
            self._keep(replace(former, phase="done", problem="", hint=""))
            self._teller.over(former)

    def _ask(self, former: Former, host: Host) -> None:
        try:
            ended = self._make_node(self._of, self._settings, host).ask(former)
        except OperationFailed as error:
            if former.problem or clock.wall() - former.begun < self._settings.timeout + UNHEARD_OF:
                raise
            self._unheard_of(replace(former, problem=f"it is not known how it goes on: {error}", hint=error.hint))
            return
        if ended is None:
            return
        after = after_job(former, ended, clock.wall())
        self._keep(after)
        self._teller.ended(former, after, ended)

    def _unheard_of(self, former: Former) -> None:
        """It is asked for until the node says how it has ended: what is not known is no reason to clone it."""
        self._keep(former)
        self._teller.unheard_of(former)

    def _keep(self, former: Former, forget: bool = False) -> None:
        """Raises Stopped: after a reload the next one works with the record, and finds out what this one has done."""
        if self._stopping.is_set():
            raise Stopped("asked to stop")
        formers = {**record.read(self._of), former.node: former}
        if forget:
            del formers[former.node]
        record.keep(self._of, formers)
