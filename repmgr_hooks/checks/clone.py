"""Would `repmgr standby clone` find in Barman what it needs? Asked from the node that would be cloned.

What repmgr runs there: ``ssh HOST barman show-backup|show-server|list-files``, then rsync, whose exit code it does not
look at (repmgr-action-standby.c, check_barman_config and run_file_backup).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from shlex import join, quote

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.shell import TOO_LATE, Shell

KEY = "recovery.clone"
SSH = "ssh -o BatchMode=yes"
BACKUPAPI_SINCE = (5, 4)
BACKUPAPI = ("pg_backupapi_node_name", "pg_backupapi_remote_ssh_command", "pg_backupapi_backup_id")


def login(shell: Shell, settings: Mapping[str, str], node: str) -> Finding | None:
    """Return what is wrong with the way to Barman's host. A key that may not run ``true`` has been let in too."""
    if not (host := settings.get("barman_host")):
        return None
    ran = shell.run(f"{SSH} -- {quote(host)} true")
    if ran.code < TOO_LATE:  # more: no ssh, or (255) no connection
        return None
    what = f"ssh to {host} without being asked anything does not work: {ran.why}"
    return Topic(KEY, node).fail(what, "try it there as PostgreSQL's user: keys, known_hosts; nothing else was proved")


def findings(shell: Shell, settings: Mapping[str, str], node: str) -> Iterator[Finding]:
    """Go the way of a clone as far as the first file."""
    host, server = settings.get("barman_host"), settings.get("barman_server")
    if host and server:
        yield _clone(shell, host, server, settings, node)
    elif host or server:
        missing = "barman_server" if host else "barman_host"
        yield Topic(KEY, node).fail(f"repmgr.conf has no {missing}", "repmgr needs both to clone from Barman")
    elif settings.get("pg_backupapi_host"):
        version = shell.run(f"{quote(settings.get('pg_bindir', '/usr/bin'))}/repmgr --version").said
        yield backupapi(settings, version, node)
    else:
        yield Topic(KEY, node).ok("repmgr would not clone it from Barman: no barman_host in its repmgr.conf")


def _clone(shell: Shell, host: str, server: str, settings: Mapping[str, str], node: str) -> Finding:
    config = [f"--config={settings['barman_config']}"] if settings.get("barman_config") else []

    def barman(*words: str) -> str:
        return f"{SSH} -- {quote(host)} {quote(join(['barman', *config, *words]))}"

    shown = shell.run(barman("-f", "json", "show-backup", server, "latest"))
    backup = _backup(shown.said, server) if shown.code == 0 else {}
    if backup.get("status") != "DONE":
        why = f"its newest is {backup['status']}" if "status" in backup else shown.why
        return Topic(KEY, node).fail(f"a clone finds no backup of {server}: {why}", f"barman backup {server}")
    listed = shell.run(f"{barman('list-files', '--target=data', server, 'latest')} | grep '/data/global/pg_control$'")
    if listed.code != 0:
        what = f"backup {backup['backup_id']} has no file data/global/pg_control; a clone wants plain files"
        return Topic(KEY, node).fail(what, "set no backup_compression for this server, and make a new backup")
    file = listed.said.splitlines()[-1]
    copied = shell.run(f"rsync -a -e {quote(SSH)} {quote(f'{host}:{file}')} {shell.file}")
    if copied.code != 0 or copied.size <= 0:
        what = f"rsync does not bring {file}: {copied.why}"
        return Topic(KEY, node).fail(
            what, "install rsync here and on Barman's host; repmgr does not look whether it worked"
        )
    return Topic(KEY, node).ok(f"a clone would find backup {backup['backup_id']} of {server}, and rsync brings it")


def _backup(said: str, server: str) -> dict[str, str]:
    try:
        found = json.JSONDecoder().raw_decode(said[said.find("{") :])[0][server]
    except (ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def backupapi(settings: Mapping[str, str], version: str, node: str) -> Finding:
    """Say what a repmgr of a version would make of pg_backupapi_host, which nothing but a clone proves."""
    numbers = re.search(r"repmgr (\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < BACKUPAPI_SINCE:
        what = f"{numbers[0]} ignores pg_backupapi_host: it would not clone from Barman"
        return Topic(KEY, node).fail(what, "repmgr 5.4 knows it; until then set barman_host and barman_server")
    if missing := [name for name in BACKUPAPI if not settings.get(name)]:
        return Topic(KEY, node).fail(f"repmgr.conf has pg_backupapi_host, but no {', '.join(missing)}", "set them")
    return Topic(KEY, node).warn(
        "a clone through pg-backup-api was not proved",
        "try one, with a limit of yours: repmgr waits for ever",
    )
