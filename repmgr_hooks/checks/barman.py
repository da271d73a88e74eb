"""Barman: it answers, reaches the primary through our port, uses our slot, and its cron is alive."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from psycopg import Error, conninfo

from repmgr_hooks.barman import archive
from repmgr_hooks.checks.files import secret
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import user_called
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Barman, Cluster
from repmgr_hooks.settings.libpq import addresses
from repmgr_hooks.system.steps import Host, Program

LIMIT = 30.0
CRON_EVERY = 180.0
"""Barman's cron is due once a minute; this much later it is dead."""
ASKS_FILE = (3, 14)
"""It looks with ``file --brief`` whether a backup is encrypted (encryption.py, recognize_encryption)."""
KEEPALIVES = "keepalives_idle=10 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=20000"


def passwords(cluster: Cluster) -> Iterator[Finding]:
    """Barman's own password file, if Barman runs on this machine under a name that we know."""
    settings = cluster.barman
    user = user_called("barman") if settings and "ssh" not in map(_name, settings.command) else None
    place = Path(user.home, ".pgpass") if user else Path()
    if user and place.exists():
        yield secret("barman.passfile", place, user)


def _name(word: str) -> str:
    return PurePath(word).name


def look(
    cluster: Cluster, settings: Barman, host: Host, decision: PrimaryDecision | None, by_model: bool
) -> Iterator[Finding]:
    """Look at Barman's server; where it leads only if it is known where it should.

    ``by_model``: its models lead it to the nodes themselves, and no port of ours does.
    """
    topic = Topic("barman.answer", settings.server)
    try:
        said = archive.shown(settings, host)
    except OperationFailed as error:
        yield topic.fail(str(error), f"{' '.join(settings.command)} show-server {settings.server}")
        return
    yield topic.ok("Barman runs, and knows the server")
    place = Topic("barman.conninfo", settings.server)
    if wrong := _elsewhere(cluster, said, by_model):
        port = next(iter(cluster.gateway.ports.values()))
        right = "the node's address" if by_model else f"host={cluster.gateway.address} port={port}"
        yield place.fail(wrong, f"in Barman's file: {right} in both")
    else:
        way = "leads to a node by its model" if by_model else f"goes through {cluster.gateway.address}"
        yield place.ok(f"{way}, both conninfo and streaming_conninfo")
        if decision and decision.primary is not None:
            yield _reaches(Topic("barman.primary", settings.server), said, decision, settings)
    yield _keepalives(Topic("barman.keepalives", settings.server), said)
    yield _slot(Topic("barman.slot", settings.server), said, settings)
    yield _locks(Topic("barman.locks", settings.server), settings, host)
    yield _cron(Topic("barman.cron", settings.server), said, settings, host)
    yield _backups(Topic("barman.backup", settings.server), settings, host)


def _elsewhere(cluster: Cluster, said: Mapping[str, str], by_model: bool) -> str:
    """Return which of Barman's ways does not go where it should; empty if both do."""
    ours = {(cluster.gateway.address, str(port)) for port in cluster.gateway.ports.values()}
    if by_model:
        ours = {(node.host, str(cluster.postgres.port)) for node in cluster.nodes.values()}
    where = "not to a node" if by_model else "not through the gateway's port"
    for name in ("conninfo", "streaming_conninfo"):
        parts = _parts(said.get(name, ""))
        host, port = parts.get("hostaddr") or parts.get("host", ""), parts.get("port", "5432")
        if not any((address, port) in ours for address in addresses(host)):
            return f"{name} leads to {host or 'a socket'} port {port}, {where}"
    return ""


def _parts(text: str) -> dict[str, str]:
    try:
        return {name: str(value) for name, value in conninfo.conninfo_to_dict(text).items()}
    except Error:
        return {}


def _reaches(topic: Topic, said: Mapping[str, str], decision: PrimaryDecision, settings: Barman) -> Finding:
    """Compare what Barman saw at the end of its way with what the primary itself says."""
    state, mend = decision.primary_state, f"{' '.join(settings.command)} check {settings.server}; repmgr-hooks status"
    system = state.system_identifier if state else ""
    seen = said.get("postgres_systemid"), said.get("streaming_systemid"), said.get("timeline")
    if None in seen or "None" in seen:
        return topic.fail("Barman cannot connect to PostgreSQL", mend)
    if seen != (system, system, str(decision.timeline)) or said.get("is_in_recovery") == "True":
        return topic.fail(f"Barman does not reach node {decision.primary}, but another PostgreSQL", mend)
    return topic.ok(f"reaches node {decision.primary}, timeline {decision.timeline}")


def _keepalives(topic: Topic, said: Mapping[str, str]) -> Finding:
    parts = _parts(said.get("streaming_conninfo", ""))
    lacking = [name for name in ("connect_timeout", "keepalives_idle", "tcp_user_timeout") if name not in parts]
    if lacking:
        what = f"streaming_conninfo lacks {', '.join(lacking)}: it hangs when the primary's cable is pulled"
        return topic.warn(what, f"in Barman's file, to streaming_conninfo: connect_timeout=5 {KEEPALIVES}")
    return topic.ok("streaming_conninfo has keepalives and time-outs")


