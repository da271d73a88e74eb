"""IPv4 or IPv6: the words and the spellings of netfilter's that differ between the two."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from repmgr_hooks.settings.endpoint import Endpoint


@dataclass(frozen=True)
class Family:
    """What differs between IPv4 and IPv6."""

    address: str

    @property
    def six(self) -> bool:
        """True for IPv6."""
        return ipaddress.ip_address(self.address).version == 6

    @property
    def name(self) -> str:
        """What nf_tables calls it."""
        return "ip6" if self.six else "ip"

    @property
    def iptables(self) -> str:
        """The program."""
        return f"{self.name}tables"

    @property
    def forwarding(self) -> str:
        """The sysctl that lets the kernel forward."""
        return "net.ipv6.conf.all.forwarding" if self.six else "net.ipv4.ip_forward"

    def exactly(self, host: str) -> str:
        """Return a host as a network of one address, as ``iptables-save`` prints it."""
        return f"{host}/128" if self.six else f"{host}/32"

    def list_connections(self, gateway: str) -> tuple[str, ...]:
        """Return the words that print the tracked TCP connections to the gateway's address."""
        return self._conntrack("-L", gateway)

    def delete_connections(self, gateway: str, port: int, to: Endpoint) -> tuple[str, ...]:
        """Return the words that delete, and print, those of one port that really lead to a node."""
        there = ("--reply-src", to.host, "--reply-port-src", str(to.port))
        return self._conntrack("-D", gateway, "--orig-port-dst", str(port), *there)

    def _conntrack(self, verb: str, gateway: str, *more: str) -> tuple[str, ...]:
        return ("conntrack", verb, "-f", "ipv6" if self.six else "ipv4", "-p", "tcp", "--orig-dst", gateway, *more)
