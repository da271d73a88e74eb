"""What Barman's own settings of a server say: that it works, where it leads, and through which slot it streams."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from contextlib import suppress

from psycopg import Error, conninfo

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Program

LIMIT = 30.0
KEEPALIVES = "keepalives_idle=10 keepalives_interval=5 keepalives_count=3 tcp_user_timeout=20000"


def activity(topic: Topic, cluster: str, said: Mapping[str, str], settings: Barman) -> Finding:
    """Say whether Barman considers the server active, wherever its files are."""
    for name, wrong, why in (
        ("active", "False", "Barman does nothing for it"),
        ("disabled", "True", "Barman does nothing for it: its settings are wrong"),
        ("passive_node", "True", "it copies from another Barman"),
        ("streaming_archiver", "False", "no WAL is streamed"),
    ):
        if said.get(name) == wrong:
            right = "on" if wrong == "False" else "off"
            hint = f"see: {' '.join(settings.command)} check {settings.server}"
            return topic.fail(
                f"{name} is {wrong}: {why}", hint if name == "disabled" else f"in Barman's file: {name} = {right}"
            )
    ours = settings.streaming_archiver_name
    if (name := said.get("streaming_archiver_name", ours)) != ours:
        what = f"its streaming_archiver_name is {name}, the configuration's is {ours}"
        return topic.fail(what, f"config.yaml: clusters.{cluster}.barman: {{streaming_archiver_name: {name}}}")
    return topic.ok("active, and streams WAL")


def ways(said: Mapping[str, str]) -> dict[str, str]:
    """Return the connection strings that WAL depends on: from 3.10 on WAL may have ways of its own, and the others may
    lead to a standby, for backups (3.10, docs: wal_streaming_conninfo)."""
    streams = said.get("wal_streaming_conninfo", "None")
    asks = said.get("wal_conninfo", "None")
    if streams != "None":
        return {"wal_streaming_conninfo": streams, **({"wal_conninfo": asks} if asks != "None" else {})}
    return {name: said.get(name, "") for name in ("conninfo", "streaming_conninfo")}


def way(
    topic: Topic, cluster: Cluster, said: Mapping[str, str], by_model: bool, settings: Barman, host: Host
) -> Finding:
    """Say where Barman's ways to WAL lead: names are looked up where Barman runs; a service file is not read.

    Behind a port for readers there is neither the primary nor Barman's slot.
    """
    gateway = cluster.gateway
    to_primary = [port for name, port in gateway.ports.items() if name not in cluster.readers]
    ours = {(gateway.address, str(port)) for port in to_primary}
    right = f"host={gateway.address} port={to_primary[0] if to_primary else 'PORT'}"
    where, good = "not through a port of the gateway that is led to the primary", f"goes through {gateway.address}"
    if by_model:
        ours = {(to.host, str(to.port)) for to in map(cluster.endpoint, cluster.nodes)}
        right, where, good = "the node's address", "not to a node", "leads to a node by its model"
    leading = ways(said)
    for name, text in leading.items():
        parts = words_of(text)
        if "service" in parts and not (parts.get("host") or parts.get("hostaddr")):
            what = f"{name} is service={parts['service']}, which is not resolved here"
            return topic.warn(what, f"in that service, for each of {', '.join(leading)}: {right}")
        place, port = parts.get("hostaddr") or parts.get("host", ""), parts.get("port", "5432")
        # Also IPv6 addresses may be written in several ways.
        good_places = {(str(ipaddress.ip_address(address)), number) for address, number in ours}
        if not {(address, port) for address in _addresses(place, settings, host)} & good_places:
            return topic.fail(
                f"{name} leads to {place or 'a socket'} port {port}, {where}", f"in Barman's file: {right} in both"
            )
    return topic.ok(f"{good}, {' and '.join(leading)}")


def _addresses(name: str, settings: Barman, host: Host) -> set[str]:
    """Return the addresses of a name, where Barman runs, each in its one form; none for what is not known there."""
    with suppress(ValueError):
        return {str(ipaddress.ip_address(name))}
    if not name or name.startswith("/"):
        return set()
    try:
        said = host.run(Program(settings.beside("getent", "ahosts", name)), LIMIT)
    except OperationFailed:
        return set()
    return {line.split()[0] for line in said.splitlines() if line.split()}


def words_of(text: str) -> dict[str, str]:
    """Return what a connection string says; nothing, if it is none."""
    try:
        return {name: str(value) for name, value in conninfo.conninfo_to_dict(text).items()}
    except Error:
        return {}


def keepalives(topic: Topic, said: Mapping[str, str]) -> Finding:
    """Look whether Barman's stream would notice that the primary's cable is pulled."""
    parts = words_of(ways(said).get("wal_streaming_conninfo") or said.get("streaming_conninfo", ""))
    if "service" in parts:
        return topic.ok("they are in a service file, which is not read here")
    lacking = [name for name in ("connect_timeout", "keepalives_idle", "tcp_user_timeout") if name not in parts]
    if lacking:
        what = f"streaming_conninfo lacks {', '.join(lacking)}: it hangs when the primary's cable is pulled"
        return topic.warn(what, f"in Barman's file, to streaming_conninfo: connect_timeout=5 {KEEPALIVES}")
    return topic.ok("streaming_conninfo has keepalives and time-outs")


def slot(topic: Topic, said: Mapping[str, str], settings: Barman) -> Finding:
    """Look whether Barman streams through the configured slot, and leaves its creation to us."""
    if said.get("slot_name") != settings.slot_name:
        what = f"Barman's slot_name is {said.get('slot_name')}, the configuration's is {settings.slot_name}"
        return topic.fail(what, f"in Barman's file: slot_name = {settings.slot_name}")
    if said.get("create_slot") == "auto":
        what = "create_slot = auto: a slot that Barman makes itself holds no WAL at first"
        return topic.warn(what, "in Barman's file: create_slot = manual")
    return topic.ok(f"streams through the slot {settings.slot_name}, which we create")
