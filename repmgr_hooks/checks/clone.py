"""Would `repmgr standby clone` find in Barman what it needs? Asked from the node that would be cloned.

What repmgr runs there: ``ssh HOST barman show-backup|show-server|list-files``, then rsync, whose exit code it does not
look at (repmgr-action-standby.c, check_barman_config and run_file_backup). It takes the first file of the list for
``base/ID/backup.info``, fetches that, reads tablespaces and version from it, and copies all files but the first. Barman
3.13.2 and newer has it as ``meta/ID-backup.info`` (infofile.py, get_filename), so the first is one of PostgreSQL's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from shlex import join, quote

from repmgr_hooks.checks import clone_api
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.shell import TOO_LATE, Shell

KEY = "recovery.clone"
SSH = "ssh -o BatchMode=yes"
WAITING = "WAITING_FOR_WALS"
FIRST_FILE_AND_PG_CONTROL = r"sed -n '1p; 1!{\#/data/global/pg_control$#p}'"


def login(shell: Shell, settings: Mapping[str, str], node: str) -> Finding | None:
    """Return what is wrong with the way to Barman's host. A key that may not run ``true`` has been let in too."""
    if not (host := settings.get("barman_host")):
        return None
    ran = shell.run(f"{SSH} -- {quote(host)} true")
    if ran.code < TOO_LATE:  # more: no ssh, or (255) no connection
        return None
    what = f"ssh to {host} in batch mode fails: {ran.why}"
    return Topic(KEY, node).fail(what, "try it there as PostgreSQL's user: keys, known_hosts; nothing else was tested")


def findings(shell: Shell, barman: Barman, settings: Mapping[str, str], node: str) -> Iterator[Finding]:
    """Do what a clone does, up to the first files: barman_host goes first (repmgr-client.c, get_standby_clone_mode)."""
    host, server, api = (settings.get(name) for name in ("barman_host", "barman_server", "pg_backupapi_host"))
    topic = Topic(KEY, node)
    if host and api:
        yield topic.warn("repmgr.conf has barman_host: repmgr does not use pg_backupapi_host", "take one of them out")
    if host and server:
        yield _clone(shell, host, server, settings, node)
    elif api and not host:
        repmgr = shell.run(f"{quote(settings.get('pg_bindir', '/usr/bin'))}/repmgr --version || repmgr --version")
        yield clone_api.finding(shell, barman, settings, repmgr.said, topic)
    elif host or server:
        missing = "barman_server" if host else "barman_host"
        yield topic.fail(f"repmgr.conf has no {missing}", "repmgr needs both to clone from Barman")
    else:
        yield topic.ok("repmgr would not clone it from Barman: no barman_host in its repmgr.conf")


def _clone(shell: Shell, host: str, server: str, settings: Mapping[str, str], node: str) -> Finding:
    config = [f"--config={settings['barman_config']}"] if settings.get("barman_config") else []

    def barman(*words: str) -> str:
        return f"{SSH} -- {quote(host)} {quote(join(['barman', *config, *words]))}"

    shown = shell.run(barman("-f", "json", "show-backup", server, "latest"))
    backup = _backup(shown.said, server) if shown.code == 0 else {}
    if backup.get("status") != "DONE":
        why = f"its newest is {backup['status']}" if "status" in backup else shown.why
        waits = backup.get("status") == WAITING
        switch = f"barman switch-wal --force --archive {server} && barman check-backup {server} latest" if waits else ""
        return Topic(KEY, node).fail(f"a clone finds no backup of {server}: {why}", switch or f"barman backup {server}")
    number = backup["backup_id"]
    listed = shell.run(f"{barman('list-files', '--target=data', server, 'latest')} | {FIRST_FILE_AND_PG_CONTROL}")
    if wrong := _listed(listed.said.splitlines(), number, Topic(KEY, node), f"barman backup {server}"):
        return wrong
    for file in listed.said.splitlines():
        copied = shell.run(f"rsync -a -e {quote(SSH)} {quote(f'{host}:{file}')} {shell.file}")
        if copied.code != 0 or copied.size <= 0:
            what = f"rsync does not fetch {file}: {copied.why}"
            mend = "install rsync here and on Barman's host; repmgr does not look whether it worked"
            return Topic(KEY, node).fail(what, mend)
    return Topic(KEY, node).ok(f"a clone would find backup {number} of {server}, and rsync fetches it")


def _listed(files: Sequence[str], number: str, topic: Topic, backup: str) -> Finding | None:
    """Return what repmgr would stumble over in the list of a backup's files."""
    home, found, _ = files[0].partition(f"/{number}/") if files else ("", "", "")
    if not found:
        return topic.fail(f"Barman lists no file of backup {number}: {' '.join(files)[-200:] or 'nothing'}", backup)
    if files[0] != f"{home}/{number}/backup.info":
        return topic.fail(
            f"a clone wants {home}/{number}/backup.info, which Barman 3.13.2 and newer has elsewhere",
            f"as Barman's user: {_copy(home, number)}; and so that each new backup has it, in Barman's file: "
            f"post_backup_script = {_copy(home, '$BARMAN_BACKUP_ID')}",
        )
    if not files[-1].endswith("/data/global/pg_control"):
        what = f"backup {number} has no file data/global/pg_control; a clone wants plain files"
        return topic.fail(what, "set no backup_compression for this server, and make a new backup")
    return None


def _copy(home: str, number: str) -> str:
    """Return what puts the description of a backup where repmgr looks for it. Of a link, rsync would bring the link."""
    return f"cp {home.removesuffix('/base')}/meta/{number}-backup.info {home}/{number}/backup.info"


def _backup(said: str, server: str) -> dict[str, str]:
    try:
        found = json.JSONDecoder().raw_decode(said[said.find("{") :])[0][server]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}
