"""Barman: it answers and reaches the primary, its cron runs, and what it receives becomes a backup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePath

from repmgr_hooks import clock
from repmgr_hooks.background import together
from repmgr_hooks.barman import archive, content
from repmgr_hooks.checks import barman_config
from repmgr_hooks.checks.files import absent, secret
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import user_called
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.wal import size
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Program

LIMIT = 30.0
CRON_EVERY = 180.0
"""Barman's cron is due once a minute; this much later it is dead."""
LEAST_ROOM = 2**28
"""Bytes: 16 WAL files."""
ASKS_FILE = (3, 14)
"""It looks with ``file --brief`` whether a backup is encrypted (encryption.py, recognize_encryption)."""
WAITS = 5.0
"""Minutes; cron archives once a minute."""
WAITING, DONE = "WAITING_FOR_WALS", "DONE"
NOT_DONE = (WAITING, "EMPTY", "STARTED", "FAILED", "SYNCING")
"""The status of a backup (infofile.py, BackupInfo)."""
NOTES = ("-maxdepth", "2", "-name", "*backup.info", "-exec", "grep", "-H", "^status=", "{}", "+")
DIRECTORIES = ("-o", "-type", "d", "-name", "[0-9]*T[0-9]*", "-print")
NOTE = re.compile(r"/(\d{8}T\d{6})([-/])backup\.info:status=(\w+)$", re.MULTILINE)
"""What Barman notes of each backup, and the directories of backups; in meta/ from 3.13.2 on (infofile.py)."""


def passwords(cluster: Cluster) -> Iterator[Finding]:
    """Barman's own password file, if Barman runs on this machine under a name that we know."""
    settings = cluster.barman
    user = user_called("barman") if settings and "ssh" not in map(_name, settings.command) else None
    place = Path(user.home, ".pgpass") if user else Path()
    if user and not absent(place):
        yield secret("barman.passfile", place, user)


def _name(word: str) -> str:
    return PurePath(word).name


def look(
    cluster: Cluster, settings: Barman, host: Host, decision: PrimaryDecision | None, by_model: bool
) -> Iterator[Finding]:
    """Look at Barman's server; at where it leads only if the primary is known.

    ``by_model``: its models lead it to the nodes themselves, and no port of ours does.
    """
    topic = Topic("barman.answer", settings.server)
    try:
        said = archive.shown(settings, host, constant=True)
    except OperationFailed as error:
        yield topic.fail(str(error), f"{' '.join(settings.command)} show-server {settings.server}")
        return
    yield topic.ok("Barman runs, and knows the server")
    yield barman_config.activity(Topic("barman.active", settings.server), cluster.name, said, settings)
    # Each of these starts a program, and some another Python; none waits for another.
    (way,), *others = together(
        lambda: [barman_config.way(Topic("barman.conninfo", settings.server), cluster, said, by_model, settings, host)],
        lambda: [_locks(Topic("barman.locks", settings.server), said, settings, host)],
        lambda: [_cron(Topic("barman.cron", settings.server), said, settings, host)],
        lambda: [_content(Topic("barman.content", settings.server), settings, host)],
        lambda: list(_left_over(settings, said, host)),
        lambda: [_disk(Topic("barman.disk", settings.server), said, settings, host)],
        lambda: [_backups(Topic("barman.backup", settings.server), said, settings, host)],
    )
    yield way
    if way.level != "FAIL" and decision and decision.primary is not None:
        yield _reaches(Topic("barman.primary", settings.server), said, decision, settings)
    yield barman_config.keepalives(Topic("barman.keepalives", settings.server), said)
    yield barman_config.slot(Topic("barman.slot", settings.server), said, settings)
    for found in others:
        yield from found


def _reaches(topic: Topic, said: Mapping[str, str], decision: PrimaryDecision, settings: Barman) -> Finding:
    """Compare what Barman saw at the end of its way with what the primary itself says.

    If WAL has ways of its own, that was where backups come from, and may be a standby, which may lag behind.
    """
    state, hint = decision.primary_state, f"{' '.join(settings.command)} check {settings.server}; repmgr-hooks status"
    system = state.system_identifier if state else ""
    seen = said.get("postgres_systemid"), said.get("streaming_systemid"), said.get("timeline")
    if None in seen or "None" in seen:
        return topic.fail("Barman cannot connect to PostgreSQL", hint)
    if "wal_streaming_conninfo" in barman_config.ways(said) and seen[:2] == (system, system):
        return topic.ok("what Barman backs up is of this cluster; WAL comes on another way")
    if seen != (system, system, str(decision.timeline)) or said.get("is_in_recovery") == "True":
        return topic.fail(f"Barman does not reach node {decision.primary}, but another PostgreSQL", hint)
    return topic.ok(f"reaches node {decision.primary}, timeline {decision.timeline}")


