"""What there is: the nodes that repmgr knows, Barman's server, and this host's address on the way to the nodes."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from psycopg import Error, conninfo

from repmgr_hooks.barman import archive
from repmgr_hooks.catalogue import shorten
from repmgr_hooks.checks.users import User, acting_as, user_called
from repmgr_hooks.errors import OperationFailed, Problem, UsageError, answer_of
from repmgr_hooks.repmgr_conf import RepmgrConf, no_conninfo
from repmgr_hooks.settings import libpq
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import HOST_NAME, Node
from repmgr_hooks.settings.schema import IpAddress
from repmgr_hooks.settings.words import PLAIN_NAME
from repmgr_hooks.system.steps import Host, Program, Sql

LIMIT = 30.0
NODES = "select node_id, type, conninfo from repmgr.nodes order by node_id"
USER = "barman"
"""Who runs the service."""
BARMAN_PORT = 54321  # the article's
PLACED = frozenset({"host", "hostaddr", "port", "user", "dbname", "passfile", "connect_timeout"})
"""What of a conninfo has its own place in the configuration; how long a node may take is not repmgr's affair."""


@dataclass(frozen=True)
class Found:
    """One cluster as repmgr and Barman know it, and this host as its gateway."""

    nodes: Mapping[int, Node]
    port: int
    """Of most nodes; another is the node's own."""
    user: str
    dbname: str
    server: str
    slot: str
    gateway: str
    barman_port: int = BARMAN_PORT
    libpq: Mapping[str, str] = field(default_factory=dict)
    """What repmgr's conninfo says beyond that, such as sslmode."""
    left_out: Mapping[str, Problem] = field(default_factory=dict)
    """What of it cannot be taken over, and why."""
    cleans_up_locks: bool = False
    """Whether this Barman removes lock files unless it is told not to."""
    backend: str = "iptables"
    """What can write the gateway's rules here."""
    barman: tuple[str, ...] = ("barman",)
    """What runs ``barman``."""

    @property
    def barman_address(self) -> str:
        """What ``--barman-host`` calls Barman's host, without the user; empty if Barman is here."""
        return self.barman[-2].rpartition("@")[2] if len(self.barman) > 1 else ""

    @property
    def app_port(self) -> int:
        """The port beside Barman's."""
        return self.barman_port + 1


def survey(
    asked: RepmgrConf, server: str | None, gateway: str | None, host: Host, barman_host: str | None = None
) -> Found:
    """Ask the node of a repmgr.conf, and Barman, here or on ``barman_host``, which may be this one.

    Raises UsageError where the answers are no cluster that we can serve.
    """
    assert asked.node is not None
    try:
        with answer_of(asked.node):
            rows = [(int(node), str(kind), str(text)) for node, kind, text in host.fetch(Sql(asked.node, NODES), LIMIT)]
    except OperationFailed as error:
        raise UsageError(
            f"cannot ask repmgr's nodes with the conninfo of {asked.path}: {error}",
            hint="--repmgr-conf FILE asks another node",
        ) from None
    described = {node: words_of(text, f"repmgr.nodes: the conninfo of node {node}") for node, _, text in rows}
    ports = {node: port(words) for node, words in described.items()}
    ((most, _),) = Counter(ports.values()).most_common(1)
    own = {node: number if number != most else None for node, number in ports.items()}
    places = {node: address(words, node, len(rows) > 1) for node, words in described.items()}
    nodes = {
        node: named(Node(places[node], kind == "witness", port=own[node]), described[node]) for node, kind, _ in rows
    }
    if gateway and (wrong := IpAddress().problem(gateway)):
        raise UsageError(f"--gateway {wrong}", hint="name one such as 10.0.0.20")
    if server and (server == "all" or not re.fullmatch(PLAIN_NAME, server)):
        raise UsageError(f"--barman {shorten(server)} is not the name of one Barman server")
    asking = words_of(asked.settings["conninfo"], f"{asked.path}: conninfo")
    user, dbname = str(asking.get("user") or "repmgr"), str(asking.get("dbname") or "repmgr")
    command = barman_command(barman_host)
    elsewhere = barman_host and not _is_here(barman_host.rpartition("@")[2], host)
    asking_it = command if elsewhere else barman_command(None)
    with acting_as(barmans_user()) if elsewhere else nullcontext():
        name = server or only_server(host, asking_it)
        barman = Barman(name, command=asking_it)
        shown = shown_server(barman, host)
    there = words_of(shown.get("conninfo", ""), f"Barman: the conninfo of {name}")
    led = libpq.addresses(str(there.get("hostaddr") or there.get("host") or ""))
    here = gateway or gateway_address(led, [node.host for node in nodes.values()])
    through = here in led and port(there)
    slot = shown.get("slot_name", "None")
    taken, left_out = taken_over(asking)
    return Found(
        *(nodes, most, user, dbname, name, "barman" if slot == "None" else slot, here, through or BARMAN_PORT),
        *(taken, left_out, not elsewhere and archive.at_least(shown) >= archive.CLEANS_UP_LOCKS, backend(), command),
    )


