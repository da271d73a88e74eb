"""What single values in the configuration file may be: each type with its check, and its words for what is wrong.

``keywords`` says the same as JSON schema, as far as that can; never more.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

from repmgr_hooks.catalogue import shorten
from repmgr_hooks.errors import Problem, mistake
from repmgr_hooks.files import program_problem
from repmgr_hooks.settings.words import AMOUNT, DIRECTORY, PLAIN_NAME


@dataclass(frozen=True)
class Pattern:
    """A string must match ``pattern``; ``means`` says so in words."""

    pattern: str
    means: str

    def problem(self, value: str) -> Problem | None:
        fits = re.fullmatch(self.pattern, value, re.ASCII)
        return None if fits else mistake(f"must be {self.means}; got {shorten(value)}")

    def keywords(self) -> dict[str, Any]:
        return {"pattern": f"^(?:{self.pattern})$"}


@dataclass(frozen=True)
class Range:
    """A number must lie between two others, both included."""

    low: float
    high: float

    def problem(self, value: float) -> Problem | None:
        if self.low <= value <= self.high:
            return None
        return mistake(f"must be between {self.low} and {self.high}; got {shorten(value).strip(chr(39))}")

    def keywords(self) -> dict[str, Any]:
        return {"minimum": self.low, "maximum": self.high}


@dataclass(frozen=True)
class OrNever:
    """A number that must lie between two others, or ``never``."""

    low: int
    high: int

    def problem(self, value: object) -> Problem | None:
        if value == "never" or (type(value) is int and self.low <= value <= self.high):
            return None
        return mistake(f"must be 'never' or between {self.low} and {self.high}; got {shorten(value)}")

    def keywords(self) -> dict[str, Any]:
        return {"anyOf": [{"const": "never"}, {"type": "integer", "minimum": self.low, "maximum": self.high}]}


@dataclass(frozen=True)
class NotEmpty:
    """A list must have an entry, and a string a character."""

    def problem(self, value: tuple[Any, ...] | str) -> Problem | None:
        return None if value else mistake("must not be empty")


@dataclass(frozen=True)
class IpAddress:
    """A string must be an IPv4 or IPv6 address, spelt as ``iptables-save`` prints it: rules are compared as text."""

    def problem(self, value: str) -> Problem | None:
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            hint = "look it up, and write the address; a node may have its 'name' beside it"
            return mistake(f"must be an IP address (netfilter rules hold no names); got {shorten(value)}", hint)
        if "%" in value:
            return mistake(f"must be an address without a scope; got {shorten(value)}")
        if kind := _strange(address):
            return mistake(f"must be an address that a host can have; got {value} ({kind})")
        return None if str(address) == value else mistake(f"must be spelt {address}; got {shorten(value)}")

    def keywords(self) -> dict[str, Any]:
        return {"pattern": "^[0-9a-f.:]+$", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]}


def _strange(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Return what kind of address this is, if no host that others reach can have it; link-local ones need a scope."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return "IPv4-mapped"
    kinds = {
        "broadcast": address == BROADCAST,
        "unspecified": address.is_unspecified,
        "loopback": address.is_loopback,
        "multicast": address.is_multicast,
        "link-local": address.is_link_local,
        "reserved": address.is_reserved or address in THIS_NETWORK,
    }
    return next((kind for kind, applies in kinds.items() if applies), "")


BROADCAST = ipaddress.ip_address("255.255.255.255")
THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


@runtime_checkable
class OnThisHost(Protocol):
    """A check that looks at this host too: what ``check --offline`` does not do, for it may run elsewhere."""

    def here(self, value: Any) -> Problem | None:
        """Return what is wrong with a value, which is good in itself, on this host."""

    def unseen(self, value: Any) -> str:
        """Return what is to be looked at here; empty if nothing is."""


@dataclass(frozen=True)
class TrustedProgram:
    """A list must begin with the absolute path of a program, and nobody but root may be able to change that.

    What PATH says under repmgrd is another matter than what it says to whoever writes the file.
    """

    def problem(self, value: tuple[str | None, ...]) -> Problem | None:
        if value and (value[0] is None or value[0].startswith("/")):
            return None
        return mistake("must be a list that begins with the absolute path of a program")

    def here(self, value: tuple[str | None, ...]) -> Problem | None:
        return program_problem(Path(value[0])) if value[0] else None

    def unseen(self, value: tuple[str | None, ...]) -> str:
        return value[0] or ""

    def keywords(self) -> dict[str, Any]:
        return {"minItems": 1, "prefixItems": [{"type": "string", "pattern": "^/"}]}


Address = Annotated[str, IpAddress()]
Port = Annotated[int, Range(1, 65535)]
Positive = Annotated[int, Range(1, 86400)]
Timeout = Annotated[int, Range(1, 3600)]
"""Seconds that something is waited for."""
Word = Annotated[str, NotEmpty()]
ProgramWords = Annotated[tuple[Word, ...], TrustedProgram()]
"""A program, by its absolute path, and its arguments."""
Directory = Annotated[str, Pattern(DIRECTORY, "an absolute path without blanks and '..'")]
AbsolutePath = Annotated[str, Pattern(r"/.+", "an absolute path")]
Identifier = Annotated[str, Pattern(PLAIN_NAME, "a plain name (letters, digits, _ . -)")]

SlotName = Annotated[str, Pattern("[a-z0-9_]{1,63}", "at most 63 of a-z, 0-9 and _, as PostgreSQL names slots")]
Amount = Annotated[str, Pattern(AMOUNT.pattern, "an amount in PostgreSQL's units, such as 10GB")]


NOT_AN_OPTION = {"option": False}
"""Metadata of a dataclass field that the file cannot set."""

REST = {"option": "rest"}
"""Metadata of a mapping field that takes the options which are none of the other fields."""


@dataclass(frozen=True)
class OneOf:
    """A value must be one of a few."""

    allowed: tuple[Any, ...]

    def problem(self, value: Any) -> Problem | None:
        if value in self.allowed and not isinstance(value, bool):
            return None
        return mistake(f"must be one of {', '.join(map(str, self.allowed))}; got {shorten(value)}")

    def keywords(self) -> dict[str, Any]:
        return {"enum": list(self.allowed)}
