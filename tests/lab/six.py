"""What a lab with IPv6 addresses has different: the files of ``config/``, with its addresses put right."""

from __future__ import annotations

import re


def adapted(text: str) -> str:
    """Return a file of ``config/`` for IPv6.

    >>> adapted("host=10.0.0.20 10.0.0.20/32 10.0.0.0/24")
    'host=fd00::20 fd00::20/128 fd00::/64'
    """
    text = text.replace("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
    text = re.sub(r"\b10\.0\.0\.0/24\b", "fd00::/64", text)
    return re.sub(r"\b10\.0\.0\.(\d+)(/32)?", lambda found: f"fd00::{found[1]}{'/128' if found[2] else ''}", text)