def _locks(topic: Topic, said: Mapping[str, str], settings: Barman, host: Host) -> Finding:
    """Without its lock, a running receive-wal is seen by nobody, and cannot be stopped.

    Barman 3.10 to 3.18 shows the setting with a server, newer ones do not.
    """
    cleanup = "false"
    if archive.at_least(said) >= archive.CLEANS_UP_LOCKS:
        name = "lock_directory_cleanup"
        try:
            cleanup = said.get(name) or _global(settings, host).get(name, "true")
        except OperationFailed as error:
            return topic.warn(f"cannot determine Barman's settings: {error}", f"{' '.join(settings.command)} diagnose")
    if cleanup.lower() not in ("false", "off", "no", "0"):
        what = "Barman 3.10 and newer removes the lock of its own receive-wal"
        return topic.warn(what, "in barman.conf, [barman]: lock_directory_cleanup = false")
    return topic.ok("receive-wal keeps its lock file")


def _backups(topic: Topic, said: Mapping[str, str], settings: Barman, host: Host) -> Finding:
    """Whether there is a backup, and a further one can be made, and ends.

    At the beginning of a file PostgreSQL 17's pg_walfile_name names that file, and no longer the one before; Barman
    before 3.20 then waits for one that an idle primary does not close (postgres.py:745 of 3.20.1).
    """
    barman = " ".join(settings.command)
    try:
        known = backups(said, settings, host)
    except OperationFailed as error:
        return topic.warn(f"cannot list its backups: {error}", f"{barman} list-backup {settings.server}")
    try:
        if archive.at_least(said) >= ASKS_FILE:
            host.run(Program(settings.beside("file", "--version"), whole=False), LIMIT)
    except OperationFailed as error:
        what = f"Barman 3.14 and newer makes no backup without the program 'file': {error}"
        return topic.fail(what, "apt install file (or dnf install file), where Barman runs")
    if waiting := [number for number in sorted(known, reverse=True) if known[number] == WAITING]:
        what = f"backup {waiting[0]} is not complete: Barman still waits for WAL that it needs"
        # Else cron looks whether it is complete, within a minute.
        look = f"{barman} check-backup {settings.server} {waiting[0]}"
        return topic.warn(what, f"{barman} switch-wal --force --archive {settings.server} && {look}")
    if DONE not in known.values():
        what = "Barman has no complete backup: nothing can be restored"
        return topic.warn(what, f"{barman} backup {settings.server}")
    return topic.ok("there is a backup, and none waits for WAL")


def backups(said: Mapping[str, str], settings: Barman, host: Host) -> dict[str, str]:
    """Return the backups and the status of each; of a complete one, in whatever words, DONE. Raises OperationFailed.

    By Barman's notes, for ``list-backup`` is another Python's start; it is asked where a backup has no note that we
    find. That in meta/ counts before that in base/ (infofile.py, get_filename), which may be an old one, or a copy.
    """
    base, home = said.get("basebackups_directory", ""), said.get("backup_directory", "")
    with suppress(OperationFailed):
        places = (base, f"{home}/meta") if base.startswith("/") and home.startswith("/") else ()
        printed = "\n".join(_listed(settings, host, *places, *NOTES, *DIRECTORIES)) if places else ""
        found = sorted(NOTE.findall(printed), key=lambda note: note[1] == "-")
        notes = {number: status for number, _, status in found}
        if places and set(re.findall(r"/(\d{8}T\d{6})$", printed, re.MULTILINE)) <= notes.keys():
            return notes
    listed = host.run(Program((*settings.command, "list-backup", settings.server)), LIMIT)
    found = re.findall(r"\b(\d{8}T\d{6})\b(.*)", listed)
    # A complete one is shown with its size, another with its status (output.py, result_list_backup).
    return {number: next((word for word in NOT_DONE if word in rest), DONE) for number, rest in found}


def _cron(topic: Topic, said: Mapping[str, str], settings: Barman, host: Host) -> Finding:
    """Each run of cron writes its process id into the server's lock file (lockfile.py), or makes and removes it."""
    hint = "start cron (systemctl start cron; Red Hat's unit is crond); each minute: * * * * * barman barman -q cron"
    directory = said.get("barman_lock_directory") or _lock_directory(settings, said, host)
    file = f"{directory}/.{settings.server}-cron.lock"
    try:
        output = host.run(Program(settings.beside("stat", "-c", "%Y", directory, file), tolerate="No such file"), LIMIT)
    except OperationFailed as error:
        return topic.warn(f"cannot tell when cron last ran: {error}", f"ls -l {file}")
    times = [int(line) for line in output.split()]
    # The directory's own time counts only if the lock file is gone.
    ago = clock.wall() - (times[-1] if times else 0)
    if ago < -CRON_EVERY:
        place = (directory, file)[len(times) - 1]
        what = f"when Barman's cron last ran cannot be seen: {place} is from the future"
        return topic.warn(what, f"on both hosts: timedatectl set-ntp true; then where Barman runs: touch {place}")
    if ago > CRON_EVERY:
        when = f"last ran {ago / 60:.0f} minutes ago" if times else "has never run"
        return topic.fail(f"Barman's cron {when}: no stream is started, no WAL archived", hint)
    return topic.ok(f"Barman's cron ran {max(ago, 0):.0f} s ago")


