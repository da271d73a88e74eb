"""`check --as-repmgrd`: an event that changes nothing goes the whole way, from repmgr.conf to the journal.

The command runs in a shell: the one place where we use one, for that is what repmgrd does (system(3), dbutils.c:4398),
and what is to be found out is what a shell makes of the line. It is given what an attacker would write into the
details or a node's name; that only prints a word, which shows that the shell has run it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks.catalogue import REHEARSAL, shorten
from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.identity import User, user_called, user_of
from repmgr_hooks.checks.repmgr import belongs_to, readable
from repmgr_hooks.checks.repmgr_conf import Placeholders, RepmgrConf
from repmgr_hooks.errors import StepFailed
from repmgr_hooks.event import Event, parse_event
from repmgr_hooks.journal import Journal
from repmgr_hooks.routes import Managed
from repmgr_hooks.steps import Program, World

LIMIT = 30.0
ARRIVAL = 10.0
LOOK_EVERY = 0.1
INJECTED = "repmgr-hooks-injected"
TRAP = "$(printf '%s-%s' repmgr-hooks injected >&2)"
NASTY = f"it's \"quoted\" {TRAP} `printf '%s-%s' repmgr-hooks injected >&2` ; printf '%s-%s' repmgr-hooks injected\n\\"
# The shell in the middle lets us see what the command writes to stderr; the one inside is repmgrd's.
SHELL = ("sh", "-c", 'exec sh -c "$1" 2>&1', "sh")


@dataclass(frozen=True)
class Daemon:
    """A repmgrd: who it runs as, its environment, and the file that it was given."""

    user: User
    environment: Mapping[str, str]
    words: tuple[str, ...] = ()
    no_new_privileges: bool = False


def running() -> Iterator[Daemon]:
    """Return every repmgrd of this machine, as far as we may look."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "comm").read_text().strip() == "repmgrd":
                yield _daemon(process)
        except (OSError, KeyError):
            continue  # it has ended meanwhile, or its user has no name


def _daemon(process: Path) -> Daemon:
    user = user_of(process.stat().st_uid)
    try:
        pairs = (process / "environ").read_text(errors="replace").split("\0")
        environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    except PermissionError:
        environment = usual(user)
    words = tuple((process / "cmdline").read_text(errors="replace").split("\0"))
    return Daemon(user, environment, words, "NoNewPrivs:\t1" in (process / "status").read_text())


def usual(user: User) -> dict[str, str]:
    """Return the environment that systemd gives to a service (systemd.exec(5))."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    names = {"LOGNAME": user.name, "USER": user.name, "HOME": user.home, "SHELL": "/bin/sh"}
    return {"PATH": path, "LANG": "C.UTF-8", **names}


def repmgrds_user() -> User:
    """Return who repmgrd runs as; postgres, if none runs here."""
    daemon = next(running(), None)
    found = daemon.user if daemon else user_called("postgres")
    return found or user_of(os.geteuid())


def look(managed: Managed, files: Iterable[Path], world: World, journal: Journal | None) -> Iterator[Finding]:
    """Run the notification line of each node's file as its repmgrd would, and look at what arrives."""
    for conf in readable(files):
        if conf.node is None or not conf.line or not belongs_to(conf, managed):
            continue
        user = repmgrds_user()
        daemon = next((one for one in running() if str(conf.path) in one.words), None) or Daemon(user, usual(user))
        topic = Topic("hook.arrived", str(conf.path))
        if not daemon.user.can_be_me:
            yield unseen(topic, f"only root can act as {daemon.user.name}")
        elif journal is None:
            yield topic.fail("the journal cannot be read: nothing can be seen to arrive", "repmgr-hooks status")
        else:
            yield from _rehearse(conf, daemon, managed, world, journal)


def _rehearse(conf: RepmgrConf, daemon: Daemon, managed: Managed, world: World, journal: Journal) -> Iterator[Finding]:
    moment = time.time()
    stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(moment))}.{int(moment % 1 * 1e6):06d}+00"
    sent = Placeholders(str(conf.node), REHEARSAL, "1", "", stamp, NASTY, NASTY, NASTY)
    command, topic = sent.expanded(conf.line), Topic("hook.arrived", str(conf.path))
    see = f"repmgr.conf, event_notification_command; by hand: sudo -u {daemon.user.name} sh -c '...'"
    try:
        output = world.run(Program((*_as(daemon), *SHELL, command)), LIMIT)
        wrong = ""
    except StepFailed as error:
        output = str(error).partition(": exit code ")[2] or str(error)
        wrong = f"as {daemon.user.name}: {shorten(output.partition(': ')[2] or output)}"
    trapped = output.replace(command, "").count(INJECTED)
    shell = Topic("hook.shell", str(conf.path))
    yield shell.fail("a shell ran what stood in the event", see) if trapped else shell.ok("a shell ran nothing foreign")
    if wrong:
        yield topic.fail(wrong, see)
        return
    begun = world.now()
    while not (event := _newest(journal, managed, moment)) and world.now() < begun + ARRIVAL:
        world.sleep(LOOK_EVERY)
    if event is None:
        yield topic.fail(f"the command answered 0, but no event came within {ARRIVAL:.0f} s", see)
    elif event != parse_event([sent.node, sent.event, sent.success, sent.other, sent.timestamp]):
        yield topic.fail(f"another event arrived than was sent: {shorten(event)} {shorten(event.timestamp)}", see)
    else:
        took = time.time() - moment
        yield topic.ok(f"sent as {daemon.user.name}, arrived whole after {took:.1f} s: {event}, {event.timestamp}")


def _as(daemon: Daemon) -> tuple[str, ...]:
    """Return the words before a command that make it run as repmgrd's; its password, if it has one, is left out."""
    pairs = (f"{name}={value}" for name, value in daemon.environment.items() if "PASSWORD" not in name)
    inside = ("env", "-i", "-C", "/", *pairs)
    if os.geteuid() != 0:
        return inside
    groups = ",".join(map(str, daemon.user.groups))
    identity = ("--reuid", str(daemon.user.uid), "--regid", str(daemon.user.gid), "--groups", groups)
    return ("setpriv", *identity, *(["--no-new-privs"] if daemon.no_new_privileges else []), *inside)


def _newest(journal: Journal, managed: Managed, since: float) -> Event | None:
    last = journal.last_event(managed.cluster.name)
    return last[1] if last and last[0] >= since and last[1].name == REHEARSAL else None
