"""Would `repmgr standby clone` work through pg-backup-api? Asked from the node that would be cloned, as repmgr asks.

repmgr 5.4 and newer asks the service to have Barman restore a backup to the node, and every 3 s how far that is, until
it says DONE or FAILED (pgbackupapi.c; repmgr-action-standby.c, run_pg_backupapi). Nothing else ends it: with a service
that is gone, or that has no word of a restore's end, it waits without end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.shell import Shell
from repmgr_hooks.system.steps import Host, Program
from repmgr_hooks.text import one_line

SINCE = (5, 4)
PORT = 7480
NEEDED = ("pg_backupapi_node_name", "pg_backupapi_remote_ssh_command", "pg_backupapi_backup_id")
MOST_CHARACTERS = 23
"""Of the host's and the server's name together: repmgr 5.4 and 5.5 writes ``http://HOST:7480/servers/SERVER/operations/ID``
into 72 bytes without a look at its length, and is aborted (pgbackupapi.c, define_base_url, get_status_of_operation)."""

FAILED_ONE = "last-failed"
SHORT_CUTS = ("latest", "last", "oldest", "first", FAILED_ONE)
"""pg-backup-api 1.3.0 and newer knows these (utils.py, parse_backup_id), older ones and repmgr's manual none."""

LIMIT = 20
MOST_BYTES = 65536
ASK = f'exec 3<>"/dev/tcp/$0/{PORT}" && printf %s "$1" >&3 && head -c {MOST_BYTES} <&3'
"""bash alone: repmgr brings libcurl to a node, but not curl. No proxy of the environment's is asked."""

PLAIN_SSH = re.compile(
    r"(/usr/bin/)?ssh( -[46CTaqx]+| -[ilp] ?[\w./~][\w./~-]*"
    r"| -o ?(BatchMode|ConnectTimeout|IdentitiesOnly|IdentityFile|Port|User)=[\w./~-]+)*"
    r" [\w.][\w.-]*(@[\w.:][\w.:-]*)?",
    re.ASCII,
)
"""What we run of what a node's file says: no program of the node's choice, and nothing that adds to known_hosts."""


@dataclass(frozen=True)
class Answer:
    """What the service answered; ``code`` is 0 if it did not, and then ``text`` says why."""

    code: int
    text: str

    @property
    def value(self) -> object:
        """The body; None if it is no JSON."""
        try:
            return json.loads(self.text)
        except (ValueError, RecursionError):
            return None

    def __str__(self) -> str:
        value = self.value
        said = value.get("error") if isinstance(value, dict) else None
        return f"{self.code}: {said or ' '.join(self.text.split())[:200] or 'nothing'}" if self.code else self.text


def finding(shell: Shell, barman: Barman, settings: Mapping[str, str], version: str, topic: Topic) -> Finding:
    """Do what a clone does, up to the restore itself. ``version``: what repmgr says of itself there."""
    if wrong := _lines(settings, version, topic):
        return wrong
    if wrong := _service(shell, barman, settings, topic) or _ssh(shell, barman, settings, topic):
        return wrong
    server, backup = settings["pg_backupapi_node_name"], settings["pg_backupapi_backup_id"]
    return topic.ok(
        f"pg-backup-api at {settings['pg_backupapi_host']} takes backup {backup} of {server}, and Barman gets to the "
        "node by ssh; set a time limit for a clone: repmgr waits without end for a service that is gone"
    )


def _lines(settings: Mapping[str, str], version: str, topic: Topic) -> Finding | None:
    """Return what is wrong with the lines themselves."""
    numbers = re.search(r"repmgr (\d+)\.(\d+)", version)
    if numbers is None:
        return topic.warn(
            f"the version of its repmgr is unknown: {one_line(version)}", "set pg_bindir in its repmgr.conf"
        )
    if (int(numbers[1]), int(numbers[2])) < SINCE:
        what = f"{numbers[0]} ignores pg_backupapi_host: it would not clone from Barman"
        return topic.fail(what, "repmgr 5.4 knows it; until then set barman_host and barman_server")
    if missing := [name for name in NEEDED if not settings.get(name)]:
        return topic.fail(f"repmgr.conf has pg_backupapi_host, but no {', '.join(missing)}", "set them")
    host, server, backup = settings["pg_backupapi_host"], settings[NEEDED[0]], settings[NEEDED[2]]
    if not (re.fullmatch(r"[\w.-]+|\[[\w.:%]+\]", host, re.ASCII) and re.fullmatch(r"[\w.-]+", server, re.ASCII)):
        hint = "a name or an address, without http:// and port (an IPv6 one in brackets); and Barman's server"
        return topic.fail(f"pg_backupapi_host or pg_backupapi_node_name is not a name: {host}, {server}", hint)
    if len(host + server) > MOST_CHARACTERS:
        what = f"pg_backupapi_host and pg_backupapi_node_name have {len(host + server)} characters"
        return topic.fail(
            f"{what}; with more than {MOST_CHARACTERS} repmgr crashes in the middle of a clone",
            "name the host by its address, or give it a shorter name in /etc/hosts",
        )
    if backup == FAILED_ONE:
        return topic.fail(f"pg_backupapi_backup_id is {backup}: such a backup cannot be restored", "name a good one")
    return None


