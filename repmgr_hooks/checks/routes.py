"""What the routes themselves show: an event that nobody sends, a port that nothing opens, an order that cannot work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.cluster.wal import size
from repmgr_hooks.engine.routes import Action, ManagedCluster
from repmgr_hooks.errors import did_you_mean
from repmgr_hooks.event import CATALOGUE, RoleClaim
from repmgr_hooks.handlers import barman, firewall, slot

LEAST_LAG = 1024 * 1024
PROMOTIONS = frozenset(name for name, info in CATALOGUE.items() if info.meaning == RoleClaim.PRIMARY and not info.until)
"""What a repmgr of today reports when a node has become the primary."""


def look(managed: ManagedCluster, monitor_interval: int) -> Iterator[Finding]:
    """Judge the routes of a cluster; neither the cluster nor this host is looked at."""
    name = managed.cluster.name
    yield _ports(Topic("routes.ports", name), managed, monitor_interval)
    yield _order(Topic("routes.order", name), managed)
    for port in managed.cluster.readers:
        yield _readers(Topic("routes.readers", f"{name} {port}"), managed, port)
    if managed.cluster.barman:
        yield _barman(Topic("routes.barman", name), managed)
    yield from _other_slots(Topic("routes.slots", name), managed)


def events(managed: ManagedCluster) -> Finding:
    """Name the events that this version does not know; online repmgr itself is asked for its version."""
    topic = Topic("routes.events", managed.cluster.name)
    unknown = sorted({name for route in managed.routes for name in route.on} - set(CATALOGUE))
    if not unknown:
        return topic.ok("every event is one of repmgr's")
    near = [hint for name in unknown if (hint := did_you_mean(name, CATALOGUE))]
    what = f"repmgr is not known to send {', '.join(unknown)}"
    return topic.warn(what, "; ".join(near) or "see that this repmgr sends it: repmgr cluster event --all")


def _ports(topic: Topic, managed: ManagedCluster, monitor_interval: int) -> Finding:
    ports = managed.cluster.gateway.ports
    after_a_promotion = {action.config.open for action in _promoted(managed) if _opens(action)}
    if closed := [port for port in ports if port not in managed.opened_ports]:
        hint = "add 'firewall: {open: NAME}' to a route, or take the port out"
        return topic.warn(f"no route opens port {', '.join(closed)}", hint)
    opened = {action.config.open for action in managed.actions if _opens(action) and action.when.holds_at_any_look}
    if sometimes := [port for port in ports if port not in opened]:
        what = (
            f"port {', '.join(sometimes)} is opened only for some events: not at boot, and not by a look or 'reconcile'"
        )
        return topic.warn(what, "take 'when' out there")
    if unheard := [port for port in ports if port not in after_a_promotion]:
        hint = f"name one in 'on' of its route: {', '.join(sorted(PROMOTIONS))}"
        what = f"port {', '.join(unheard)} is opened after no event that reports a promotion"
        if monitor_interval:
            return topic.warn(f"{what}: only at the next look, after up to {monitor_interval} s", hint)
        return topic.fail(f"{what}, and there are no looks without one ('monitor_interval: 0')", hint)
    return topic.ok("each is opened after a promotion")


def _order(topic: Topic, managed: ManagedCluster) -> Finding:
    """Actions are carried out from top to bottom, and what comes after one that fails waits for it."""
    actions = _promoted(managed)
    streams, switches = (_places(actions, kind) for kind in (_streams, _switches))
    holds = [place for place in _places(actions, _holds) if _is_barmans(actions[place], managed)]
    opens = _places(actions, _leads)
    unheld = {action.config.open for action in actions[: holds[0]] if _opens(action)} if holds else set()
    unheld -= managed.cluster.readers.keys()
    led = any(_streams(action) and action.config.models for action in actions)
    if holds and streams and streams[0] < holds[0]:
        what = "barman {stream: true} stands before slot {on: primary}, through which it streams"
    elif streams and switches and switches[0] < streams[0]:
        what = "barman {switch_wal: ...} stands before barman {stream: true}, which brings the WAL that it waits for"
    elif unheld == managed.cluster.gateway.ports.keys() - managed.cluster.readers and (len(unheld) > 1 or led):
        what = "every port is open before slot {on: primary}: what clients write until then is kept for nobody"
    elif streams and managed.cluster.readers and not opens and not led:
        what = "barman {stream: true} has no port to the primary: each one that is opened is for readers"
        hint = "open Barman's port by 'firewall: {open: NAME}', before slot {on: primary}"
        return topic.fail(what, hint)
    elif streams and opens and streams[0] < opens[0] and not led:
        what = "barman {stream: true} stands before every firewall action: Barman's port leads to the old primary then"
    else:
        return topic.ok("no action waits for one below it")
    return topic.warn(what, 'move it down; the order is from top to bottom (config/README.md, "The gate")')


def _readers(topic: Topic, managed: ManagedCluster, port: str) -> Finding:
    cluster, settings = managed.cluster, managed.cluster.readers[port]
    if sum(not node.witness for node in cluster.nodes.values()) < 2:
        return topic.warn("there is one node, which is never a standby", "add the standbys to 'nodes'")
    if settings.max_lag < LEAST_LAG:
        what = f"max_lag ({size(settings.max_lag)}) is what a busy primary writes in a moment: standbys come and go"
        return topic.warn(what, f"set it to {size(LEAST_LAG)} or more")
    return topic.ok(f"new connections are shared by the standbys that lack at most {size(settings.max_lag)}")


def _barman(topic: Topic, managed: ManagedCluster) -> Finding:
    """A cluster with a section ``barman`` wants Barman to follow, and no slot left where nobody fetches the WAL."""
    actions = managed.actions
    of_barman = [a for a in actions if isinstance(a.config, slot.Config) and _is_barmans(a, managed)]
    if not any(map(_holds, of_barman)):
        hint = "add 'slot: {on: primary}'"
        return topic.warn("no route keeps Barman's slot on the primary: WAL is lost to Barman in a failover", hint)
    if not any(map(_streams, actions)):
        return topic.warn("no route moves Barman's stream to the primary", "add 'barman: {stream: true}'")
    if all(map(_holds, of_barman)):
        what = "no route is about the slot on standbys: left on an old primary, it holds WAL until the disk is full"
        return topic.warn(what, "add 'slot: {on: standbys, state: absent}', or 'state: synced'")
    return topic.ok("slot and stream follow the primary")


def _other_slots(topic: Topic, managed: ManagedCluster) -> Iterator[Finding]:
    """A slot that is kept on the primary is left on it when it is demoted, and then nobody reads it."""
    slots = [action for action in managed.actions if isinstance(action.config, slot.Config)]
    dropped = {action.config.slot_name(managed.cluster) for action in slots if not _holds(action)}
    barman = managed.cluster.barman
    for name in managed.kept_slots:
        if name not in dropped and not (barman and name in barman.slots):
            left = "left on an old primary, it holds WAL until the disk is full"
            what = f"no route is about slot {name} on standbys: {left}"
            hint = f"add 'slot: {{name: {name}, on: standbys, state: absent}}', or 'state: synced'"
            yield topic.warn(what, hint)


def _promoted(managed: ManagedCluster) -> list[Action]:
    """Return what is done after a promotion, in order."""
    return [action for route in managed.routes if route.on & PROMOTIONS for action in route.do]


def _places(actions: Sequence[Action], kind: Callable[[Action], bool]) -> list[int]:
    return [place for place, action in enumerate(actions) if kind(action)]


def _opens(action: Action) -> bool:
    return isinstance(action.config, firewall.Config)


def _leads(action: Action) -> bool:
    return isinstance(action.config, firewall.Config) and action.config.to == "primary"


def _holds(action: Action) -> bool:
    return isinstance(action.config, slot.Config) and action.config.on == "primary"


def _is_barmans(action: Action, managed: ManagedCluster) -> bool:
    barman = managed.cluster.barman
    return barman is not None and bool(action.config.slot_name(managed.cluster) == barman.slot_name)


def _streams(action: Action) -> bool:
    return isinstance(action.config, barman.Config) and action.config.stream


def _switches(action: Action) -> bool:
    """True for one that only waits for the archive; with ``stream`` in one action the stream comes first."""
    return isinstance(action.config, barman.Config) and bool(action.config.switch_wal)