def _slot(topic: Topic, said: Mapping[str, str], settings: Barman) -> Finding:
    if said.get("slot_name") != settings.slot_name:
        what = f"Barman's slot_name is {said.get('slot_name')}, the configuration's is {settings.slot_name}"
        return topic.fail(what, f"in Barman's file: slot_name = {settings.slot_name}")
    if said.get("create_slot") == "auto":
        what = "create_slot = auto: a slot that Barman makes itself holds no WAL at first"
        return topic.warn(what, "in Barman's file: create_slot = manual")
    return topic.ok(f"streams through the slot {settings.slot_name}, which we create")


def _locks(topic: Topic, settings: Barman, host: Host) -> Finding:
    """Without its lock, a running receive-wal is seen by nobody, and cannot be stopped."""
    try:
        version, _ = archive.version(settings, host)
        files = settings.beside("grep", "-rhsiE", r"^\s*lock_directory_cleanup", "/etc/barman.conf", "/etc/barman.d")
        text = host.run(Program(files, tolerate=".*"), LIMIT) if version >= archive.CLEANS_UP_LOCKS else ""
    except OperationFailed as error:
        return topic.warn(f"Barman's version cannot be seen: {error}", f"{' '.join(settings.command)} --version")
    if version >= archive.CLEANS_UP_LOCKS and not re.search(r"=\s*(false|off|no|0)\b", text, re.IGNORECASE):
        what = f"Barman {version[0]}.{version[1]} removes the lock of its own receive-wal"
        return topic.warn(what, "in barman.conf, [barman]: lock_directory_cleanup = false")
    return topic.ok("receive-wal keeps its lock file")


def _backups(topic: Topic, settings: Barman, host: Host) -> Finding:
    """Whether a backup can be made, and ends.

    At the beginning of a file PostgreSQL 17's pg_walfile_name names that file, and no longer the one before; Barman
    before 3.20 then waits for one that an idle primary does not close (postgres.py:745 of 3.20.1).
    """
    barman = " ".join(settings.command)
    try:
        version, _ = archive.version(settings, host)
        listed = host.run(Program((*settings.command, "list-backup", settings.server)), LIMIT)
    except OperationFailed as error:
        return topic.warn(f"its backups cannot be seen: {error}", f"{barman} list-backup {settings.server}")
    try:
        if version >= ASKS_FILE:
            host.run(Program(settings.beside("file", "--version"), whole=False), LIMIT)
    except OperationFailed as error:
        what = f"Barman {version[0]}.{version[1]} makes no backup without the program 'file': {error}"
        return topic.fail(what, "apt install file (or dnf install file), where Barman runs")
    if waiting := re.findall(r"(\d{8}T\d{6})\b.*\bWAITING_FOR_WALS", listed):
        what = f"backup {waiting[0]} is not complete: Barman has not got all the WAL that it wants"
        return topic.warn(what, f"{barman} switch-wal --force --archive {settings.server}")
    return topic.ok("no backup waits for WAL")


def _cron(topic: Topic, said: Mapping[str, str], settings: Barman, host: Host) -> Finding:
    """Each run of cron writes its process id into the server's lock file (lockfile.py), or makes and removes it."""
    mend = "start cron (systemctl start cron); each minute: * * * * * barman barman -q cron"
    directory = said.get("barman_lock_directory") or _lock_directory(settings, host)
    file = f"{directory}/.{settings.server}-cron.lock"
    try:
        output = host.run(Program(settings.beside("stat", "-c", "%Y", directory, file), tolerate="No such file"), LIMIT)
    except OperationFailed as error:
        return topic.warn(f"it cannot be seen when it ran: {error}", f"ls -l {file}")
    times = [int(line) for line in output.split()]
    # The directory's own time counts only if the lock file is gone.
    ago = time.time() - (times[-1] if times else 0)
    if ago > CRON_EVERY:
        when = f"last ran {ago / 60:.0f} minutes ago" if times else "has never run"
        return topic.fail(f"Barman's cron {when}: no stream is started, no WAL archived", mend)
    return topic.ok(f"Barman's cron ran {max(ago, 0):.0f} s ago")


def _lock_directory(settings: Barman, host: Host) -> str:
    """Return it from Barman's file: Barman 3.19 does not show it any more, and has it as before (config.py:1554)."""
    words = ("grep", "-rhsiE", r"^\s*barman_(home|lock_directory)\b", "/etc/barman.conf", "/etc/barman.d")
    try:
        text = host.run(Program(settings.beside(*words), tolerate=".*"), LIMIT)
    except OperationFailed:
        text = ""
    found = dict(re.findall(r"^\s*(\w+)\s*=\s*(\S+)", text, re.MULTILINE))
    return found.get("barman_lock_directory") or found.get("barman_home") or "/var/lib/barman"
