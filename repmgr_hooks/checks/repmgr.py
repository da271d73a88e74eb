"""What repmgr will tell us: the notification line of each repmgr.conf, its filter, and repmgr's version."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePath

from repmgr_hooks.catalogue import EVENTS, REHEARSAL, problem
from repmgr_hooks.checks.files import absent, unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.repmgrd import daemon_of
from repmgr_hooks.checks.users import READ, User, hindrance
from repmgr_hooks.cluster.repmgr_files import Identity, node_of, program, readable
from repmgr_hooks.config import Config, which_cluster
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, UsageError, did_you_mean
from repmgr_hooks.hook import PROGRAM, option
from repmgr_hooks.journal.hosts import HostRow
from repmgr_hooks.repmgr_conf import Placeholders, RepmgrConf, read, words_of
from repmgr_hooks.system.steps import Host, Program

LIMIT = 10.0
NOTIFICATION_TIMEOUT = 60  # repmgr's default (repmgr.h:137)
LEAST_TIMEOUT = 10
NO_LINE = "event_notification_command is missing: repmgr reports nothing"
SHELL_OWN = ("!", ".", ":", "{", "case", "cd", "command", "eval", "exec", "export", "for", "if", "set", "trap", "while")
"""With these words a line begins that has no program of its own there."""
EXPANDED = re.compile(r"[$`~*?]|\bPATH=")
"""What a shell puts something else in the place of, or looks elsewhere for."""


def as_it_should_be(cluster: str) -> str:
    """Return the line that a repmgr.conf of the cluster should have."""
    return f'event_notification_command=\'{PROGRAM} event --cluster {cluster} %n %e %s "%p" "%t"\''


def look(
    loaded: Config,
    managed: ManagedCluster,
    files: Iterable[Path],
    repmgrd: User,
    known: Mapping[int, Identity],
    heard: Iterable[HostRow] = (),
) -> Iterator[Finding]:
    """Look at the files of a cluster's nodes, as repmgr knows them; files of other nodes are left alone.

    ``heard``: what database hosts have handed over; where they report a node, no file of it need be here.
    """
    reported = {row.node: row for row in heard}
    files, found = list(files), set[int]()
    for conf in readable(files):
        if (number := node_of(conf, managed.cluster.nodes, known)) is not None:
            found.add(number)
            yield access(conf, repmgrd)
            yield from of_file(conf, loaded, managed)
    for number, node in managed.cluster.nodes.items():
        topic = Topic("repmgr.conf", f"{managed.cluster.name} node {number}")
        if number not in found and number in reported:
            yield topic.ok(f"is on the node's own host, which reports: {reported[number]}")
        elif number not in found and not node.witness and not any(unreadable(files)):
            what = f"no repmgr.conf of node {number} was found on this host"
            yield topic.warn(what, "check it on the node's own host")


def unreadable(files: Iterable[Path]) -> Iterator[Finding]:
    """Say which files cannot be read, and so not be known to be about which node."""
    for file in files:
        try:
            read(file)
        except PermissionError as error:
            yield unseen(Topic("repmgr.conf", str(file)), error)
        except (OSError, ValueError) as error:
            yield Topic("repmgr.conf", str(file)).fail(f"repmgr cannot read it: {error}", f"correct {file}")


def access(conf: RepmgrConf, repmgrd: User) -> Finding:
    """Say who can write the file: repmgrd's user runs what it says, so only that user and root may."""
    topic, status = Topic("repmgr.conf", str(conf.path)), conf.path.stat()
    hint = f"chown root {conf.path}; chmod 0644 {conf.path}"
    if status.st_uid not in (0, repmgrd.uid):
        return topic.fail(f"belongs to another user than root and {repmgrd.name}, who runs what it says", hint)
    if status.st_mode & 0o022:
        return topic.fail(f"can be written by others, and {repmgrd.name} runs what it says", hint)
    if why := hindrance(repmgrd, conf.path, READ):
        return topic.fail(why, hint)
    return topic.ok(f"node {conf.node}, read as {repmgrd.name} will")