def barman_command(barman_host: str | None) -> tuple[str, ...]:
    """Return what runs ``barman``. Raises UsageError.

    >>> barman_command("barman@10.0.0.40")
    ('ssh', '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=5', 'barman@10.0.0.40', 'barman')
    """
    if not barman_host:
        return ("barman",)
    if not re.fullmatch(r"[A-Za-z0-9_][\w.@:-]*", barman_host, re.ASCII):
        raise UsageError(f"--barman-host {shorten(barman_host)} is no host", hint="name one such as barman@10.0.0.40")
    return ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", barman_host, "barman")


def _is_here(name: str, host: Host) -> bool:
    """Whether an address, or a name, is this host's; what only ssh's own configuration knows is another's."""
    return any(host.route(each).local for each in libpq.addresses(name))


def barmans_user() -> User:
    """Return whose ssh keys lead to Barman's host: the service's. Raises UsageError."""
    if found := user_called(USER):
        return found
    hint = f"useradd --system --user-group --create-home --home-dir /var/lib/{USER} {USER}"
    raise UsageError(f"there is no user {USER} here, who runs the service and asks Barman", hint=hint)


def backend() -> str:
    """Return ``nftables`` where there is nft and no iptables, as on newer distributions."""
    found = [name for name in ("iptables-save", "nft") if shutil.which(name)]
    return "nftables" if found == ["nft"] else "iptables"


def taken_over(own: Mapping[str, object]) -> tuple[dict[str, str], dict[str, Problem]]:
    """Return what our connections take over from repmgr's, and why not the rest.

    >>> taken, left_out = taken_over({"host": "db1", "user": "repmgr", "sslmode": "require", "options": "-c x=y"})
    >>> taken, {name: str(why) for name, why in left_out.items()}
    ({'sslmode': 'require'}, {'options': 'is what repmgr_hooks sets itself'})
    """
    others = {name: str(value) for name, value in own.items() if name not in PLACED}
    wrong = {name: libpq.Option().problem(name) or libpq.problem(name, value) for name, value in others.items()}
    return (
        {name: value for name, value in others.items() if not wrong[name]},
        {name: why for name, why in wrong.items() if why},
    )


def words_of(text: str, where: str) -> Mapping[str, object]:
    """Return what a conninfo says. Raises UsageError with ``where`` it stands."""
    try:
        return conninfo.conninfo_to_dict(text)
    except Error as error:
        raise UsageError(no_conninfo(where, error), hint="correct it there") from None


def port(described: Mapping[str, object]) -> int:
    """Return the port in a conninfo. Raises UsageError if it names several."""
    text = str(described.get("port") or 5432)
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"port={text} is not one port", hint="name one in the conninfo of Barman and of each node")
    return int(text)


