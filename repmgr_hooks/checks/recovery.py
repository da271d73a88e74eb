"""Can each standby get WAL from Barman? Tested, on request, by running its restore_command.

restore_command is a line for a shell, which PostgreSQL runs with ``system()`` in its data directory (xlogarchive.c,
RestoreArchivedFile). Only running it proves it: so it is run, just so, by a shell of the standby and by PostgreSQL's
user there, through ``nodes.N.shell``. It is the one line that is not ours to take apart. What it brings goes to a
directory of its own, never near ``pg_wal``, and is removed.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from shlex import quote

from repmgr_hooks.barman import archive
from repmgr_hooks.checks import clone
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.cluster.observe import observe
from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.repmgr_conf import settings_in
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.shell import Shell
from repmgr_hooks.system.steps import Host, Sql

KEY = "recovery.wal"
FATAL_FROM = 126
"""PostgreSQL ends recovery, and itself, after an exit code over 125 (xlogarchive.c, wait_result_is_any_signal)."""

PARTIAL = re.compile(r"(get-wal|wal-restore).*\s(-P|--partial)\b")

SETTINGS = """
select current_setting('restore_command'), current_setting('data_directory'),
       (select setting::bigint from pg_settings where name = 'wal_segment_size'),
       (select redo_wal_file from pg_control_checkpoint()),
       (select config_file from repmgr.nodes where node_id = %s)
