"""The configuration file as frozen dataclasses. All mistakes are reported at once, each with its line and path."""

from __future__ import annotations

import io
import logging
import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import yaml

from repmgr_hooks import consistency, event
from repmgr_hooks.alerts.receivers import Receiver
from repmgr_hooks.catalogue import is_event, shorten
from repmgr_hooks.engine.routes import ALWAYS, Action, ManagedCluster, Route, When
from repmgr_hooks.errors import Problem, UsageError, did_you_mean, listed, mistake
from repmgr_hooks.files import untrusted
from repmgr_hooks.handlers import installed, slot
from repmgr_hooks.hook import CONFIG, STATE_DIR, state_dir_in
from repmgr_hooks.log import hint
from repmgr_hooks.settings.backoff import Backoff
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.document import Document, TooMany, join
from repmgr_hooks.settings.schema import Directory, Identifier, NotEmpty, Positive, Range

log = logging.getLogger(__name__)

LARGEST = 256 * 1024
STDIN = Path("-")


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


def config_path(given: str | None) -> Path:
    """Return ``--config``, else ``$REPMGR_HOOKS_CONFIG``, else the default."""
    return Path(given or os.environ.get("REPMGR_HOOKS_CONFIG") or CONFIG)


def load(path: Path, here: bool = True) -> Config:
    """Read the configuration. Raises UsageError that lists every mistake, or that others could have written it.

    ``here``: as that of this host. Otherwise nothing but the file is looked at, and it may be STDIN.
    """
    try:
        text = _text(path) if here or path != STDIN else _decoded(sys.stdin.buffer.read(LARGEST + 1))
        # When it has been read: in a directory of another user's it could have come, or changed, in between.
        if here and (wrong := untrusted(path)):
            raise UsageError(f"{path} is refused: {wrong}", hint=wrong.hint)
        document = Document(text, here)
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply, or a part that contains itself") from None
    except TooMany as error:
        raise UsageError(f"{path}: {error}", hint=error.hint) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}", hint="name the file with --config") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UsageError(f"{path}: line {line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if document.problems:
        raise _mistakes(path, document)
    try:
        config = _config(document, path)
        named = state_dir_in(io.StringIO(text, newline=None))
        if not document.problems and named != config.service.state_dir:
            plainly = "write plainly 'state_dir: PATH'"
            document.problem("state_dir", "the hook reads this line without YAML", plainly)
    except TooMany as error:
        raise UsageError(f"{path}: {error}", hint=error.hint) from None
    if document.problems:
        raise _mistakes(path, document)
    return config


def _mistakes(path: Path, document: Document) -> UsageError:
    count = len(document.problems)
    return UsageError(listed(f"{path}: {count} mistake{'s'[: count != 1]}:", document.problems))


def _text(path: Path) -> str:
    """Read a file that is one: a FIFO would let us wait for ever. Raises OSError, UnicodeDecodeError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a file")
        text = b""
        while len(text) <= LARGEST and (part := os.read(descriptor, LARGEST)):
            text += part
    finally:
        os.close(descriptor)
    return _decoded(text)


def _decoded(text: bytes) -> str:
    if len(text) > LARGEST:
        raise OSError(f"it is larger than {LARGEST // 1024} KiB")
    return text.decode()


def _config(document: Document, path: Path) -> Config:
    data = document.data
    if not isinstance(data, dict):
        document.problem("", "the file must hold a mapping with 'clusters'")
        data = {"clusters": {}}
    service = document.read(Service, {key: value for key, value in data.items() if key != "clusters"}, "")
    texts = document.read(Mapping[Identifier, Any], data.get("clusters"), "clusters")
    named = {name: text for name, text in texts.items() if name}
    clusters = {
        name: found for name, text in named.items() if (found := _managed(document, name, text, f"clusters.{name}"))
    }
    consistency.check_retry(document, (service or Service()).retry)
    consistency.check_shared(document, clusters)
    consistency.check_alerts(document, (service or Service()).alerts, clusters)
    unseen = dict.fromkeys(filter(None, document.unseen))
    return Config(path, service or Service(), clusters, tuple(unseen))


def _managed(document: Document, name: str, text: Any, path: str) -> ManagedCluster | None:
    options = dict(text) if isinstance(text, dict) else {}
    routes = _routes(document, options.pop("routes", None), join(path, "routes"))
    found = document.read(Cluster, options, path)
    if found is None:
        return None
    cluster = replace(found, name=name)
    consistency.check_cluster(document, cluster, path)
    for route_number, route in enumerate(routes):
        for number, action in enumerate(route.do):
            for problem in _invalid(action, cluster, document.here):
                place = f"{path}.routes[{route_number}].do[{number}].{action.name}"
                document.problem(place, problem.message, problem.hint)
    managed = ManagedCluster(cluster, tuple(routes))
    if len({action.config.synced for action in managed.actions if _is_about_standbys(action)}) > 1:
        document.problem(f"{path}.routes", "slots of standbys cannot be both absent and synced", "give one 'state'")
    return managed


def _is_about_standbys(action: Action) -> bool:
    return isinstance(action.config, slot.Config) and action.config.on == "standbys"


def _invalid(action: Action, cluster: Cluster, here: bool) -> list[Problem]:
    try:
        found = list(action.handler.validate(action.config, cluster))
        if strange := next((each for each in found if not isinstance(each, Problem)), None):
            raise TypeError(f"{strange!r} is no Problem")
        return found
    except BaseException as error:  # whatever a plug-in raises
        origin = installed(here)[action.name].origin
        return [mistake(f"a bug in the handler ({origin}): 'validate' failed: {error!r}")]


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
    known = installed(document.here)
    if name not in known:
        near = did_you_mean(name, known) or f"installed are {', '.join(known)}"
        document.problem(join(path, name), "no such handler", near)
        return None
    handler = known[name].module
    try:
        config = document.read(handler.Config, options if options is not None else {}, join(path, name))
    except (TypeError, KeyError, NameError, AttributeError) as error:
        origin = known[name].origin
        document.problem(join(path, name), f"a bug in the handler ({origin}): its Config cannot be read: {error!r}")
        return None
    if config is None or when is None:
        return None
    title = _title(name, options) + (f" when {_plain_yaml(item['when'])}" if "when" in item else "")
    return Action(name, handler, config, title, path.partition(".routes")[2], when)


def _title(name: str, options: Any) -> str:
    return f"{name} {_plain_yaml(options or {})}"


def _plain_yaml(options: Any) -> str:
    """Return options as they stand in the file, on one line (safe_dump would quote ``on``)."""
    if not isinstance(options, dict):
        return str(options).lower() if isinstance(options, bool) else str(options)
    return f"{{{', '.join(f'{key}: {_plain_yaml(value)}' for key, value in options.items())}}}"
