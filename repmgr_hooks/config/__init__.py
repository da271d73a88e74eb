"""The configuration file as frozen dataclasses. All mistakes are reported at once, each with its line and path."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from repmgr_hooks import event
from repmgr_hooks.alerts.receivers import Receiver
from repmgr_hooks.catalogue import is_event, shorten
from repmgr_hooks.config import consistency
from repmgr_hooks.config_file import outline
from repmgr_hooks.engine.routes import ALWAYS, Action, ManagedCluster, Route, When
from repmgr_hooks.errors import Problem, UsageError, did_you_mean, mistake
from repmgr_hooks.handlers import BUILT_IN, handler, plug_ins
from repmgr_hooks.hook import STATE_DIR
from repmgr_hooks.log import hint
from repmgr_hooks.netfilter.route import route_to
from repmgr_hooks.settings.backoff import Backoff
from repmgr_hooks.settings.cluster import Cluster, Readers
from repmgr_hooks.settings.document import Document
from repmgr_hooks.settings.schema import Directory, Identifier, NotEmpty, Positive, Range
from repmgr_hooks.settings.yaml_text import join

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What holds for all clusters; ``retention_days`` is the age at which the journal is pruned.

    ``monitor_interval``: seconds after which the worker looks whether the cluster is in its desired state, also without
    an event; 0: never.
    ``alerts``: who receives them.
    """

    state_dir: Directory = STATE_DIR
    retry: Backoff = Backoff()
    monitor_interval: Annotated[int, Range(0, 3600)] = 5
    retention_days: Positive = 90
    alerts: Annotated[tuple[Receiver, ...], NotEmpty()] = ()


@dataclass(frozen=True)
class Config:
    """The whole file."""

    path: Path
    service: Service
    clusters: Mapping[str, ManagedCluster]
    unseen: tuple[str, ...] = ()
    """What the file names of the host that it is for, and was not looked at."""

    @property
    def state_dir(self) -> Path:
        """Where journal, spool and locks stand."""
        return Path(self.service.state_dir)


@dataclass(frozen=True)
class _RouteText:
    on: Annotated[tuple[str, ...], NotEmpty()]
    do: Annotated[tuple[Any, ...], NotEmpty()]


def which_cluster(clusters: Mapping[str, ManagedCluster], name: str | None, node: int) -> str:
    """Return the cluster of an event about a node: the named one, the only one, or the only one that has the node.

    Raises UsageError.
    """
    if name and name not in clusters:
        raise UsageError(f"the configuration has no cluster {name!r}", hint=did_you_mean(name, clusters))
    having = [key for key, managed in clusters.items() if node in managed.cluster.nodes]
    found = [name] if name else list(clusters) if len(clusters) == 1 else having
    if len(found) != 1:
        which = (
            f"several clusters ({', '.join(having)}) have"
            if having
            else f"none of the clusters {', '.join(clusters)} has"
        )
        raise UsageError(f"{which} a node {node}", hint="name one with --cluster, also in repmgr.conf")
    return found[0]


def load(path: Path, here: bool = True) -> Config:
    """Read the configuration. Raises UsageError that lists every mistake, or that others could have written it.

    ``here``: as that of this host. Otherwise nothing but the file is looked at, and it may be ``config_file.STDIN``.
    """
    document = outline.read(path, lambda text: Document(text, here), here)
    with outline.size_limited(path):
        config = _config(document, path)
        outline.check_state_dir(document, config.service.state_dir)
        outline.check_names(document, config.clusters)
    outline.refuse(path, document)
    return _as_on_this_host(config) if here else config


def _as_on_this_host(loaded: Config) -> Config:
    """Several gateways have one file; what it says of Barman may be different on each."""
    return replace(loaded, clusters={name: _seen_from_here(managed) for name, managed in loaded.clusters.items()})


def _seen_from_here(managed: ManagedCluster) -> ManagedCluster:
    cluster, barman = managed.cluster, managed.cluster.barman
    if barman is None or not barman.gateways:
        return managed
    return replace(managed, cluster=replace(cluster, barman=barman.seen_from(_own_address(cluster))))


def _own_address(cluster: Cluster) -> str:
    return next((each for each in cluster.gateway.hosts if route_to(each).local), "")


def is_out_of_date(loaded: Config) -> bool:
    """True if it did not say what is Barman's on this host, for the host's address came later than it was read."""
    clusters = [managed.cluster for managed in loaded.clusters.values()]
    several = [(each.barman, each) for each in clusters if each.barman and each.barman.gateways]
    return any((own := _own_address(each)) and barman.seen_from(own) != barman for barman, each in several)


def _config(document: Document, path: Path) -> Config:
    data = document.data
    if not isinstance(data, dict):
        document.problem("", "the file must hold a mapping with 'clusters'")
        data = {"clusters": {}}
    service = document.read(Service, {key: value for key, value in data.items() if key != "clusters"}, "")
    texts = document.read(Mapping[Identifier, Any], data.get("clusters"), "clusters")
    named = {name: text for name, text in texts.items() if name}
    clusters = {
        name: found
        for name, text in named.items()
        if (found := _managed(document, name, text, f"clusters.{name}", (service or Service()).state_dir))
    }
    consistency.check_retry(document, (service or Service()).retry)
    consistency.check_shared(document, clusters)
    consistency.check_interval(document, (service or Service()).monitor_interval, clusters)
    consistency.check_alerts(document, (service or Service()).alerts, clusters)
    unseen = dict.fromkeys(filter(None, document.unseen))
    return Config(path, service or Service(), clusters, tuple(unseen))


