"""Has anybody changed the netfilter rules? The kernel counts every change of them; asking it costs no process."""

from __future__ import annotations

import socket
import struct

from repmgr_hooks.netfilter.netlink import Kernel

NETLINK_NETFILTER = 12
NEW_GENERATION = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN (linux/netfilter/nf_tables.h)
GET_GENERATION = 10 << 8 | 16  # NFT_MSG_GETGEN
GET_TABLE, NEW_TABLE = 10 << 8 | 1, 10 << 8  # NFT_MSG_GETTABLE, NFT_MSG_NEWTABLE
TABLE_NAME = 1  # NFTA_TABLE_NAME
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}  # NFPROTO_*
NLM_F_REQUEST = 1
NLM_F_DUMP = 0x300
GENERATION_ID = 1  # NFTA_GEN_ID, big-endian
# nlmsghdr: length, type, flags, sequence, port; nfgenmsg: family, version, resource
HEADER = struct.Struct("=IHHIIBBH")
ATTRIBUTE = struct.Struct("=HH")
LIMIT = 1.0
KERNEL = Kernel(NETLINK_NETFILTER)


def rules_generation() -> int | None:
    """Return how often the nf_tables rules of this network namespace have been changed; None if that cannot be known.

    The counter does not see rules made with iptables-legacy.
    """
    try:
        return parse(KERNEL.ask(HEADER.pack(HEADER.size, GET_GENERATION, NLM_F_REQUEST, 1, 0, 0, 0, 0)))
    except (OSError, struct.error):
        return None


def tables() -> frozenset[tuple[str, str]]:
    """Return family and name of every table of nf_tables, whoever made it; none without the right to ask.

    iptables keeps its own there too.
    """
    found: set[tuple[str, str]] = set()
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
            kernel.settimeout(LIMIT)
            kernel.send(HEADER.pack(HEADER.size, GET_TABLE, NLM_F_REQUEST | NLM_F_DUMP, 1, 0, 0, 0, 0))
            while (more := tables_in(kernel.recv(65536))) is not None:
                found |= more
    except (OSError, struct.error):
        pass
    return frozenset(found)


def tables_in(answer: bytes) -> set[tuple[str, str]] | None:
    """Return the tables in one message of the kernel's; None if it is the last. Raises struct.error if it is cut."""
    found: set[tuple[str, str]] = set()
    start = 0
    while start < len(answer):
        length, kind, _, _, _, family, *_ = HEADER.unpack_from(answer, start)
        if kind != NEW_TABLE:
            return found or None
        place = start + HEADER.size
        while place < start + length:
            size, name = ATTRIBUTE.unpack_from(answer, place)
            if name == TABLE_NAME:
                text = answer[place + ATTRIBUTE.size : place + size].rstrip(b"\0").decode(errors="replace")
                found.add((FAMILIES.get(family, str(family)), text))
            place += max(size + 3 & ~3, ATTRIBUTE.size)
        start += max(length + 3 & ~3, HEADER.size)
    return found


def parse(answer: bytes) -> int | None:
    """Return the generation that the kernel's answer holds; None if it holds none. Raises struct.error if it is cut."""
    _, kind, *_ = HEADER.unpack_from(answer)
    place = HEADER.size
    while kind == NEW_GENERATION and place < len(answer):
        length, name = ATTRIBUTE.unpack_from(answer, place)
        if name == GENERATION_ID:
            return int(struct.unpack_from("!I", answer, place + ATTRIBUTE.size)[0])
        place += max(length + 3 & ~3, ATTRIBUTE.size)
    return None
