"""Of several gateways, is this the one that works on what exists once: the slot, Barman's stream, messages, programs?

Whoever has the virtual address does. keepalived gives it to one; the kernel is asked anew each time, which costs a
netlink message. Nothing is agreed between gateways, and nothing is remembered: what is left to do the cluster says.
"""

from __future__ import annotations

from repmgr_hooks.settings.cluster import Gateway
from repmgr_hooks.system.steps import Host


def serves(gateway: Gateway, host: Host) -> bool:
    """True if clients come to this host: it is the only gateway, or it has the virtual address now."""
    return not gateway.hosts or host.route(gateway.address).local is True