def _service(shell: Shell, barman: Barman, settings: Mapping[str, str], topic: Topic) -> Finding | None:
    """Return what the service has against a clone. It looks for the backup before it misses what we leave out."""
    host, server, backup = settings["pg_backupapi_host"], settings[NEEDED[0]], settings[NEEDED[2]]
    alive = _ask(shell, host, "GET /status")
    if alive.code != 200 or alive.value != "OK":
        hint = "start it where Barman is; it listens on 127.0.0.1 unless a proxy leads there, and knows no passwords"
        return topic.fail(f"pg-backup-api does not answer at {host}:{PORT}: {alive}", hint)
    asked = {"operation_type": "recovery", "backup_id": backup}
    answer = _ask(shell, host, f"POST /servers/{server}/operations", json.dumps(asked))
    if answer.code == 400 and "all options/arguments" in answer.text:
        return None
    short_cut = " (pg-backup-api has short cuts from 1.3.0 on)" if answer.code == 404 and backup in SHORT_CUTS else ""
    what = f"pg-backup-api would not restore backup {backup} of {server}: {answer}{short_cut}"
    newest = _newest(barman, shell.host) if server == barman.server else ""
    line = f"in its repmgr.conf: pg_backupapi_backup_id='{newest}'"
    return topic.fail(what, line if newest else "name a backup that barman list-backup shows there")


def _newest(barman: Barman, host: Host) -> str:
    """Return the newest backup of our server; nothing if Barman does not say."""
    try:
        said = host.run(Program((*barman.command, "list-backup", "--minimal", barman.server)), LIMIT)
    except OperationFailed:
        return ""
    return next(iter(re.findall(r"^\d{8}T\d{6}$", said, re.MULTILINE)), "")


def _ask(shell: Shell, host: str, what: str, body: str = "") -> Answer:
    """Ask by HTTP from the node. Raises OperationFailed if the node cannot be reached."""
    header = f"Host: {host}:{PORT}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    words = ("timeout", str(LIMIT), "bash", "-c", ASK, host.strip("[]"), f"{what} HTTP/1.0\r\n{header}\r\n\r\n{body}")
    ran = shell.run(" ".join(map(quote, words)))
    found = re.match(r"HTTP/\d\.\d (\d{3})\b(?:.*?\r?\n\r?\n|.*)(.*)", ran.said, re.DOTALL)
    if ran.code or not found:
        return Answer(0, ran.why if ran.code else f"what answers speaks no HTTP: {ran.said[:100]}")
    return Answer(int(found[1]), found[2])


def _ssh(shell: Shell, barman: Barman, settings: Mapping[str, str], topic: Topic) -> Finding | None:
    """Return why Barman would not restore to this very node; Barman hands the command to a shell (fs.py)."""
    command = settings["pg_backupapi_remote_ssh_command"]
    here = shell.run("rsync --version >/dev/null && cat postmaster.pid")
    if here.code:
        return topic.fail(f"Barman restores with rsync, which the node lacks: {here.why}", "install rsync there")
    if not (PLAIN_SSH.fullmatch(command) and re.fullmatch(r"[\w./-]+", shell.directory)):
        what = f"pg_backupapi_remote_ssh_command is more than ssh to a host, and was not tried: {command}"
        return topic.warn(what, "try it as Barman's user")
    cat = Program(barman.beside(*command.split(), "cat", f"{shell.directory}/postmaster.pid"))
    try:
        there = shell.host.run(cat, LIMIT)
    except OperationFailed as error:
        what = f"Barman does not get at the node's files by '{command}': {error}"
        return topic.fail(what, "let Barman's user in there as PostgreSQL's user: keys, known_hosts")
    if there.split() != here.said.split():
        what = f"'{command}' leads to another node: its postmaster.pid is not this one's"
        return topic.fail(what, "set pg_backupapi_remote_ssh_command so that it leads Barman to this node")
    return None
