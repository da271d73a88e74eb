"""Rules of others in the gateway's kernel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.lab import Host, Lab


@contextlib.contextmanager
def rules(lab: Lab, *commands: str) -> Iterator[None]:
    """Commands of nft, iptables or iptables-legacy; whatever a hint removes, all of it is gone afterwards."""
    gateway = lab.gateway
    saved, before = gateway.run("iptables-save"), tables(gateway)
    try:
        for command in commands:
            program, _, rest = command.partition(" ")
            gateway.run(program, *([rest] if program == "nft" else rest.split()))
        yield
    finally:
        for table in tables(gateway) - before:
            gateway.run("nft", f"delete {table}")
        gateway.run("iptables-restore", stdin=saved)
        if any(command.startswith("iptables-legacy ") for command in commands):
            gateway.run("iptables-legacy", "-P", "FORWARD", "ACCEPT")
            for table in ("filter", "nat", "raw"):
                gateway.run("iptables-legacy", "-t", table, "-F")


def tables(host: Host) -> set[str]:
    """The tables of nft, among them those of iptables: ``table ip nat``."""
    return set(host.run("nft", "list tables").splitlines())
