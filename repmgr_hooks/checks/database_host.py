"""What would keep the events of a database host from its gateways: its files, its forwarder, and its repmgr.conf."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.checks import end_to_end, repmgr
from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.repmgrd import confs_here, repmgrds_user
from repmgr_hooks.checks.users import ENTER, WRITE, User, hindrance
from repmgr_hooks.cluster.repmgr_files import readable
from repmgr_hooks.forward.letter import letter
from repmgr_hooks.forward.queue import NAME, last_taken
from repmgr_hooks.forward.settings import DatabaseHost, Gateway
from repmgr_hooks.hook import open_fifo
from repmgr_hooks.repmgr_conf import Placeholders
from repmgr_hooks.system.steps import Host

UNIT = "repmgr-hooks-forward.service"
START = f"systemctl enable --now {UNIT}"
WHY = "journalctl -u repmgr-hooks-forward says why"
WAITS_TOO_LONG = 60.0
LOOK_EVERY = 0.1


def findings(loaded: DatabaseHost, path: Path, host: Host, send_event: bool) -> Iterator[Finding]:
    """Look at all that can be looked at here."""
    yield Topic("config.file", str(path)).ok(f"events go to {', '.join(loaded.gateways)}")
    user = repmgrds_user()
    yield _spool(loaded, user)
    yield _running(loaded)
    for name in loaded.gateways:
        yield _queue(name, loaded.queue(name))
    files = confs_here()
    yield from repmgr.unreadable(files)
    for conf in readable(files):
        if conf.node is not None:
            yield repmgr.access(conf, user)
            yield from repmgr.of_hosts_file(conf)
            if send_event and conf.line:
                yield end_to_end.tried(conf, "NAME", host, lambda sent, moment: _arrival(loaded, sent, host))


def _spool(loaded: DatabaseHost, user: User) -> Finding:
    topic = Topic("files.spool", str(loaded.spool))
    try:
        wrong = hindrance(user, loaded.spool, WRITE | ENTER)
    except PermissionError as error:
        return unseen(topic, error)
    except OSError as error:
        return topic.fail(str(error), "systemd-tmpfiles --create")
    return topic.fail(wrong, "systemd-tmpfiles --create") if wrong else topic.ok(f"{user.name} can store events")


def _running(loaded: DatabaseHost) -> Finding:
    topic = Topic("forward.running")
    try:
        os.close(open_fifo(str(loaded.spool)))
        ages = list(_ages(loaded.spool.glob("[0-9]*")))
    except PermissionError as error:
        return unseen(topic, error)
    except OSError:
        return topic.fail("the forwarder does not run", START)
    if ages and max(ages) > WAITS_TOO_LONG:
        what = f"the forwarder leaves {len(ages)} event(s) in {loaded.spool}, the oldest for {max(ages):.0f} s"
        return topic.fail(what, WHY)
    return topic.ok("the forwarder listens")


def _ages(files: Iterable[Path]) -> Iterator[float]:
    """Return how old each is, in seconds; the forwarder may take one away meanwhile."""
    for file in files:
        with suppress(FileNotFoundError):
            yield clock.wall() - file.stat().st_mtime


def _queue(name: str, queue: Path) -> Finding:
    topic = Topic("forward.queue", name)
    try:
        ages = list(_ages(file for file in queue.iterdir() if NAME.fullmatch(file.name)))
        last = last_taken(queue)
    except PermissionError as error:
        return unseen(topic, error)
    except OSError:
        ages, last = [], ""
    if ages and max(ages) > WAITS_TOO_LONG:
        why = f"{len(ages)} event(s) wait, the oldest for {max(ages):.0f} s"
        return topic.fail(why, WHY)
    return topic.ok("no event waits" if last else "no event waits; none has been taken yet")


def _arrival(loaded: DatabaseHost, sent: Placeholders, host: Host) -> str:
    """Wait until each gateway has taken an event that was sent, and return which has not; empty if each has."""
    wanted = letter("", ["", sent.node, sent.event, sent.success, sent.other, sent.timestamp]).words
    wrong = (_not_taken(name, gateway, loaded.queue(name), wanted, host) for name, gateway in loaded.gateways.items())
    return "; ".join(filter(None, wrong))


def _not_taken(name: str, gateway: Gateway, queue: Path, wanted: tuple[str, ...], host: Host) -> str:
    end = host.now() + gateway.timeout
    while tuple(last_taken(queue).split("\t")[2:]) != wanted:
        if host.now() >= end:
            return f"{name} has not taken the event within {gateway.timeout} s"
        host.sleep(LOOK_EVERY)
    return ""
