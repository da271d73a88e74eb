"""What conntrackd's configuration says, and what the program prints (1.4.7 and 1.4.8: Debian 12 and 13)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

CONFIGURATION = "/etc/conntrackd/conntrackd.conf"
LINK = ("conntrackd", "-s", "link")
"""Prints each way to the other gateway, with counters; its socket is root's alone."""
CACHE = ("conntrackd", "-e")
"""Prints what the other gateway tracks, where that does not go into the kernel at once."""
CHANNEL = re.compile(
    r"^\w+ traffic device=(\S{1,64}) status=(\w{1,16}) role=\w{1,16}:\n"
    r" *\d+ Bytes sent +\d+ Bytes recv\n"
    r" *\d+ Pckts sent +(\d{1,20}) Pckts recv\n",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Channel:
    """A way to the other gateway, and how many packets have come by it."""

    device: str
    up: bool
    received: int


def parse_link(printed: str) -> tuple[Channel, ...]:
    """Parse what ``conntrackd -s link`` prints. Raises ValueError if it is something else.

    >>> parse_link("UDP traffic device=eth0 status=RUNNING role=ACTIVE:\\n"
    ...            "                  96 Bytes sent                   80 Bytes recv\\n"
    ...            "                   6 Pckts sent                    5 Pckts recv\\n")
    (Channel(device='eth0', up=True, received=5),)
    """
    found = tuple(Channel(device, up == "RUNNING", int(count)) for device, up, count in CHANNEL.findall(printed))
    if not found:
        raise ValueError("no channel")
    return found


def without_comments(text: str) -> str:
    """Return what a file of conntrackd's, or of keepalived's, says beside its comments."""
    return re.sub(r"[#!].*", "", text)


def blocks(text: str, *words: str) -> Iterator[list[str]]:
    """Return the words in each innermost block of a name.

    >>> list(blocks("Protocol Accept {\\n TCP\\n }\\nAddress Ignore { IPv4_address 10.0.0.21 }", "Protocol", "Accept"))
    [['TCP']]
    """
    name = r"\s+".join(map(re.escape, words))
    return (found.split() for found in re.findall(rf"(?i)(?<!\w){name}(?:\s+Default)?\s*\{{([^{{}}]*)\}}", text))


def fills_kernel(text: str) -> bool:
    """True if what the other gateway tracks goes into this one's kernel at once."""
    return bool(re.search(r"(?mi)^\s*DisableExternalCache\s+(yes|on)\b", text))