def _lock_directory(settings: Barman, said: Mapping[str, str], host: Host) -> str:
    """Barman 3.19 does not show it with a server any more; without a setting it is barman_home (config.py:1554)."""
    try:
        known = _global(settings, host)
    except OperationFailed:
        known = {}
    home = str(PurePath(said.get("backup_directory", "/var/lib/barman/x")).parent)
    return known.get("barman_lock_directory") or known.get("barman_home") or home


def _global(settings: Barman, host: Host) -> dict[str, str]:
    """Return what Barman says of its section [barman], wherever its file is. Raises OperationFailed.

    There is no shorter way to hear it; what it says of servers may hold passwords, and is dropped here.
    """
    said = host.run(Program((*settings.command, "diagnose"), constant=True), LIMIT)
    try:
        found = json.loads(said[said.index("{") :])["global"]["config"]
        return {str(name): str(value) for name, value in found.items()}
    except (ValueError, KeyError, AttributeError, TypeError):
        raise OperationFailed(f"'{' '.join(settings.command)} diagnose' does not say its settings") from None


def _content(topic: Topic, settings: Barman, host: Host) -> Finding:
    try:
        content.ask("sums", settings, host, names=())
    except OperationFailed as error:
        what = f"what Barman has cannot be compared with the primary's: {error}"
        return topic.warn(what, "where Barman runs: install python3, and let us run it as we run barman")
    return topic.ok("its files can be compared with the primary's")


def _left_over(settings: Barman, said: Mapping[str, str], host: Host) -> Iterator[Finding]:
    """What Barman could not archive, and what nobody archives."""
    topic = Topic("barman.errors", settings.server)
    errors = said.get("errors_directory", "")
    queues = [said[name] for name in ("streaming_wals_directory", "incoming_wals_directory") if name in said]
    old = ("-type", "f", "-regextype", "posix-extended", "-regex", r".*/[0-9A-F]{24}(\..*)?", "-mmin", f"+{WAITS:.0f}")
    try:
        wrong = [PurePath(path).name for path in _listed(settings, host, errors, "-type", "f")]
        late = [PurePath(path).name for path in _listed(settings, host, *queues, *old)]
    except OperationFailed as error:
        yield topic.warn(f"cannot list Barman's queues: {error}", f"ls -l {errors}")
        return
    if serious := sorted(name for name in wrong if ".partial" not in name):
        what = f"Barman has set aside {len(serious)} file(s), such as {serious[0]}: the archive has other content"
        yield topic.fail(what, f"repmgr-hooks check-wal; then look into {errors}")
    elif wrong:
        # The end of an old timeline, archived by two ways: other bytes after the switchpoint.
        yield topic.warn(
            f"Barman has set aside {len(wrong)} partial file(s) of earlier timelines", f"remove them from {errors}"
        )
    else:
        yield topic.ok("no file has been set aside")
    topic = Topic("barman.backlog", settings.server)
    waiting = [name for name in late if not name.endswith(".partial")]
    if len(waiting) > 1:  # Barman keeps the newest back
        what = f"{len(waiting)} files wait for more than {WAITS:.0f} minutes to be archived"
        yield topic.fail(what, f"see barman.log, and: {' '.join(settings.command)} archive-wal {settings.server}")
    else:
        yield topic.ok("what is received is archived")


def _disk(topic: Topic, said: Mapping[str, str], settings: Barman, host: Host) -> Finding:
    """Without room, or the right to write, pg_receivewal and archive-wal end at once; only barman.log says why."""
    names = ("streaming_wals_directory", "wals_directory", "incoming_wals_directory")
    places = [place for name in names if (place := said.get(name, "")).startswith("/")]
    if not places:
        return topic.ok("Barman does not say where its WAL is")
    try:
        closed = _listed(settings, host, *places, "-maxdepth", "0", "!", "-writable")
        df = Program(settings.beside("df", "--output=avail,target", "-B1", *places), tolerate="No such file")
        rows = [line.split(maxsplit=1) for line in host.run(df, LIMIT).splitlines()[1:]]
        room = {target: int(avail) for avail, target in rows}
    except (OperationFailed, ValueError) as error:
        return topic.warn(f"cannot tell whether Barman has room: {error}", f"df -h {places[0]}")
    if closed:
        way = f"chown barman: {' '.join(closed)}; if it is mounted read-only, findmnt -T {closed[0]}"
        return topic.fail(f"Barman cannot write into {' and '.join(closed)}", way)
    if not room:
        return topic.warn(f"{places[0]} is not there", f"{' '.join(settings.command)} check {settings.server}")
    for target, avail in room.items():
        if avail < LEAST_ROOM:
            what = f"{size(avail)} of room are left on {target}, where Barman's WAL is"
            old = f"{' '.join(settings.command)} list-backup {settings.server}"
            return topic.fail(what, f"make room there: df -h {target}; of old backups: {old}")
    return topic.ok("Barman may write its WAL, and has room")


def _listed(settings: Barman, host: Host, *words: str) -> list[str]:
    find = Program(settings.beside("find", "-L", *words), tolerate="No such file or directory")
    return host.run(find, LIMIT).splitlines()