"""


@dataclass(frozen=True)
class Restore:
    """What a standby says: its restore_command, the size of a WAL file in bytes, and the oldest that it still needs."""

    command: str
    segment_size: int
    oldest_needed: str

    def line(self, name: str, path: str) -> str:
        """Return what PostgreSQL would run to have a file put at a path.

        >>> Restore("fetch -k %r %f '%p' 100%%", 16777216, "0A").line("0B", "/tmp/x")
        "fetch -k 0A 0B '/tmp/x' 100%"
        """
        values = {"f": name, "p": path, "r": self.oldest_needed, "%": "%"}
        return re.sub(r"%([fpr%])", lambda found: values[found[1]], self.command)


def history(cluster: Cluster, standbys: Sequence[int], host: Host) -> Iterator[Finding]:
    """Say which standby may use the number of a timeline again, without asking its restore_command.

    A promoted node takes the number after the highest that it knows of (timeline.c, findNewestTimeLine): of the
    timelines that it never followed it hears through restore_command alone. Then two branches have the same names.
    """
    asked = [Sql(node, "select current_setting('restore_command')") for node in standbys]
    for node, answer in sorted(host.fetch_each(asked, cluster.postgres.timeout).items()):
        topic = Topic("recovery.history", f"{cluster.name} node {node}")
        if isinstance(answer, OperationFailed):
            yield topic.warn(f"its restore_command cannot be read: {answer}", "")
        elif not answer[0][0]:
            what = "no restore_command: once promoted, it may reuse the number of a timeline that it never followed"
            yield topic.warn(what, "set one that fetches history files (barman-wal-restore), also in its repmgr.conf")
        else:
            yield topic.ok("its restore_command tells it which timelines there were; 'check --restore' tries it")


def findings(cluster: Cluster, host: Host) -> Iterator[Finding]:
    """Look at every standby of a cluster; what is wrong with one is no reason not to look at the next."""
    if cluster.barman is None:
        yield Topic(KEY, cluster.name).warn("no section 'barman': nothing was tested", "")
        return
    try:
        files = archive.look_at_archive(cluster.barman, host).files
    except OperationFailed as error:
        yield Topic(KEY, cluster.name).fail(str(error), "")
        return
    standbys = [state for state in observe(cluster, host) if not (state.witness or state.is_primary)]
    if not standbys:
        yield Topic(KEY, cluster.name).warn("there is no standby: nothing was tested", "")
    for state in standbys:
        name = f"{cluster.name} node {state.node}"
        try:
            yield from _standby(cluster, cluster.barman, state.node, name, files, host)
        except OperationFailed as error:
            said = str(error).removeprefix(f"node {state.node}: ")
            yield Topic(KEY, name).fail(said, "nothing more was tested on it")


def _standby(
    cluster: Cluster, barman: Barman, node: int, name: str, files: Collection[str], host: Host
) -> Iterator[Finding]:
    with answer_of(node):
        ((command, directory, segment_size, oldest_needed, config_file),) = host.fetch(
            Sql(node, SETTINGS, (node,)), archive.LIMIT
        )
    if not command:
        hint = "set restore_command, also in its repmgr.conf; without it, it must be cloned anew"
        yield Topic(KEY, name).fail("no restore_command: WAL that the primary no longer has is lost to it", hint)
    if not cluster.nodes[node].shell:
        hint = f"give nodes.{node} a 'shell' that runs as PostgreSQL's user there: [ssh, -o, BatchMode=yes, ...]"
        yield Topic(KEY, name).warn("nothing was tried on it", hint)
        return
    shell = Shell(cluster.nodes[node].shell, directory, host)
    read = shell.run(f"cat {quote(config_file)}") if config_file else None
    if read is None or read.code != 0:
        said = f"its repmgr.conf cannot be read: {read.said}" if read else "it is not in repmgr.nodes"
        yield Topic(KEY, name).fail(said, "register it from the host of its repmgr.conf")
        return
    settings = settings_in(read.said)
    if wrong := clone.login(shell, settings, name):
        yield wrong
        return
    if command:
        yield from proofs(shell, Restore(command, segment_size, oldest_needed), files, name)
        if (wanted := settings.get("restore_command", "")) != command:
            hint = f"a clone would set {wanted!r}" if wanted else "a clone would leave it without one"
            yield Topic(KEY, name).warn("restore_command is not the one in its repmgr.conf", hint)
    yield from clone.findings(shell, barman, settings, name)


def proofs(shell: Shell, restore: Restore, files: Collection[str], name: str) -> Iterator[Finding]:
    """Have the newest WAL file, the newest history file, and one that cannot be; end at the first that goes wrong."""
    wal, history = _newest(files, r"[0-9A-F]{24}"), _newest(files, r"[0-9A-F]{8}\.history")
    if not wal:
        yield Topic(KEY, name).fail(
            "Barman has no WAL file yet that could be restored", "see barman.log and: repmgr-hooks status"
        )
        return
    if PARTIAL.search(restore.command):
        why = "restore_command asks Barman for partial files: it may replay WAL that no primary goes on from"
        yield Topic(KEY, name).warn(why, "-P is for a recovery to a point in time; leave it out for a standby")
    for file in filter(None, (wal, history)):
        ran = shell.run(restore.line(file, shell.file))
        if ran.code or (ran.size != restore.segment_size if file == wal else ran.size <= 0):
            short = f"brings {max(ran.size, 0)} bytes of {file}; a WAL file has {restore.segment_size}"
            why = short if not ran.code else f"does not fetch {file}, which Barman has: {ran.why}"
            yield Topic(KEY, name).fail(f"restore_command {why}", _meaning(ran.code) or "try it there by hand")
            return
        yield Topic(KEY, name).ok(f"restore_command fetches {file}, {ran.size} bytes")
    ran = shell.run(restore.line(f"{wal[:8]}FFFFFFFF00000000", shell.file))
    good, what = 0 < ran.code < FATAL_FROM, "restore_command, asked for a file that does not exist, gives"
    hint = _meaning(ran.code) or ("" if good else "PostgreSQL takes 0 for success; make it return 1")
    said = f"{what} {ran.code if good else ran.why}"
    yield Topic(KEY, name).ok(said) if good else Topic(KEY, name).fail(said, hint)


def _newest(files: Collection[str], pattern: str) -> str:
    return max((file for file in files if re.fullmatch(pattern, file)), default="")


def _meaning(code: int) -> str:
    return "PostgreSQL shuts down after a code over 125" if code >= FATAL_FROM else ""
