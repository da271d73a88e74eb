"""What ``serve-http`` answers: a function of what the service saw last. Pure.

The words are Patroni's (patroni.readthedocs.io, REST API): ``/primary``, ``/replica?lag=16MB``, 200 or 503. Patroni
runs on each node; we are asked for all of them, so a path names the node: ``/CLUSTER/nodes/NODE/primary``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote

from repmgr_hooks.journal.last_seen import SYNCHRONOUS, LastSeen, NodeSeen
from repmgr_hooks.reports.exposition import METRICS, Sample, render

OK, BAD_REQUEST, NOT_FOUND, UNAVAILABLE = 200, 400, 404, 503
JSON, TEXT = "application/json", "text/plain; version=0.0.4; charset=utf-8"
LAG = re.compile(r"([0-9]{1,15})(|B|kB|MB|GB|TB)")
NAME_A_NODE = "name a node: /CLUSTER/nodes/NODE/CHECK"


@dataclass(frozen=True)
class Answer:
    """A status code and a body."""

    status: int
    body: str
    kind: str = JSON


@dataclass(frozen=True)
class Known:
    """What is known of a cluster; ``seen`` is None if it is too old; ``left``: for how long it may be believed."""

    cluster: str
    seen: LastSeen | None
    left: float = 0.0


Check = Callable[[LastSeen, NodeSeen, int | None], bool]


def is_primary(seen: LastSeen, node: NodeSeen, lag: int | None = None) -> bool:
    """True for the one node that routes follow."""
    return node.reachable and node.node == seen.primary


def is_replica(seen: LastSeen, node: NodeSeen, lag: int | None = None) -> bool:
    """True for a standby that answers; with ``lag``, if it has replayed the primary's WAL up to so many bytes.

    On another timeline than the primary's its position says nothing.
    """
    standby = node.reachable and node.role == "standby"
    if lag is None:
        return standby
    return standby and node.timeline == seen.timeline and node.lag is not None and node.lag <= lag


def is_read_only(seen: LastSeen, node: NodeSeen, lag: int | None = None) -> bool:
    """True for the primary, too."""
    return is_primary(seen, node) or is_replica(seen, node, lag)


def is_synchronous(seen: LastSeen, node: NodeSeen, lag: int | None = None) -> bool:
    """True for a standby for which commits wait."""
    return is_replica(seen, node, lag) and node.sync_state in SYNCHRONOUS


def is_asynchronous(seen: LastSeen, node: NodeSeen, lag: int | None = None) -> bool:
    """True for any other standby."""
    return is_replica(seen, node, lag) and node.sync_state not in SYNCHRONOUS


CHECKS: Mapping[str, Check] = {
    "primary": is_primary,
    "read-write": is_primary,
    "leader": is_primary,
    "replica": is_replica,
    "read-only": is_read_only,
    "synchronous": is_synchronous,
    "sync": is_synchronous,
    "asynchronous": is_asynchronous,
    "async": is_asynchronous,
    "health": lambda seen, node, lag: node.reachable,
    # There is none: repmgr knows no standby cluster.
    "standby-leader": lambda seen, node, lag: False,
}


def answer(target: str, known: Sequence[Known], now: float) -> Answer:
    """Return the answer to a request; ``now`` in seconds since the epoch."""
    path, _, query = target.partition("?")
    words = [unquote(word) for word in path.split("/") if word]
    if words in ([], ["health"]):
        return _of_all(known)
    if words == ["metrics"]:
        return Answer(OK, render(sample for item in known for sample in _samples(item, now)), TEXT)
    if len(words) == 2 and words[1] == "health" and (item := _named(words[0], known)):
        return _of_cluster(item)
    match words:
        case [cluster, "nodes", node, check] if check in CHECKS:
            return _of_node(_named(cluster, known), node, CHECKS[check], query)
        case ["nodes", node, check] if check in CHECKS and len(known) < 2:
            return _of_node(known[0] if known else None, node, CHECKS[check], query)
        case ["nodes", _, check] if check in CHECKS:
            return _error(NOT_FOUND, "there are several clusters: /CLUSTER/nodes/NODE/CHECK")
        case [*_, check] if check in CHECKS:
            return _error(NOT_FOUND, NAME_A_NODE)
    return _error(NOT_FOUND, f"there is /health, /metrics, /CLUSTER/health; else {NAME_A_NODE}")


def _named(cluster: str, known: Sequence[Known]) -> Known | None:
    return next((item for item in known if item.cluster == cluster), None)


def _of_all(known: Sequence[Known]) -> Answer:
    """Alive is who has looked at each cluster lately."""
    fresh = bool(known) and all(item.seen for item in known)
    clusters = {item.cluster: _whole(item.seen) if item.seen else None for item in known}
    return Answer(OK if fresh else UNAVAILABLE, json.dumps(clusters))


def _of_cluster(item: Known) -> Answer:
    if item.seen is None:
        return _too_old(item)
    status = OK if item.seen.primary is not None else UNAVAILABLE
    return Answer(status, json.dumps(_whole(item.seen)))


def _whole(seen: LastSeen) -> dict[str, Any]:
    return dataclasses.asdict(dataclasses.replace(seen, numbers=()))


def _of_node(item: Known | None, name: str, check: Check, query: str) -> Answer:
    if item is None:
        # The service has not begun: no such cluster, as far as is known. Nobody may take that for a yes.
        return _error(UNAVAILABLE, "nothing is known of such a cluster: the name is wrong, or the service does not run")
    if item.seen is None:
        return _too_old(item)
    node = item.seen.node(name)
    if node is None:
        return _error(NOT_FOUND, f"cluster {item.cluster} has no node with this id or address")
    try:
        lag = _lag(query)
    except ValueError as error:
        return _error(BAD_REQUEST, str(error))
    whole = {"cluster": item.cluster, "primary": item.seen.primary, "message": item.seen.message}
    status = OK if check(item.seen, node, lag) else UNAVAILABLE
    return Answer(status, json.dumps({**whole, **dataclasses.asdict(node)}))


def _lag(query: str) -> int | None:
    """Return the bytes that ``lag=16MB`` allows. Raises ValueError.

    >>> _lag("lag=16MB"), _lag("lag=0"), _lag("")
    (16777216, 0, None)
    """
    given = parse_qs(query, keep_blank_values=True, max_num_fields=20).get("lag")
    if given is None:
        return None
    found = LAG.fullmatch(given[0])
    if found is None or len(given) > 1:
        raise ValueError("lag must be one number of bytes, or one in PostgreSQL's units, such as 16MB")
    return int(found[1]) << {"": 0, "B": 0, "kB": 10, "MB": 20, "GB": 30, "TB": 40}[found[2]]


def _too_old(item: Known) -> Answer:
    return _error(UNAVAILABLE, f"what was seen of cluster {item.cluster} is too old: is repmgr-hooks.service running?")


def _error(status: int, message: str) -> Answer:
    return Answer(status, json.dumps({"error": message}))


def _samples(item: Known, now: float) -> Iterator[Sample]:
    seen, cluster = item.seen, {"cluster": item.cluster}
    yield Sample("status_fresh", cluster, int(seen is not None))
    if seen is None:
        return
    numbers: dict[str, float | None] = {
        "primary_known": int(seen.primary is not None),
        "timeline": seen.timeline or None,
        "barman_streaming": None if seen.barman_streaming is None else int(seen.barman_streaming),
        "barman_lag_bytes": seen.barman_lag,
        "paused": int(seen.paused),
        # While a long step is taken, it may be believed for longer than after a look.
        "last_poll_timestamp_seconds": now - max(seen.valid_for - item.left, 0.0),
    }
    for metric, value in numbers.items():
        if value is not None:
            yield Sample(metric, cluster, value)
    for node in seen.nodes:
        labels = cluster | {"node": str(node.node)}
        yield Sample("node_up", labels, int(node.reachable))
        yield Sample("node_is_primary", labels, int(node.node == seen.primary))
        yield Sample("node_is_stale_primary", labels, int(node.stale_primary))
        if node.received_lag is not None:
            yield Sample("node_lag_bytes", labels, node.received_lag)
        if node.retained is not None:
            yield Sample("slot_retained_bytes", labels | {"slot": seen.slot}, node.retained)
    for metric, more, number in seen.numbers:
        if metric in METRICS:
            yield Sample(metric, cluster | more, number)
