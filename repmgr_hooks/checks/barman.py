"""Barman: it answers, reaches the primary through our port, uses our slot, and its cron is alive."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from psycopg import Error, conninfo

from repmgr_hooks.barman import archive, content
from repmgr_hooks.checks.files import secret
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import user_called
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Barman, Cluster
from repmgr_hooks.system.steps import Host, Program

LIMIT = 30.0
CRON_EVERY = 180.0
"""Barman's cron is due once a minute; this much later it is dead."""
CLEANS_UP_LOCKS = (3, 10)
WAITS = 5.0
"""Minutes; cron archives once a minute."""
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
    yield _active(Topic("barman.active", settings.server), said, settings)
    way = _way(Topic("barman.conninfo", settings.server), cluster, said, by_model, settings, host)
    yield way
    if way.level != "FAIL" and decision and decision.primary is not None:
        yield _reaches(Topic("barman.primary", settings.server), said, decision, settings)
    yield _keepalives(Topic("barman.keepalives", settings.server), said)
    yield _slot(Topic("barman.slot", settings.server), said, settings)
    yield _locks(Topic("barman.locks", settings.server), settings, host)
    yield _cron(Topic("barman.cron", settings.server), said, settings, host)
    yield _content(Topic("barman.content", settings.server), settings, host)
    yield from _left_over(settings, said, host)


def _active(topic: Topic, said: Mapping[str, str], settings: Barman) -> Finding:
    """What Barman itself says of the server, wherever its files are."""
    for name, wrong, why in (
        ("active", "False", "Barman does nothing for it"),
        ("disabled", "True", "Barman does nothing for it: its settings are wrong"),
        ("passive_node", "True", "it copies from another Barman"),
        ("streaming_archiver", "False", "no WAL is streamed"),
    ):
        if said.get(name) == wrong:
            right = "on" if wrong == "False" else "off"
            mend = f"see: {' '.join(settings.command)} check {settings.server}"
            return topic.fail(
                f"{name} is {wrong}: {why}", mend if name == "disabled" else f"in Barman's file: {name} = {right}"
            )
    ours = settings.streaming_archiver_name
    if (name := said.get("streaming_archiver_name", ours)) != ours:
        what = f"its streaming_archiver_name is {name}, the configuration's is {ours}"
        return topic.fail(what, f"in config.yaml, section 'barman': streaming_archiver_name: {name}")
    return topic.ok("active, and streams WAL")


def _ways(said: Mapping[str, str]) -> dict[str, str]:
    """Return the connection strings that WAL depends on: from 3.10 on WAL may have ways of its own, and the others may
    lead to a standby, for backups (3.10, docs: wal_streaming_conninfo)."""
    streams = said.get("wal_streaming_conninfo", "None")
    asks = said.get("wal_conninfo", "None")
    if streams != "None":
        return {"wal_streaming_conninfo": streams, **({"wal_conninfo": asks} if asks != "None" else {})}
    return {name: said.get(name, "") for name in ("conninfo", "streaming_conninfo")}


def _way(
    topic: Topic, cluster: Cluster, said: Mapping[str, str], by_model: bool, settings: Barman, host: Host
) -> Finding:
    """Say where Barman's ways to WAL lead: names are looked up where Barman runs; a service file is not read."""
    ours = {(cluster.gateway.address, str(port)) for port in cluster.gateway.ports.values()}
    right = f"host={cluster.gateway.address} port={next(iter(cluster.gateway.ports.values()))}"
    where, good = "not through the gateway's port", f"goes through {cluster.gateway.address}"
    if by_model:
        ours = {(node.host, str(cluster.postgres.port)) for node in cluster.nodes.values()}
        right, where, good = "the node's address", "not to a node", "leads to a node by its model"
    ways = _ways(said)
    for name, text in ways.items():
        parts = _parts(text)
        if "service" in parts and not (parts.get("host") or parts.get("hostaddr")):
            what = f"{name} is service={parts['service']}: where that leads is not seen here"
            return topic.warn(what, f"in that service, for each of {', '.join(ways)}: {right}")
        place, port = parts.get("hostaddr") or parts.get("host", ""), parts.get("port", "5432")
        if not {(address, port) for address in (place, *_addresses(place, settings, host))} & ours:
            return topic.fail(
                f"{name} leads to {place or 'a socket'} port {port}, {where}", f"in Barman's file: {right} in both"
            )
    return topic.ok(f"{good}, {' and '.join(ways)}")


def _addresses(name: str, settings: Barman, host: Host) -> set[str]:
    """Return the addresses of a name, where Barman runs; none for what is an address itself, or not known there."""
    if not name or name.startswith("/") or not re.search(r"[g-zG-Z]", name):
        return set()
    try:
        said = host.run(Program(settings.beside("getent", "ahosts", name)), LIMIT)
    except OperationFailed:
        return set()
    return {line.split()[0] for line in said.splitlines() if line.split()}


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
    parts = _parts(_ways(said).get("wal_streaming_conninfo") or said.get("streaming_conninfo", ""))
    if "service" in parts:
        return topic.ok("they stand in a service file, which is not read here")
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
    """From 3.10 on, cron removes the lock file of the receive-wal that it has just started (utils.py:1154-1185)."""
    try:
        version, _ = archive.version(settings, host)
        cleanup = (
            _global(settings, host).get("lock_directory_cleanup", "true") if version >= CLEANS_UP_LOCKS else "false"
        )
    except OperationFailed as error:
        return topic.warn(
            f"Barman's version or settings cannot be seen: {error}", f"{' '.join(settings.command)} --version"
        )
    if cleanup.lower() not in ("false", "off", "no", "0"):
        what = f"Barman {version[0]}.{version[1]} removes the lock of its own receive-wal"
        return topic.warn(what, "in barman.conf, [barman]: lock_directory_cleanup = false")
    return topic.ok("receive-wal keeps its lock file")


def _cron(topic: Topic, said: Mapping[str, str], settings: Barman, host: Host) -> Finding:
    """Each run of cron writes its process id into the server's lock file (lockfile.py), or makes and removes it."""
    mend = "start cron (systemctl start cron); each minute: * * * * * barman barman -q cron"
    directory = said.get("barman_lock_directory") or _lock_directory(settings, said, host)
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
        yield topic.warn(f"Barman's queues cannot be seen: {error}", f"ls -l {errors}")
        return
    if serious := sorted(name for name in wrong if ".partial" not in name):
        what = f"Barman has set aside {len(serious)} file(s), such as {serious[0]}: the archive has other content"
        yield topic.fail(what, f"repmgr-hooks check-wal; then see to {errors}")
    elif wrong:
        # The end of an old timeline, archived by two ways: other bytes after the switchpoint.
        yield topic.warn(
            f"Barman has set aside {len(wrong)} partial file(s) of earlier timelines", f"remove them from {errors}"
        )
    else:
        yield topic.ok("Barman has set aside no file")
    topic = Topic("barman.backlog", settings.server)
    waiting = [name for name in late if not name.endswith(".partial")]
    if len(waiting) > 1:  # Barman keeps the newest back
        what = f"{len(waiting)} files wait for more than {WAITS:.0f} minutes to be archived"
        yield topic.fail(what, f"see barman.log, and: {' '.join(settings.command)} archive-wal {settings.server}")
    else:
        yield topic.ok("what is received is archived")


def _listed(settings: Barman, host: Host, *words: str) -> list[str]:
    find = Program(settings.beside("find", "-L", *words), tolerate="No such file or directory")
    return host.run(find, LIMIT).splitlines()