def address(described: Mapping[str, object], node: int, several: bool) -> str:
    """Return the address in a conninfo; names are looked up now, for netfilter's rules need addresses.

    Debian gives a host's own name the address 127.0.1.1, which is no node's among ``several``.
    """
    host = str(described.get("hostaddr") or described.get("host") or "")
    if not host or host.startswith("/"):
        raise UsageError(f"repmgr.nodes: the conninfo of node {node} names no host", hint="register it with one")
    if not (found := libpq.addresses(host)):
        raise UsageError(
            f"repmgr.nodes: the host {host!r} of node {node} cannot be looked up", hint="name an address in it"
        )
    reached = next((each for each in found if not ipaddress.ip_address(each).is_loopback), "")
    if not reached and several:
        raise UsageError(
            f"repmgr.nodes: the host {host!r} of node {node} is {found[0]} here, where no other host reaches it",
            hint="correct /etc/hosts, or name an address in its conninfo",
        )
    return reached or found[0]


def named(node: Node, described: Mapping[str, object]) -> Node:
    """Return the node with the name that its conninfo has, if that leads to it from here."""
    name, here = str(described.get("host") or ""), ipaddress.ip_address(node.host).is_loopback
    leads = not here and re.fullmatch(HOST_NAME, name) and node.host in libpq.addresses(name)
    return replace(node, name=name) if leads else node


def only_server(host: Host, command: tuple[str, ...] = ("barman",)) -> str:
    """Return Barman's only server. Raises UsageError."""
    try:
        servers: Sequence[str] = list(json.loads(host.run(Program((*command, "-f", "json", "list-servers")), LIMIT)))
    except (OperationFailed, ValueError) as error:
        hint = "if it is on another host: --barman-host barman@ADDRESS"
        raise UsageError(f"cannot ask Barman for its servers: {error}", hint=hint) from None
    if len(servers) != 1:
        known = ", ".join(servers) or "none"
        raise UsageError(
            f"Barman has not one server but {len(servers)} ({known})", hint="say which one with --barman SERVER"
        )
    return servers[0]


def shown_server(barman: Barman, host: Host) -> Mapping[str, str]:
    """Return what Barman says of a server, as text: passwords are hidden there. Raises UsageError."""
    try:
        return archive.shown(barman, host)
    except OperationFailed as error:
        raise UsageError(f"cannot ask Barman for its server {barman.server!r}: {error}") from None


def gateway_address(barmans: Sequence[str], nodes: Sequence[str]) -> str:
    """Return the address that Barman is told to connect to, if it is ours; else the one that leads to the nodes."""
    if ours := [address for address in barmans if is_ours(address)]:
        return ours[0]
    family = socket.AF_INET6 if ":" in nodes[0] else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((nodes[0], 5432))  # sends nothing
        except OSError as error:
            raise UsageError(f"there is no route from here to {nodes[0]}: {error}") from None
        return str(probe.getsockname()[0])


def is_ours(host: str) -> bool:
    """True if this is an address of this host, and not a loopback one."""
    try:
        found = ipaddress.ip_address(host)
        with closing(socket.socket(socket.AF_INET6 if found.version == 6 else socket.AF_INET)) as probe:
            probe.bind((host, 0))
    except (ValueError, OSError):
        return False
    return not found.is_loopback


def chosen_conf(given: Path | None, readable: Sequence[RepmgrConf]) -> RepmgrConf:
    """Return the repmgr.conf to begin with: the given one, else the first one found. Raises UsageError."""
    usable = [conf for conf in readable if conf.node is not None and conf.settings.get("conninfo")]
    if not usable:
        where = f"{given} has no" if given else "no repmgr.conf here has"
        raise UsageError(
            f"{where} node_id and conninfo",
            hint="copy that of a node to here, and name it with --repmgr-conf FILE; init drafts those that are missing",
        )
    words_of(usable[0].settings["conninfo"], f"{usable[0].path}: conninfo")
    return usable[0]