def of_file(conf: RepmgrConf, loaded: Config, managed: ManagedCluster) -> Iterator[Finding]:
    """Return what is to be said about the settings of a file."""
    where, daemon = str(conf.path), daemon_of(conf.path)
    reread = f"pkill -HUP -f 'repmgrd.*{(daemon.conf or conf.path).name}'"
    hint = f"{as_it_should_be(managed.cluster.name)}  # then: {reread}"
    unsafe = sorted(set(re.findall(r"%[dac]", conf.line.replace("%%", ""))))
    if unsafe:
        leak = ", and %c shows passwords" if "%c" in unsafe else ""
        what = f"{', '.join(unsafe)} in the line: a shell runs what they hold{leak}"
        yield Topic("repmgr.shell", where).fail(what, hint)
    else:
        yield Topic("repmgr.shell", where).ok("nothing foreign gets into a shell (%d, %a, %c)")
        yield _line(conf, loaded, managed, hint)
    yield _filter(conf, managed, where, reread)
    topic, seconds = Topic("repmgr.timeout", where), conf.seconds("primary_notification_timeout", NOTIFICATION_TIMEOUT)
    what = f"followers wait {seconds} s for the new primary, whose repmgrd calls the hook twice before it tells them"
    hint = f"primary_notification_timeout={NOTIFICATION_TIMEOUT}  # then: {reread}"
    yield topic.warn(what, hint) if seconds < LEAST_TIMEOUT else topic.ok(f"followers wait {seconds} s for the hook")
    yield _interval(Topic("repmgr.interval", where), conf, managed)
    if conf.settings.get("failover") == "automatic":
        yield commands(conf, daemon.environment.get("PATH", ""), reread)


def _interval(topic: Topic, conf: RepmgrConf, managed: ManagedCluster) -> Finding:
    """repmgrd says that it is there once in monitor_interval_secs (default 2, repmgr.h)."""
    every, limit = conf.seconds("monitor_interval_secs", 2), managed.cluster.repmgrd_timeout
    if 3 * every > limit:
        what = f"repmgrd looks every {every} s, and counts as down after {limit} s"
        return topic.warn(what, f"config.yaml: clusters.{managed.cluster.name}.repmgrd_timeout: {3 * every}")
    return topic.ok(f"repmgrd looks every {every} s")


def commands(conf: RepmgrConf, path: str, reread: str) -> Finding:
    """Look at what repmgrd hands to a shell in a failover; its PATH may be another than ours.

    Only some packages of repmgr put it on PATH, and the file that the database's host has may be elsewhere here.
    """
    topic = Topic("repmgr.commands", str(conf.path))
    for name in ("promote_command", "follow_command"):
        line, wrong, right = conf.settings.get(name, ""), "", ""
        try:
            words = words_of(line)
        except ValueError as error:
            return topic.fail(f"a shell cannot read {name}: {error}", f"correct it in {conf.path}")
        if not words:
            continue  # which failover.no_command says of the one that matters
        if words[0] in SHELL_OWN or EXPANDED.search(line):
            continue  # repmgrd's shell alone can tell
        file = re.search(r" (?:-f ?|--config-file[ =])(\S+)", " ".join(words))
        if shutil.which(words[0], path=path) is None:
            wrong = f"{name}: {words[0]} does not exist, or cannot be run"
        elif PurePath(words[0]).name == "repmgr" and file and absent(Path(file[1])):
            wrong = f"{name} names {file[1]}, which does not exist here"
        if wrong and PurePath(words[0]).name == "repmgr":
            right = line.replace(words[0], shutil.which(program()) or program(), 1)
            right = right.replace(file[1], str(conf.path)) if file else right
        if wrong:
            return topic.fail(wrong, f"{name}='{right}'  # then: {reread}" if right else f"correct it in {conf.path}")
    return topic.ok("what repmgrd calls in a failover is there")


def _line(conf: RepmgrConf, loaded: Config, managed: ManagedCluster, hint: str) -> Finding:
    topic = Topic("repmgr.line", str(conf.path))
    if conf.line and " event " not in conf.line:
        what = "does not call 'repmgr-hooks event' itself; 'check --end-to-end' shows if a program of yours does"
        return topic.warn(what, hint)
    wrong = wrong_line(conf, loaded, managed)
    return topic.fail(wrong, hint) if wrong else topic.ok("passes what the hook needs")


def wrong_line(conf: RepmgrConf, loaded: Config, managed: ManagedCluster) -> str:
    """Return what is wrong with the notification line; empty if nothing is.

    It is expanded twice, for ``%p`` is empty for most events, and then disappears if no quotes stand around it.
    """
    if not conf.line:
        return NO_LINE
    for other in ("", "1"):
        said = Placeholders(str(conf.node), "standby_promote", "1", other, details="a b", name="a", conninfo="a=b c=d")
        if wrong := _wrong_words(said, conf, loaded, managed):
            return wrong
    return ""


