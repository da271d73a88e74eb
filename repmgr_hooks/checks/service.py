"""Our own service: it runs, no event waits, no run has failed, and repmgrd's user may start it by sudo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import User
from repmgr_hooks.config import Config
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import NoSuchProgram, OperationFailed
from repmgr_hooks.handlers import slot
from repmgr_hooks.hook import PROGRAM, WAKE, open_fifo
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.system.steps import Host, Program

LIMIT = 10.0
WAITS_TOO_LONG = 60.0
UNITS = ("repmgr-hooks.service", "repmgr-hooks-boot.service")
START = "systemctl enable --now repmgr-hooks.service"


def look(loaded: Config, host: Host, repmgrd: User) -> Iterator[Finding]:
    """Look at what all clusters share."""
    spool = loaded.state_dir / "spool"
    topic = Topic("service.running")
    try:
        listens = _listens(spool)
        yield topic.ok("the service listens") if listens else topic.fail("the service does not run", START)
    except PermissionError as error:
        listens = False
        yield unseen(topic, error)
    if Path("/run/systemd/system").is_dir():  # sd_booted(3)
        yield enabled(host)
    if listens:
        yield _stuck(spool)
    yield _door(host, repmgrd)


def _listens(spool: Path) -> bool:
    """True if somebody reads the FIFO; nothing is written to it."""
    try:
        os.close(open_fifo(str(spool)))
        return True
    except PermissionError:
        raise
    except OSError:
        return False


def enabled(host: Host) -> Finding:
    """Ask systemd whether our units start at boot."""
    topic, off = Topic("service.enabled"), []
    for unit in UNITS:
        try:
            host.run(Program(("systemctl", "is-enabled", unit)), LIMIT)
        except OperationFailed:
            off.append(unit)
    if off:
        return topic.warn(f"not started at boot: {', '.join(off)}", f"systemctl enable {' '.join(off)}")
    return topic.ok("is started at boot")


def _stuck(spool: Path) -> Finding:
    topic = Topic("service.spool", str(spool))
    try:
        files = [file for file in spool.iterdir() if file.name[0] != "." and file.name != WAKE]
        old = [file for file in files if clock.wall() - file.stat().st_mtime > WAITS_TOO_LONG]
    except PermissionError as error:
        return unseen(topic, error)
    except OSError:
        old = []  # taken in meanwhile
    if old:
        return topic.fail(f"{len(old)} file(s) lie there unread: {old[0].name}", "journalctl -u repmgr-hooks says why")
    return topic.ok("nothing lies unread in the spool")


def _door(host: Host, repmgrd: User) -> Finding:
    """On the day when the service is not running, the hook starts a run through sudo."""
    topic = Topic("service.sudo", repmgrd.name)
    asked = ("sudo", "-n", "-l", *(() if repmgrd.is_me else ("-U", repmgrd.name)))
    try:
        said = host.run(Program(asked), LIMIT)
    except NoSuchProgram:
        said = ""
    except OperationFailed as error:
        return unseen(topic, error) if os.geteuid() != 0 else topic.warn(str(error), "visudo -c")
    lacking = [words for words in ("worker --once", "event -") if f"{PROGRAM} {words}" not in said]
    if lacking:
        what = f"{repmgrd.name} may not run '{lacking[0]}': events wait when the service is down"
        return topic.warn(what, "install -m 0440 config/sudoers /etc/sudoers.d/repmgr-hooks; visudo -c")
    return topic.ok("if the service is down, the hook can start a run")


def of_cluster(managed: ManagedCluster, journal: Journal) -> Iterator[Finding]:
    """Look at what the journal says of a cluster. Raises OperationFailed."""
    name = managed.cluster.name
    topic = Topic("service.paused", name)
    paused = journal.paused(name)
    why = f"paused{f' ({paused.reason})' if paused and paused.reason else ''}: events are stored, nothing is done"
    yield topic.warn(why, f"repmgr-hooks resume --cluster {name}") if paused else topic.ok("not paused")
    topic, last = Topic("service.failed", name), journal.last_run(name)
    if last and last[0].ok is False and last[0].again:
        yield topic.fail(f"the last run failed: {last[0].message}", f"repmgr-hooks reconcile --cluster {name}")
    else:
        yield topic.ok("the last run did not fail")


def tracking(loaded: Config, managed: ManagedCluster) -> Iterator[Finding]:
    """``state: synced`` advances the slots of the standbys at every tick."""
    slots = [action.config for action in managed.actions if isinstance(action.config, slot.Config)]
    if any(config.synced for config in slots):
        topic = Topic("config.interval", managed.cluster.name)
        why = "'state: synced' with 'monitor_interval: 0': the standbys' slots are never advanced"
        yield (
            topic.ok("the standbys' slots are advanced")
            if loaded.service.monitor_interval
            else topic.fail(why, "config.yaml: monitor_interval: 5")
        )
