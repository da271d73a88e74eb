"""`check --end-to-end`: an event that changes nothing goes the whole way, from repmgr.conf to the journal.

The command runs in a shell: the one place where we use one, for that is what repmgrd does (system(3), dbutils.c:4398),
and what is to be found out is what a shell makes of the line. It is given what an attacker would write into the
details or a node's name; that only prints a word, which shows that the shell has run it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.catalogue import REHEARSAL, shorten
from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.repmgr import as_it_should_be
from repmgr_hooks.checks.repmgrd import Daemon, daemon_of
from repmgr_hooks.cluster.repmgr_files import Identity, node_of, readable
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event, parse_event
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.repmgr_conf import Placeholders, RepmgrConf
from repmgr_hooks.system.steps import Host, Program

LIMIT = 30.0
ARRIVAL = 10.0
LOOK_EVERY = 0.1
MOST_WORDS = 160
INJECTED = "repmgr-hooks-injected"
TRAP = "$(printf '%s-%s' repmgr-hooks injected >&2)"
# For every kind of quotes in the line; the last one is no attack, and is lost all the same.
NASTY = (TRAP, TRAP.replace("$(", "`").replace(")", "`"), f"'{TRAP}'", 'it\'s "said"\nso \\')
# The shell in the middle lets us see what the command writes to stderr; the one inside is repmgrd's.
SHELL = ("sh", "-c", 'exec sh -c "$1" 2>&1', "sh")


def look(
    managed: ManagedCluster, files: Iterable[Path], host: Host, journal: Journal | None, known: Mapping[int, Identity]
) -> Iterator[Finding]:
    """Run the notification line of each node's file as its repmgrd would, and look at what arrives."""
    for conf in readable(files):
        if conf.node is None or not conf.line or node_of(conf, managed.cluster.nodes, known) is None:
            continue
        daemon = daemon_of(conf.path)
        topic = Topic("hook.arrived", str(conf.path))
        if not daemon.user.can_be_me:
            yield unseen(topic, f"only root can act as {daemon.user.name}")
        elif journal is None and daemon.user.is_me and os.geteuid() != 0:
            yield unseen(topic, "only the service may read the journal, so the arrival cannot be verified")
        elif journal is None:
            yield topic.fail("the journal cannot be read: the arrival cannot be verified", "repmgr-hooks status")
        else:
            arrival = partial(_arrival, managed=managed, host=host, journal=journal)
            yield tried(conf, managed.cluster.name, host, arrival)


def tried(conf: RepmgrConf, cluster: str, host: Host, arrival: Callable[[Placeholders, float], str]) -> Finding:
    """Run the notification line of a file as its repmgrd would; ``arrival`` says what is wrong with what arrives.

    It is given what was sent, and when.
    """
    topic, commands, daemon = Topic("hook.arrived", str(conf.path)), set(), daemon_of(conf.path)
    if not daemon.user.can_be_me:
        return unseen(topic, f"only root can act as {daemon.user.name}")
    hint, said = as_it_should_be(cluster), ""
    for nasty in NASTY:
        moment = clock.wall()
        stamp = f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(moment))}.{int(moment % 1 * 1e6):06d}+00"
        sent = Placeholders(str(conf.node), REHEARSAL, "1", "", stamp, nasty, nasty, nasty)
        command = sent.expanded(conf.line)
        if command.replace(stamp, "") in commands:
            continue  # nothing of the nasty gets into it
        commands.add(command.replace(stamp, ""))
        try:
            output = host.run(Program((*_as(daemon), *SHELL, command)), LIMIT)
        except OperationFailed as error:
            output = str(error).removeprefix(str(Program((*_as(daemon), *SHELL, command))))
            said = said or f"as {daemon.user.name}: {ascii(' '.join(output.strip(': ').split())[:MOST_WORDS])}"
        if INJECTED in output.replace(command, ""):
            return topic.fail("a shell has executed text from the event", hint)
        said = said or arrival(sent, moment)
    what = f"sent as {daemon.user.name}, arrived whole: {sent.event} of node {sent.node}, {stamp}"
    return topic.fail(said, hint) if said else topic.ok(what)


def _arrival(sent: Placeholders, moment: float, managed: ManagedCluster, host: Host, journal: Journal) -> str:
    """Wait for an event that was sent at a moment, and return what is wrong with it; empty if nothing is."""
    end = host.now() + ARRIVAL
    while not (event := _newest(journal, managed, moment)) and host.now() < end:
        host.sleep(LOOK_EVERY)
    if event is None:
        return f"the command returned 0, but no event arrived within {ARRIVAL:.0f} s"
    if event != parse_event([sent.node, sent.event, sent.success, sent.other, sent.timestamp]):
        return f"another event arrived than was sent: {event}, {shorten(event.timestamp)}"
    return ""


def _as(daemon: Daemon) -> tuple[str, ...]:
    """Return the words before a command that make it run as repmgrd's; its password, if it has one, is left out."""
    pairs = (f"{name}={value}" for name, value in daemon.environment.items() if "PASSWORD" not in name)
    inside = ("env", "-i", "-C", "/", *pairs)
    if os.geteuid() != 0:
        return inside
    groups = ["--groups", ",".join(map(str, daemon.user.groups))] if daemon.user.groups else ["--clear-groups"]
    identity = ("--reuid", str(daemon.user.uid), "--regid", str(daemon.user.gid), *groups)
    return ("setpriv", *identity, *(["--no-new-privs"] if daemon.no_new_privileges else []), *inside)


def _newest(journal: Journal, managed: ManagedCluster, since: float) -> Event | None:
    last = journal.last_event(managed.cluster.name)
    return last[1] if last and last[0] >= since and last[1].name == REHEARSAL else None
