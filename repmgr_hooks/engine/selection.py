"""Which actions a run is about: those that the events' routes name, and whose ``when`` holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.notice import notice_of
from repmgr_hooks.engine.elsewhere import works_on
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.engine.run import ScheduledAction
from repmgr_hooks.event import Event
from repmgr_hooks.system.steps import Host


def select(routes: Sequence[Route], events: Sequence[Event], everything: bool = False) -> list[ScheduledAction]:
    """Return the actions for the events; without one, all that have something to look at; with ``everything`` both."""
    asked = ((route, [event for event in events if event.name in route.on]) for route in routes)
    return [
        chosen
        for route, matching in asked
        for action in route.do
        for chosen in _for_each(action, matching, everything or not events)
    ]


def _for_each(action: Action, events: list[Event], everything: bool) -> list[ScheduledAction]:
    """What has a state is made true once, for the newest event; a notification is given for every node and event."""
    events = [event for event in events if action.when.meant(event)]
    everything = everything and not action.when.needs_event
    if action.handler.observe:
        return [ScheduledAction(action, event) for event in events[-1:]] or (
            [ScheduledAction(action, None)] if everything else []
        )
    return [ScheduledAction(action, event) for event in {(event.name, event.node): event for event in events}.values()]


def without_events(managed: ManagedCluster, host: Host) -> list[ScheduledAction]:
    """Return what is considered without an event, as far as this gateway works on it."""
    return [item for item in select(managed.routes, []) if works_on(item.action, managed.cluster, host)]


def notices_and_others(scheduled: Sequence[ScheduledAction]) -> tuple[list[ScheduledAction], list[ScheduledAction]]:
    """Return the notifications, which have nothing to look at, and the actions that are to be made true."""
    notices = [item for item in scheduled if item.action.handler.observe is None]
    return notices, [item for item in scheduled if item.action.handler.observe is not None]


def applying(scheduled: Sequence[ScheduledAction], state: ClusterState) -> list[ScheduledAction]:
    """Leave out the actions whose ``when`` does not hold."""
    return [item for item in scheduled if item.action.when.applies(notice_of(replace(state, event=item.event)))]
