"""Of several gateways, what is left to the one that has the virtual address.

Each leads its own ports all the time, so that whichever gets the address serves at once. What exists once is worked on
where the address is. The others see whether it is done, for a port that comes after it opens no earlier there: the
address may come at any moment, and with it the clients that the port was closed to.
"""

from __future__ import annotations

from collections.abc import Sequence

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.gateways import stands_back
from repmgr_hooks.engine.routes import Action
from repmgr_hooks.engine.run import ScheduledAction
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.served import serves
from repmgr_hooks.system.steps import Host, Step

ELSEWHERE = "elsewhere"
"""The code of what is left to the gateway that has the address."""


def works_on(action: Action, cluster: Cluster, host: Host) -> bool:
    """Whether this gateway is the one that takes the steps of an action."""
    return not action.shared_in(cluster) or serves(cluster.gateway, host)


def concerning(scheduled: Sequence[ScheduledAction], cluster: Cluster, host: Host) -> list[ScheduledAction]:
    """Return what this gateway does, and what it waits for because something that it does comes after it."""
    ours = [works_on(item.action, cluster, host) for item in scheduled]
    waited_for = [not item.action.helper and any(ours[index:]) for index, item in enumerate(scheduled)]
    return [item for item, own, wait in zip(scheduled, ours, waited_for, strict=True) if own or wait]


def must_be_ours(action: Action, missing: Sequence[Step], state: ClusterState, host: Host) -> None:
    """Raises OperationFailed if these steps are left to another gateway."""
    cluster, what = state.cluster, "; ".join(step.what for step in missing)
    if not missing or not action.shared_in(cluster):
        return
    if not works_on(action, cluster, host):
        raise OperationFailed(f"left to the gateway that has {cluster.gateway.address}: {what}", code=ELSEWHERE)
    if stands_back(cluster, state.primary, host):
        also = f"left to the gateway that has {cluster.gateway.address}, too, and is named before this one"
        raise OperationFailed(f"{also}: {what}", code=ELSEWHERE)