def _wrong_words(said: Placeholders, conf: RepmgrConf, loaded: Config, managed: ManagedCluster) -> str:
    wrong, cluster = _handed(said, conf)
    if wrong:
        return wrong
    try:
        meant = which_cluster(loaded.clusters, cluster or None, int(said.node))
    except UsageError as error:
        return str(error)
    return "" if meant == managed.cluster.name else f"the line names cluster {meant!r}, the node is of another"


def _handed(said: Placeholders, conf: RepmgrConf) -> tuple[str, str]:
    """Return what is wrong with the words that the hook would be given (empty: nothing), and the cluster in them."""
    try:
        words = words_of(said.expanded(conf.line))
    except ValueError as error:
        return f"a shell cannot read the line: {error}", ""
    if "event" not in words or shutil.which(words[0]) is None:
        return f"{words[0] if words else conf.line} does not exist, or cannot be run", ""
    cluster, handed = option("--cluster", words[words.index("event") + 1 :])
    handed = handed[1:] if handed[:1] == ["--"] else handed
    wanted = [said.node, said.event, said.success, said.other, said.timestamp]
    if (wrong := problem(handed)) or handed != wanted[: len(handed)]:
        unquoted = [word for word in ("%p", "%t") if word in conf.line and f'"{word}"' not in conf.line]
        what = f"no quotes around {' and '.join(unquoted)}" if unquoted else f"wrong placeholders: {wrong or handed}"
        return what, cluster
    return "", cluster


def of_hosts_file(conf: RepmgrConf) -> Iterator[Finding]:
    """Look at the file of a database host, which knows no routes: whether all that the hook needs is passed."""
    topic, hint = Topic("repmgr.line", str(conf.path)), as_it_should_be("NAME")
    unsafe = sorted(set(re.findall(r"%[dac]", conf.line.replace("%%", ""))))
    said = (Placeholders(str(conf.node), "standby_promote", "1", other, details="a b") for other in ("", "1"))
    wrong = f"{', '.join(unsafe)} in the line: a shell runs what they hold" if unsafe else ""
    wrong = wrong or ("" if conf.line else NO_LINE) or next(filter(None, (_handed(each, conf)[0] for each in said)), "")
    yield topic.fail(wrong, hint) if wrong else topic.ok("passes what the hook needs")


def _filter(conf: RepmgrConf, managed: ManagedCluster, where: str, reread: str) -> Finding:
    topic = Topic("repmgr.filter", where)
    hint = f"take the line event_notifications out  # then: {reread}"
    if unknown := sorted(conf.events - set(EVENTS)):
        return topic.fail(f"event_notifications names what repmgr never sends: {', '.join(unknown)}", hint)
    if conf.events and (kept_back := sorted(named(managed) - conf.events)):
        return topic.fail(f"event_notifications filters out events that routes need: {', '.join(kept_back)}", hint)
    return topic.ok("every event that a route names is reported")


def named(managed: ManagedCluster) -> set[str]:
    """Return repmgr's events that the routes name."""
    return {name for route in managed.routes for name in route.on} - {REHEARSAL}


def version(managed: ManagedCluster, host: Host, extension: str) -> Finding:
    """Compare repmgr's version with the events; the program's, or (without its last part) that of the extension."""
    topic = Topic("repmgr.version", managed.cluster.name)
    try:
        said = host.run(Program((program(), "--version")), LIMIT)
    except OperationFailed:
        said = extension
    found = re.search(r"\d+(\.\d+)+", said)
    if not found:
        return topic.warn("cannot determine repmgr's version here", "repmgr --version, where repmgrd runs")
    if foreign := sorted(named(managed) - set(EVENTS)):
        near = did_you_mean(foreign[0], EVENTS) or "correct the name"
        what = f"a route names {foreign[0]}, which no repmgr sends that this version knows"
        return topic.warn(what, f"{near}; or see that this repmgr sends it: repmgr cluster event --all")
    if lacking := sorted(name for name in named(managed) if not sends(found[0], name)):
        since = max(EVENTS[name][1] for name in lacking)
        hint = f"upgrade repmgr (to {since}), or do not rely on them"
        return topic.fail(f"repmgr {found[0]} never sends {', '.join(lacking)}, which a route names", hint)
    return topic.ok(f"repmgr {found[0]} sends every event that a route names")


def sends(version: str, name: str) -> bool:
    """True if this version calls the script with this event; of a version without its last part, if any does.

    >>> sends("5.3.2", "repmgrd_upstream_disconnect"), sends("5.3", "repmgrd_upstream_disconnect")
    (False, True)
    """
    _, since, until = EVENTS[name]
    parts = _numbers(version)
    return _numbers(since)[: len(parts)] <= parts and (not until or parts <= _numbers(until)[: len(parts)])


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
