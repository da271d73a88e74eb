"""For how long has this host had an address? Asked through rtnetlink(7), which costs no process and no right."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Iterable

from repmgr_hooks import clock

NEW_ADDRESS, GET_ADDRESS, DONE = 20, 22, 3  # RTM_NEWADDR, RTM_GETADDR (linux/rtnetlink.h), NLMSG_DONE
REQUEST_DUMP = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
ADDRESS, LOCAL, CACHE_INFO = 1, 2, 6  # IFA_ADDRESS, IFA_LOCAL, IFA_CACHEINFO (linux/if_addr.h)
MESSAGE = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
HEAD = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, interface
ATTRIBUTE = struct.Struct("=HH")
CACHE = struct.Struct("=IIII")  # ifa_cacheinfo: preferred, valid, created and changed
TICKS = 100
"""The last two are in hundredths of a second since the boot, on the clock that stands still in suspend."""
LIMIT = 1.0


def had_for(address: str) -> float | None:
    """Return the seconds for which this host has had an address; None if it has not, or the kernel cannot be asked."""
    packed = ipaddress.ip_address(address).packed
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    request = MESSAGE.pack(MESSAGE.size + HEAD.size, GET_ADDRESS, REQUEST_DUMP, 1, 0) + HEAD.pack(family, 0, 0, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
            kernel.settimeout(LIMIT)
            kernel.send(request)
            created = created_at(packed, iter(lambda: kernel.recv(65536), b""))
    except (OSError, struct.error):
        return None
    return None if created is None else (clock.monotonic() - created) % (2**32 / TICKS)


def created_at(packed: bytes, answers: Iterable[bytes]) -> float | None:
    """Return when the address was created, in seconds since the boot, by the kernel's answers.

    Raises struct.error if one is cut.
    """
    found: float | None = None
    for answer in answers:
        place = 0
        while place < len(answer):
            length, kind, *_ = MESSAGE.unpack_from(answer, place)
            if kind != NEW_ADDRESS:
                return found
            found = _created(packed, answer[place + MESSAGE.size + HEAD.size : place + length]) or found
            place += max(length + 3 & ~3, MESSAGE.size)
    return found


def _created(packed: bytes, attributes: bytes) -> float | None:
    said: dict[int, bytes] = {}
    place = 0
    while place + ATTRIBUTE.size <= len(attributes):
        length, name = ATTRIBUTE.unpack_from(attributes, place)
        said[name] = attributes[place + ATTRIBUTE.size : place + length]
        place += max(length + 3 & ~3, ATTRIBUTE.size)
    if said.get(LOCAL, said.get(ADDRESS)) != packed or CACHE_INFO not in said:
        return None
    return float(CACHE.unpack_from(said[CACHE_INFO])[2]) / TICKS
