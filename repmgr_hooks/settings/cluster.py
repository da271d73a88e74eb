"""What a cluster is, as the configuration describes it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from repmgr_hooks.errors import Problem
from repmgr_hooks.settings import libpq
from repmgr_hooks.settings.barman import Barman, Words
from repmgr_hooks.settings.endpoint import Endpoint
from repmgr_hooks.settings.former_primary import FormerPrimary
from repmgr_hooks.settings.libpq import LibpqValue
from repmgr_hooks.settings.schema import (
    NOT_AN_OPTION,
    REST,
    AbsolutePath,
    Address,
    Identifier,
    IpAddress,
    NotEmpty,
    Pattern,
    Port,
    Positive,
    Range,
    Timeout,
)

MASQUERADE = "masquerade"
UNPLUGGED: dict[str, str | int] = {
    "keepalives_idle": 3,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 9000,
}
"""libpq's options by which a connection to a node whose cable is pulled ends within 9 s; the configuration may have
others. A backend that works for long is not meant: its kernel answers meanwhile (tcp(7))."""
# The kernel's targets are in capital letters without any other character, and so are the built-in chains; "standard" is
# a target of iptables' own (libxtables/xtables.c). iptables refuses a chain that is named as a target.
CHAIN = r"(?!standard$)(?=.*[a-z_-])[A-Za-z][A-Za-z0-9_-]{0,27}"
ChainName = Annotated[
    str, Pattern(CHAIN, "a chain name of our own: at most 28 letters, digits, _ and -, not in capital letters alone")
]
Addresses = Annotated[tuple[Address, ...], NotEmpty()]
NodeId = Annotated[int, Range(1, 2**31 - 1)]
SystemIdentifier = Annotated[str, Pattern(r"[0-9]{10,20}", "what pg_control_system() says, in quotes")]
LibpqName = Annotated[str, libpq.Option(("port", "user", "dbname", "passfile", "timeout"))]
LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST_NAME = rf"(?=.{{1,253}}$)(?!(.*\.)?[0-9]+$){LABEL}(\.{LABEL})*"
"""As RFC 1123, section 2.1, has it; the last label is no number, or it would be an address."""
HostName = Annotated[str, Pattern(HOST_NAME, "a host name, such as db1.example.com")]


@dataclass(frozen=True)
class Node:
    """One database node, under its repmgr node id. A ``witness`` votes in repmgr's elections and is never a primary.

    ``name``: the host's name, for certificates, and to notice when it leads to another address than ``host``.
    ``shell``: what leads to PostgreSQL's user on the node, such as ssh or sudo, for ``switchover``
    and ``check --restore``. ``port``: where it listens, if not where ``postgres`` says; two nodes may be on one host.
    """

    host: Address
    witness: bool = False
    shell: Words = ()
    name: HostName = ""
    port: Port | None = None


@dataclass(frozen=True)
class Postgres:
    """How to reach every node; ``passfile`` is a libpq password file.

    ``timeout``: seconds in which a node must connect and answer a look, all nodes side by side.
    ``libpq``: what else stands here are libpq's own options, such as ``sslmode``.
    """

    port: Port = 5432
    user: Identifier = "repmgr"
    dbname: Identifier = "repmgr"
    passfile: AbsolutePath = ""
    timeout: Annotated[int, Range(1, 60)] = 2
    libpq: Mapping[LibpqName, LibpqValue] = field(default_factory=dict, metadata=REST)


@dataclass(frozen=True)
class Chains:
    """Our own chains, in the nat table or, with nftables, in a table of our own."""

    dnat: ChainName = "repmgr_dnat"
    snat: ChainName = "repmgr_snat"


@dataclass(frozen=True)
class SnatAddress:
    """A string must be an address of this host's, or leave its choice to the kernel."""

    def problem(self, value: str) -> Problem | None:
        return None if value == MASQUERADE else IpAddress().problem(value)

    def keywords(self) -> dict[str, Any]:
        return {"anyOf": [{"const": MASQUERADE}, IpAddress().keywords()]}


@dataclass(frozen=True)
class Gateway:
    """The fixed address and ports that clients know; ``reset_clients``: tell clients at once that they are cut.

    ``snat_address``: what the nodes see as the address of every client: this gateway's ``address``, unless they have no
    route to that (two networks); ``masquerade``: the address of the interface that leads to the node. ``backend``: what
    writes the rules into the kernel. ``hosts``: the own address of each gateway, if there are several; ``address`` is
    a virtual one then, which keepalived gives to one of them.
    """

    address: Address
    ports: Mapping[Identifier, Port]
    hosts: Addresses = ()
    snat_address: Annotated[str, SnatAddress()] = ""
    backend: Literal["iptables", "nftables"] = "iptables"
    chains: Chains = Chains()
    reset_clients: bool = True

    @property
    def snat(self) -> str:
        """The address that the nodes see, or MASQUERADE."""
        return self.snat_address or self.address


@dataclass(frozen=True)
class ProbeSettings:
    """Who logs in and writes through the ports, every ``interval`` seconds (0: never), to see that a client can.

    What is not set is that of ``postgres``. ``timeout``: seconds for one visit. ``shell``: what leads to a shell on
    another host, such as ssh, from where it is tried too: clients there take another way through the gateway's rules
    than the gateway itself.
    """

    user: Identifier = ""
    dbname: Identifier = ""
    passfile: AbsolutePath = ""
    timeout: Annotated[int, Range(1, 60)] = 5
    interval: Annotated[int, Range(0, 86400)] = 30
    shell: Words = ()


