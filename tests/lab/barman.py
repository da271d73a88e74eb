"""What a standby needs to have its backup and its WAL from Barman: ssh, the lines of repmgr.conf, a backup."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab import DATA, PYTHON, Host, Lab, three, versions, wait_for

CONFIG = "/etc/repmgr-hooks/config.yaml"
API = "/usr/local/bin/pg-backup-api"
NEWER = "/usr/local/bin/newer"


def serve_standbys(lab: Lab) -> None:
    """Let the standbys of a lab at Barman, and `check --restore` at the standbys."""
    three.start_ssh(lab)
    for host in lab.databases:
        place = f"/etc/repmgr/{host.name}.conf"
        text = re.sub(r"^# (?=barman_|restore_command)", "", host.path(place).read_text(), flags=re.MULTILINE)
        lab.put(host, place, text)
    text = lab.gateway.path(CONFIG).read_text()
    ssh = r"\1, shell: [ssh, -o, BatchMode=yes, postgres@\2]}"
    lab.put(lab.gateway, CONFIG, re.sub(r"(\d: {host: ([\d.]+))}", ssh, text))


def back_up(lab: Lab, primary: Host, where: Host | None = None) -> None:
    """Make a backup, with all the WAL that it needs; Barman wants to have archived some before.

    ``where``: on which host, if not the gateway. The WAL is not left to ``--wait``: at the beginning of a file
    pg_walfile_name names that one from PostgreSQL 17 on, and no longer the one before; Barman before 3.20 then waits
    for a file that nobody closes.
    """
    barmans = where or lab.gateway
    archive(lab, primary, where)
    barmans.barman("backup", "--immediate-checkpoint", "main_backup")
    archive(lab, primary, where)
    barmans.barman("check-backup", "main_backup", "latest")


def archive(lab: Lab, primary: Host, where: Host | None = None) -> None:
    """Have the WAL that is written by now in Barman's archive; a closed file goes there when the next one begins."""
    closed = primary.sql("select pg_walfile_name(pg_current_wal_insert_lsn()) from txid_current()")
    primary.sql("select pg_switch_wal()")
    primary.sql("select txid_current()")
    wait_for(lambda: archived(where or lab.gateway, closed), f"{closed} in Barman's archive")


def archived(where: Host, name: str) -> bool:
    """True if a file is in Barman's archive, after a try to bring it there."""
    where.barman("archive-wal", "main_backup", check=False)
    return bool(where.run("find", "/var/lib/barman/main_backup/wals", "-name", name))


def show_backups_to_repmgr(lab: Lab) -> None:
    """Let repmgr find what it asks for, base/ID/backup.info; Barman has it as meta/ID-backup.info from 3.13.2 on.

    A symbolic link would not do: repmgr fetches it with ``rsync -a``, which brings the link.
    """
    link = (
        'for file in meta/*-backup.info; do id=${file#meta/}; ln -f "$file" "base/${id%-backup.info}/backup.info"; done'
    )
    if lab.gateway.path("/var/lib/barman/main_backup/meta").exists():
        lab.gateway.run("sh", "-ec", f"cd /var/lib/barman/main_backup; {link}", user="barman")


def clone_from_barman(lab: Lab, host: Host, primary: Host, shown: bool = False) -> str:
    """Make a node anew from Barman's backup, and return what repmgr said.

    ``shown``: repmgr finds already what it asks for.
    """
    repmgr = ("repmgr", "-f", f"/etc/repmgr/{host.name}.conf")
    host.pg_ctl("stop", "-m", "fast")
    host.run("rm", "-r", DATA)
    node = ("-h", primary.address, "-U", "repmgr", "-d", "repmgr")
    if not shown:
        show_backups_to_repmgr(lab)
    result = host.result(*repmgr, *node, "standby", "clone", user="postgres")
    assert result.returncode == 0, result.stderr
    lab.put(host, f"{DATA}/conf.d.conf", lab.config(f"postgresql-{host.name}.conf"), owner="postgres")
    host.pg_ctl("start")
    host.run(*repmgr, "standby", "register", "--force", user="postgres")
    return result.stderr


def clone_by_api(lab: Lab, host: Host) -> None:
    """Let a node be cloned through a service that stands for pg-backup-api, by its lines of ``config/``.

    A repmgr that is too old for it is another one by its own word: what it would do, `check` finds out without it.
    """
    place = f"/etc/repmgr/{host.name}.conf"
    text = re.sub(r"^(?=barman_)", "# ", host.path(place).read_text(), flags=re.MULTILINE)
    text = re.sub(r"^# (?=pg_backupapi_)", "", text, flags=re.MULTILINE)
    backup, *_ = lab.gateway.barman("list-backup", "--minimal", "main_backup").split()
    text = re.sub(r"(?<=^pg_backupapi_backup_id=).*", f"'{backup}'", text, flags=re.MULTILINE)
    if versions.repmgr() < "5.4":
        lab.put(host, f"{NEWER}/repmgr", "#!/bin/sh\necho repmgr 5.5.0\n", 0o755)
        text = re.sub(r"^pg_bindir=.*", f"pg_bindir='{NEWER}'", text, flags=re.MULTILINE)
    lab.put(host, place, text)
    program = (Path(__file__).parent / "backup_api.py").read_text()
    lab.put(lab.gateway, API, f"#!{PYTHON}\n{program}", 0o755)
    start_api(lab)


def start_api(lab: Lab) -> None:
    """Start the service, and wait until it answers."""
    address = lab.gateway.address
    lab.daemons["api"] = lab.gateway.start(API, "serve", address, user="barman", log="api")
    ask = f"exec 3<>/dev/tcp/{address}/7480"
    wait_for(lambda: lab.gateway.result("bash", "-c", ask).returncode == 0, "the service to listen")


def stop_api(lab: Lab) -> None:
    """End the service at once; a restore goes on."""
    lab.daemons["api"].kill()
    lab.daemons["api"].wait(60)
