"""libpq's connection options, as the libpq that is installed knows them; and when a password could go out in clear.

psycopg, which asks that libpq, is imported when there is something to ask: it takes more time than all the rest of a
command that only looks into the configuration.
"""

from __future__ import annotations

import functools
import ipaddress
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from repmgr_hooks.catalogue import shorten
from repmgr_hooks.errors import Problem, did_you_mean, mistake
from repmgr_hooks.text import CONTROL

TAKE_OUT = "take it out"
SET_BY_US = mistake("is what repmgr_hooks sets itself", TAKE_OUT)
NAMED_ELSEWHERE = mistake("belongs under 'nodes'", TAKE_OUT)
SERVICE = mistake("would name hosts of its own", "write its options here")
ANY_NODE = mistake("every node is asked, whatever it is", TAKE_OUT)
REFUSED = {
    "host": NAMED_ELSEWHERE,
    "hostaddr": NAMED_ELSEWHERE,
    "connect_timeout": mistake("is called 'timeout' here", "write that"),
    "options": SET_BY_US,
    "application_name": SET_BY_US,
    "fallback_application_name": SET_BY_US,
    "client_encoding": SET_BY_US,
    "replication": SET_BY_US,
    "service": SERVICE,
    "servicefile": SERVICE,
    "target_session_attrs": ANY_NODE,
    "load_balance_hosts": ANY_NODE,
    "requirepeer": mistake("is for Unix sockets, and nodes are reached by TCP", TAKE_OUT),
}
SINCE = {
    "require_auth": 16,
    "sslcertmode": 16,
    "gssdelegation": 16,
    "sslnegotiation": 17,
    "min_protocol_version": 18,
    "max_protocol_version": 18,
}
"""Options that an older libpq does not know: Debian 12 has 15."""
SECRET = "*"  # PQconninfoOption.dispchar: "*" is a password field, "D" an option for debugging
NUMBERS = frozenset({"keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout", "keepalives"})
"""libpq reads these as numbers only when it has connected (fe-connect.c, pqParseIntParam)."""
PATHS = frozenset({"sslcert", "sslkey", "sslrootcert", "sslcrl", "sslcrldir"})
NOWHERE = {b"host": b"/nonexistent", b"passfile": b"/nonexistent"}
"""libpq checks the values, and then finds no socket and no password: nothing is asked and nobody is connected to."""


def addresses(host: str) -> tuple[str, ...]:
    """Return the addresses of a name, IPv4 first, or of an address itself; nothing if there is none, or for a socket.

    >>> addresses("10.0.0.11"), addresses("fd00:0::1"), addresses("/run/postgresql"), addresses("")
    (('10.0.0.11',), ('fd00::1',), (), ())
    """
    try:
        return (str(ipaddress.ip_address(host)),)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM) if host and host[0] not in "/@" else []
    except (OSError, UnicodeError):
        return ()
    return tuple(sorted(dict.fromkeys(str(each[4][0]) for each in found), key=lambda address: ":" in address))


def conninfo(**given: str | int | None) -> str:
    """Return a connection string of these options."""
    from psycopg import conninfo

    return conninfo.make_conninfo("", **given)


@functools.cache
def options() -> Mapping[str, str]:
    """Return the options that libpq knows, each with its kind (``dispchar``).

    Of an empty string: for its defaults libpq would look into the environment and into a service file.
    """
    from psycopg import pq

    return {option.keyword.decode(): (option.dispchar or b"").decode() for option in pq.Conninfo.parse(b"")}


@dataclass(frozen=True)
class Option:
    """A key must be an option of libpq's that is not ours to set; ``ours`` are the keys that stand beside it."""

    ours: tuple[str, ...] = ()

    def problem(self, name: str) -> Problem | None:
        kind = options().get(name)
        if name in REFUSED:
            return REFUSED[name]
        if kind == SECRET:
            hint = "put the password of PostgreSQL's role into 'passfile'"
            return mistake("must not be set here: the file is not secret", hint)
        if self.unseen(name):
            return None
        usable = [known for known in options() if known not in REFUSED]
        return None if kind == "" else mistake("unknown option", did_you_mean(name, [*self.ours, *usable]))

    def here(self, name: str) -> Problem | None:
        """A good option may be too new for the libpq of this host."""
        if not self.unseen(name):
            return None
        from psycopg import pq

        return mistake(f"needs libpq {SINCE[name]} or newer; this one is {pq.version() // 10000}")

    def unseen(self, name: str) -> str:
        return f"{name} (needs libpq {SINCE[name]} there)" if name in SINCE and name not in options() else ""

    def keywords(self) -> dict[str, Any]:
        """Which options there are, each libpq says for itself."""
        return {"not": {"enum": sorted(REFUSED)}}


@dataclass(frozen=True)
class Value:
    """A value must be a string or a number."""

    def problem(self, value: object) -> Problem | None:
        if isinstance(value, bool) or not isinstance(value, str | int):
            return mistake(f"must be a string or a whole number; got {shorten(value)}")
        return None

    def keywords(self) -> dict[str, Any]:
        return {"type": ["string", "integer"]}


LibpqValue = Annotated[Any, Value()]


def problem(name: str, value: object) -> Problem | None:
    """Return what is wrong with the value of an option, in our words or libpq's; None if nothing is."""
    text = str(value)
    if CONTROL.search(text):
        return mistake(f"holds a control character, or half a character: {shorten(text)}")
    if name in NUMBERS and not (text.isascii() and text.isdigit() and len(text) < 10):
        return mistake(f"must be a whole number; got {shorten(text)}")
    if name in PATHS and not text.startswith("/") and (name, text) != ("sslrootcert", "system"):
        return mistake(f"must be an absolute path; got {shorten(text)}")
    if name not in options():
        return None  # a newer libpq has it, and judges the value
    said = _refusal({name: text})
    return None if said == _refusal({}) or said.startswith("connection") else mistake(f"libpq: {said}")


def _refusal(given: Mapping[str, str]) -> str:
    """Return why libpq does not begin to connect."""
    from psycopg import pq

    words = {**NOWHERE, **{name.encode(): text.encode() for name, text in given.items()}}
    line = b" ".join(
        name + b"='" + text.replace(b"\\", b"\\\\").replace(b"'", b"\\'") + b"'" for name, text in words.items()
    )
    tried = pq.PGconn.connect_start(line)
    try:
        return tried.error_message.decode(errors="replace").strip()
    finally:
        tried.finish()


def protects_password(given: Mapping[str, object]) -> bool:
    """Whether a password cannot go out in clear, nor to a host that is not the node: libpq's manual, 34.1.2 and 34.19.

    >>> protects_password({"require_auth": "scram-sha-256"}), protects_password({"require_auth": "!password"})
    (True, False)
    >>> protects_password({"sslmode": "verify-ca"}), protects_password({"sslmode": "require"})
    (True, False)
    """
    methods = set(str(given.get("require_auth", "")).replace(" ", "").split(",")) - {""}
    refused = {method[1:] for method in methods if method.startswith("!")}
    allowed = methods - {f"!{method}" for method in refused}
    weak = {"password", "md5"}
    return (
        (weak <= refused if refused else bool(allowed) and not allowed & weak)
        or given.get("channel_binding") == "require"
        or given.get("sslmode") in ("verify-ca", "verify-full")
    )