@dataclass(frozen=True)
class FlapLimit:
    """More changes of the primary than ``changes`` in ``window`` seconds: hold, for something swings to and fro."""

    changes: Positive = 5
    window: Positive = 600


@dataclass(frozen=True)
class WhileUnknown:
    """What becomes of ports while no primary is known: those under ``close`` lead nowhere after so many seconds.

    A client is refused then, instead of reaching a node that may not be the primary any more, or none.
    """

    close: Annotated[tuple[Identifier, ...], NotEmpty()]
    after: Positive = 60


@dataclass(frozen=True)
class Readers:
    """How a port for readers is led: to the standbys that lack at most ``max_lag`` bytes of the primary's WAL.

    ``if_none``: whether it leads to the primary, or nowhere, while there is no such standby.
    """

    max_lag: int
    if_none: Literal["primary", "close"] = "primary"


@dataclass(frozen=True)
class Cluster:
    """One repmgr cluster as the configuration describes it. Times are in seconds."""

    nodes: Mapping[NodeId, Node]
    gateway: Gateway
    barman: Barman | None = None
    postgres: Postgres = Postgres()
    probe: ProbeSettings = ProbeSettings()
    system_identifier: SystemIdentifier = ""
    promotion_timeout: Timeout = 30
    repmgrd_timeout: Annotated[int, Range(3, 3600)] = 10
    """A repmgrd that has not seen the primary for so long is not there; at least 3 times ``monitor_interval_secs``."""
    flap_limit: FlapLimit = FlapLimit()
    unknown: WhileUnknown | None = None
    """What becomes of ports while no primary is known; without it they stay as they are."""
    former_primary: FormerPrimary | None = None
    """What becomes of a stale primary; without it, it is kept from clients, and nothing more."""
    name: str = field(default="", metadata=NOT_AN_OPTION)
    """The cluster's key in the file."""
    readers: Mapping[str, Readers] = field(default_factory=dict, metadata=NOT_AN_OPTION)
    """The gateway's ports that a route opens for readers."""
    state_dir: str = field(default="", metadata=NOT_AN_OPTION)
    """Where its hold is written down; empty: it can have none."""

    def endpoint(self, node: int) -> Endpoint:
        """Return where a node listens."""
        return Endpoint(self.nodes[node].host, self.nodes[node].port or self.postgres.port)

    def node_at(self, place: Endpoint) -> int | None:
        """Return the node that listens there. Of one that is alone on its host, any port is taken for its own."""
        there = [number for number, node in self.nodes.items() if node.host == place.host]
        return there[0] if len(there) == 1 else next((n for n in there if self.endpoint(n) == place), None)

    def is_of(self, nodes: Collection[int], place: Endpoint) -> bool:
        """True if one of these nodes listens there, or may have: on a port of its host that is no other node's."""
        others = [self.endpoint(number) for number in self.nodes if number not in nodes]
        return place not in others and place.host in [self.nodes[number].host for number in nodes]

    def shown(self, place: Endpoint) -> str:
        """Return it for people: the port that is set for all nodes need not be said, nor one that is not known (0)."""
        return place.host if place.port in (0, self.postgres.port) else str(place)

    def rejoin(self, primary: int, repmgr: str) -> str:
        """Return the command that makes a node whose PostgreSQL is stopped a standby of the primary again.

        Without ``-f`` repmgr looks for its file in places of its own (configfile.c, load_config).
        """
        way = f"-f REPMGR_CONF node rejoin -d '{self.upstream(primary)}' --force-rewind"
        return f"stop PostgreSQL, then as postgres: {repmgr} {way}"

    def rejoin_stale(self, nodes: str, primary: int, repmgr: str) -> str:
        """Return what is to be done about stale primaries: by hand, or only if the service does not do it."""
        own = "the service stops it once that is certain (former_primary); if it does not, " * bool(self.former_primary)
        return f"{own}on {nodes}: {self.rejoin(primary, repmgr)}"

    def upstream(self, primary: int) -> str:
        """Return how another node reaches the primary, for repmgr; its password is on that node."""
        (host, port), postgres = self.endpoint(primary), self.postgres
        return f"host={host} port={port} user={postgres.user} dbname={postgres.dbname}"

    @property
    def client(self) -> ProbeSettings:
        """Who tries the ports, with what stands under ``postgres`` in the place of what is not set."""
        postgres, probe = self.postgres, self.probe
        user, dbname = probe.user or postgres.user, probe.dbname or postgres.dbname
        return replace(probe, user=user, dbname=dbname, passfile=probe.passfile or postgres.passfile)

    def conninfos(self) -> dict[int, str]:
        """Return the libpq connection string of each node; no password is ever in one.

        ``hostaddr`` too: without it libpq would take that of the environment (PGHOSTADDR) for every node. A node that
        is cut off while it owes us an answer is given up by the kernel (``UNPLUGGED``), long before a look's own limit.
        With ``hostaddr``, ``host`` is what a certificate must name, and is not looked up (libpq-connect).
        """
        passfile = {"passfile": self.postgres.passfile} if self.postgres.passfile else {}
        return {
            number: libpq.conninfo(
                host=node.name or node.host,
                hostaddr=node.host,
                port=self.endpoint(number).port,
                user=self.postgres.user,
                dbname=self.postgres.dbname,
                connect_timeout=self.postgres.timeout,
                **passfile,
                **{**UNPLUGGED, **self.postgres.libpq},
            )
            for number, node in self.nodes.items()
        }
