"""Which way would the kernel send a packet? Asked through rtnetlink(7), which costs no process and no right."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import dataclass

from repmgr_hooks.netfilter.netlink import Kernel

GET_ROUTE = 26  # RTM_GETROUTE (linux/rtnetlink.h)
NEW_ROUTE = 24  # RTM_NEWROUTE
REQUEST = 1  # NLM_F_REQUEST
LOCAL = 2  # RTN_LOCAL
FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: the entry itself, which names the interface that has a local address
DESTINATION, DEVICE, PREFERRED_SOURCE = 1, 4, 7  # RTA_DST, RTA_OIF, RTA_PREFSRC
# nlmsghdr: length, type, flags, sequence, port; rtmsg: family, both prefix lengths, tos, table, protocol, scope, type,
# flags
HEADER = struct.Struct("=IHHIIBBBBBBBBI")
ATTRIBUTE = struct.Struct("=HH")
KERNEL = Kernel(socket.NETLINK_ROUTE)


@dataclass(frozen=True)
class Route:
    """``local``: the address is one of this host's own; None if the kernel could not be asked.

    ``source``: what packets to it come from; ``device``: the interface that they take, or that has the address.
    """

    local: bool | None = False
    source: str = ""
    device: str = ""


NOWHERE, UNKNOWN = Route(), Route(None)


def route_to(address: str) -> Route:
    """Ask the kernel for the route to an address; NOWHERE if there is none, UNKNOWN if there is no answer."""
    way = _ask(address, 0)
    if not way.local:
        return way
    return Route(True, way.source, _ask(address, FIB_MATCH).device or way.device)


def _ask(address: str, flags: int) -> Route:
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    body = ATTRIBUTE.pack(ATTRIBUTE.size + len(packed), DESTINATION) + packed
    size = HEADER.size + len(body)
    header = HEADER.pack(size, GET_ROUTE, REQUEST, 1, 0, family, len(packed) * 8, 0, 0, 0, 0, 0, 0, flags)
    try:
        return parse(KERNEL.ask(header + body))
    except (OSError, struct.error, ValueError):
        return UNKNOWN


def parse(answer: bytes) -> Route:
    """Return the route that the kernel's answer holds. Raises struct.error or ValueError if it is cut."""
    _, kind, *_, route_type, _ = HEADER.unpack_from(answer)
    if kind != NEW_ROUTE:
        return NOWHERE
    source, device, place = "", "", HEADER.size
    while place + ATTRIBUTE.size <= len(answer):
        length, name = ATTRIBUTE.unpack_from(answer, place)
        value = answer[place + ATTRIBUTE.size : place + length]
        if name == PREFERRED_SOURCE:
            source = str(ipaddress.ip_address(value))
        elif name == DEVICE:
            device = _name(struct.unpack("=I", value)[0])
        place += max(length + 3 & ~3, ATTRIBUTE.size)
    return Route(route_type == LOCAL, source, device)


def _name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return ""


def answers(source: str, address: str, port: int, limit: float) -> bool:
    """True if packets from one of our addresses to a host come back: a connection is made, or refused."""
    try:
        with socket.create_connection((address, port), limit, (source, 0)):
            return True
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
