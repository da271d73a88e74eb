"""Has anybody changed the netfilter rules? The kernel counts every change of them; asking it costs no process."""

from __future__ import annotations

import socket
import struct

NETLINK_NETFILTER = 12
NEW_GENERATION = 10 << 8 | 15  # NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN (linux/netfilter/nf_tables.h)
GET_GENERATION = 10 << 8 | 16  # NFT_MSG_GETGEN
NLM_F_REQUEST = 1
GENERATION_ID = 1  # NFTA_GEN_ID, big-endian
# nlmsghdr: length, type, flags, sequence, port; nfgenmsg: family, version, resource
HEADER = struct.Struct("=IHHIIBBH")
ATTRIBUTE = struct.Struct("=HH")
LIMIT = 1.0


def rules_generation() -> int | None:
    """Return how often the nf_tables rules of this network namespace have been changed; None if that cannot be known.

    The counter does not see rules made with iptables-legacy.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as kernel:
            kernel.settimeout(LIMIT)
            kernel.send(HEADER.pack(HEADER.size, GET_GENERATION, NLM_F_REQUEST, 1, 0, 0, 0, 0))
            return parse(kernel.recv(4096))
    except (OSError, struct.error):
        return None


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