def _managed(document: Document, name: str, text: Any, path: str, state_dir: str) -> ManagedCluster | None:
    options = dict(text) if isinstance(text, dict) else {}
    routes = _routes(document, options.pop("routes", None), join(path, "routes"))
    found = document.read(Cluster, options, path)
    if found is None:
        return None
    cluster = replace(found, name=name, state_dir=state_dir, readers=_readers(document, routes, join(path, "routes")))
    consistency.check_cluster(document, cluster, path)
    for route_number, route in enumerate(routes):
        for number, action in enumerate(route.do):
            for problem in _invalid(action, cluster, document.here):
                place = f"{path}.routes[{route_number}].do[{number}].{action.name}"
                document.problem(place, problem.message, problem.hint)
            if unknown := [str(node) for node in action.when.node if node not in cluster.nodes]:
                place = f"{path}.routes[{route_number}].do[{number}].when.node"
                hint = f"its nodes: {', '.join(map(str, cluster.nodes))}"
                document.problem(place, f"the cluster has no node {', '.join(unknown)}", hint)
    managed = ManagedCluster(cluster, tuple(routes))
    kept = {(a.config.slot_name(cluster), a.config.synced) for a in managed.actions if _is_about_standbys(a)}
    for slot in sorted(name for name, synced in kept if synced and (name, False) in kept):
        what = f"slot {slot} of standbys cannot be both absent and synced"
        document.problem(f"{path}.routes", what, "give one 'state'")
    return managed


def _readers(document: Document, routes: Sequence[Route], path: str) -> dict[str, Readers]:
    """Return the ports that are opened for readers; each must be led in one way."""
    ways: dict[str, set[Readers | None]] = {}
    for action in (action for route in routes for action in route.do if action.name == "firewall"):
        ways.setdefault(action.config.open, set()).add(action.config.readers)
    for port, different in ways.items():
        if len(different) > 1:
            hint = "give the same 'to', 'max_lag' and 'if_none' wherever it is opened"
            document.problem(path, f"port {port!r} is opened in two ways", hint)
    return {port: next(filter(None, way)) for port, way in ways.items() if any(way)}


def _is_about_standbys(action: Action) -> bool:
    return action.name == "slot" and action.config.on == "standbys"


def _invalid(action: Action, cluster: Cluster, here: bool) -> list[Problem]:
    try:
        found = list(action.handler.validate(action.config, cluster))
        if strange := next((each for each in found if not isinstance(each, Problem)), None):
            raise TypeError(f"{strange!r} is no Problem")
        return found
    except BaseException as error:  # whatever a plug-in raises
        return [mistake(f"a bug in the handler ({_origin(action, here)}): 'validate' failed: {error!r}")]


def _origin(action: Action, here: bool) -> str:
    found = handler(action.name, here)
    return found.origin if found else ""


def _routes(document: Document, value: Any, path: str) -> list[Route]:
    if not isinstance(value, list):
        document.problem(path, "must be a list of 'on' and 'do'")
        return []
    if not value:
        document.problem(path, "must not be empty: nothing would be done")
    texts = (document.read(_RouteText, item, f"{path}[{index}]") for index, item in enumerate(value))
    return [_route(document, text, f"{path}[{index}]") for index, text in enumerate(texts) if text is not None]


def _route(document: Document, text: _RouteText, path: str) -> Route:
    for index, name in enumerate(text.on):
        if not is_event(name):
            document.problem(f"{path}.on[{index}]", f"{shorten(name)} is not the name of an event")
        elif name not in event.CATALOGUE and document.here:  # elsewhere `check --offline` has a finding about it
            near = did_you_mean(name, event.CATALOGUE)
            what = "%s.on[%d]: %s is not an event of repmgr that this version knows"
            log.warning(what, path, index, name, extra=hint(near))
        if name in text.on[:index]:
            document.problem(f"{path}.on[{index}]", f"{name} appears twice")
    actions = (_action(document, item, f"{path}.do[{index}]") for index, item in enumerate(text.do))
    return Route(frozenset(text.on), tuple(action for action in actions if action is not None))


def _action(document: Document, item: Any, path: str) -> Action | None:
    named = {key: value for key, value in item.items() if key != "when"} if isinstance(item, dict) else {}
    if len(named) != 1:
        document.problem(
            path, "must be one handler and its options, such as 'firewall: {open: app}', and may have 'when'"
        )
        return None
    ((name, options),) = named.items()
    when = document.read(When, item["when"], join(path, "when")) if "when" in item else ALWAYS
    found = handler(name, document.here) if isinstance(name, str) else None
    if found is None:
        known = [*BUILT_IN, *plug_ins(document.here)]
        near = did_you_mean(name, known) or f"installed are {', '.join(known)}"
        document.problem(join(path, name), "no such handler", near)
        return None
    try:
        config = document.read(found.module.Config, options if options is not None else {}, join(path, name))
    except (TypeError, KeyError, NameError, AttributeError) as error:
        document.problem(
            join(path, name), f"a bug in the handler ({found.origin}): its Config cannot be read: {error!r}"
        )
        return None
    if config is None or when is None:
        return None
    title = _title(name, options) + (f" when {_plain_yaml(item['when'])}" if "when" in item else "")
    return Action(name, found.module, config, title, path.partition(".routes")[2], when)


def _title(name: str, options: Any) -> str:
    return f"{name} {_plain_yaml(options or {})}"


def _plain_yaml(options: Any) -> str:
    """Return options as they stand in the file, on one line (safe_dump would quote ``on``)."""
    if not isinstance(options, dict):
        return str(options).lower() if isinstance(options, bool) else str(options)
    return f"{{{', '.join(f'{key}: {_plain_yaml(value)}' for key, value in options.items())}}}"
