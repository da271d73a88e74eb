"""Reset clients, so that each notices at once that its connection is gone.

Deleting a connection-tracking entry leaves the client waiting for its next retransmission, minutes when its peer was
unplugged. A bare SYN from the gateway's address and port makes an established socket answer with a challenge ACK
(RFC 5961, section 4.2); that ACK finds no connection at the gateway any more, and the reset that answers it carries
the right sequence number. A client that is still connecting takes it for a simultaneous open, and ends the same way.

The SYN leaves an entry of its own in the connection-tracking table, without which a gateway that lets in only what
belongs to a connection would not let the ACK in; for 10 s (net.netfilter.nf_conntrack_tcp_timeout_close) a new
connection from the very same port of the client is refused.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from repmgr_hooks import clock

BURST = 100
BURST_PAUSE = 0.12
MOST_PAUSES = 30.0
"""Enough for 25,000 connections of one host."""
SYN = 0x02
OFFSET_5_WORDS = 5 << 4


@dataclass(frozen=True, order=True)
class Flow:
    """One client connection to a port of the gateway, as the client sees it."""

    client: str
    client_port: int
    gateway: str
    gateway_port: int


def send_resets(flows: Iterable[Flow]) -> int:
    """Send one SYN for each flow, and return how many that were.

    After all have been tried, raises OSError or ValueError; PermissionError (without CAP_NET_RAW) at once.

    In bursts: many connections may come from one host, a pooler's, and Linux answers with at most 1,000 challenge ACKs
    a second (net.ipv4.tcp_challenge_ack_limit before Linux 6.0). No other host waits for that one. The pauses take at
    most MOST_PAUSES seconds in all.
    """
    waiting: dict[str, deque[Flow]] = {}
    for flow in flows:
        waiting.setdefault(flow.client, deque()).append(flow)
    sent, pauses = 0, 0.0
    refused: OSError | ValueError | None = None
    while waiting:
        for client, left in list(waiting.items()):
            burst = BURST if pauses + BURST_PAUSE <= MOST_PAUSES else len(left)
            for flow in list(islice(left, burst)):
                left.popleft()
                sent += 1
                try:
                    _send(flow)
                except PermissionError:
                    raise
                except (OSError, ValueError) as error:
                    refused = error
                except struct.error as error:
                    refused = ValueError(f"{flow}: {error}")
            if not left:
                del waiting[client]
        if waiting:
            pauses += BURST_PAUSE
            clock.sleep(BURST_PAUSE)
    if refused:
        raise refused
    return sent


def _send(flow: Flow) -> None:
    family = socket.AF_INET6 if ":" in flow.client else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as raw:
        raw.bind((flow.gateway, 0))
        raw.sendto(syn(flow), (flow.client, 0))


def syn(flow: Flow) -> bytes:
    """Return the TCP header (20 bytes) of a SYN from the gateway's port to the client's."""
    header = struct.pack("!HHIIBBHHH", flow.gateway_port, flow.client_port, 0, 0, OFFSET_5_WORDS, SYN, 1024, 0, 0)
    pseudo_header = (
        ipaddress.ip_address(flow.gateway).packed
        + ipaddress.ip_address(flow.client).packed
        + struct.pack("!HH", socket.IPPROTO_TCP, len(header))
    )
    return header[:16] + struct.pack("!H", checksum(pseudo_header + header)) + header[18:]


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071) of an even number of bytes.

    >>> hex(checksum(bytes.fromhex("0001f203f4f5f6f7")))
    '0x220d'
    """
    total = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
