"""IPv4 or IPv6: the programs, the words and the spellings of netfilter's that differ between the two."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from repmgr_hooks.system.steps import Program

LOCK_WAIT = "5"


@dataclass(frozen=True)
class Family:
    """What differs between IPv4 and IPv6."""

    address: str

    @property
    def six(self) -> bool:
        return ipaddress.ip_address(self.address).version == 6

    @property
    def iptables(self) -> str:
        return "ip6tables" if self.six else "iptables"

    @property
    def forwarding(self) -> str:
        return "net.ipv6.conf.all.forwarding" if self.six else "net.ipv4.ip_forward"

    def exactly(self, host: str) -> str:
        return f"{host}/128" if self.six else f"{host}/32"

    def socket(self, host: str, port: int) -> str:
        return f"[{host}]:{port}" if self.six else f"{host}:{port}"

    def restore(self, changes: str) -> Program:
        return Program((f"{self.iptables}-restore", "--noflush", "--wait", LOCK_WAIT), stdin=changes)

    def listing(self, gateway: str) -> Program:
        return Program(self._conntrack("-L", gateway))

    def forget(self, gateway: str, port: int, host: str) -> Program:
        words = self._conntrack("-D", gateway, "--orig-port-dst", str(port), "--reply-src", host)
        return Program(words, tolerate="0 flow entries have been deleted")

    def _conntrack(self, verb: str, gateway: str, *more: str) -> tuple[str, ...]:
        return ("conntrack", verb, "-f", "ipv6" if self.six else "ipv4", "-p", "tcp", "--orig-dst", gateway, *more)
