"""What load balancers are answered; above all that never two nodes are the primary."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from repmgr_hooks.journal.last_seen import LastSeen, NodeSeen
from repmgr_hooks.reports.health import CHECKS, Known, answer

MB = 2**20
PRIMARY = NodeSeen(1, "10.0.0.11", True, "primary", 3, retained=4096)
SYNC = NodeSeen(2, "10.0.0.12", True, "standby", 3, True, 0, 0, "sync")
BEHIND = NodeSeen(3, "10.0.0.13", True, "standby", 3, True, 32 * MB, 0, "async")
SILENT = NodeSeen(4, "10.0.0.14", False, "unknown", 0)
STALE = NodeSeen(5, "10.0.0.15", True, "primary", 2, stale_primary=True)
DIVERGED = NodeSeen(6, "10.0.0.16", True, "standby", 2, False, 0, 0)
NODES = (PRIMARY, SYNC, BEHIND, SILENT, STALE, DIVERGED)
MAIN = LastSeen("main", 1, 3, "only", "node 1", NODES, 5, "barman", True, 512)
UNKNOWN = replace(MAIN, primary=None, timeline=0)
NOW = 1_000_000.0


def status(target: str, *seen: LastSeen | None) -> int:
    return answer(target, [Known(item.cluster if item else "main", item, 25.0) for item in seen], NOW).status


@pytest.mark.parametrize(
    ("check", "nodes"),
    [
        ("primary", [1]),
        ("read-write", [1]),
        ("leader", [1]),
        ("replica", [2, 3, 6]),
        ("replica?lag=16MB", [2]),
        ("replica?lag=32MB", [2, 3]),
        ("replica?lag=0", [2]),
        ("read-only", [1, 2, 3, 6]),
        ("read-only?lag=1MB", [1, 2]),
        ("sync", [2]),
        ("synchronous", [2]),
        ("async", [3, 6]),
        ("asynchronous?lag=64MB", [3]),
        ("health", [1, 2, 3, 5, 6]),
        ("standby-leader", []),
    ],
)
def test_each_check(check: str, nodes: list[int]) -> None:
    for way in (f"/main/nodes/{{}}/{check}", f"/nodes/{{}}/{check}"):
        assert [node.node for node in NODES if status(way.format(node.node), MAIN) == 200] == nodes
    assert [node.node for node in NODES if status(f"/main/nodes/{node.host}/{check}", MAIN) == 200] == nodes


@pytest.mark.parametrize(("check", "nodes"), [("primary", []), ("replica", [2, 3, 6]), ("replica?lag=1GB", [])])
def test_while_no_primary_is_known(check: str, nodes: list[int]) -> None:
    assert [node.node for node in NODES if status(f"/nodes/{node.node}/{check}", UNKNOWN) == 200] == nodes


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/health", 200),
        ("/", 200),
        ("/main/health", 200),
        ("/metrics", 200),
        ("/primary", 404),
        ("/main/primary", 404),
        ("/main/nodes/primary", 404),
        ("/main/nodes/7/primary", 404),
        ("/main/nodes/1/", 404),
        ("/main/nodes/1/frobnicate", 404),
        ("/main/nodes/2/replica?lag=", 400),
        ("/main/nodes/2/replica?lag=1mb", 400),
        ("/main/nodes/2/replica?lag=-1", 400),
        ("/main/nodes/2/replica?lag=1&lag=2", 400),
        ("/main/nodes/2/replica?lag=9999999999999999999", 400),
        ("/main/nodes/2/replica?other=1", 200),
        ("/no/nodes/1/primary", 503),
        ("//main///nodes/1/primary", 200),
        ("/%6dain/nodes/1/primary", 200),
    ],
)
def test_paths(target: str, expected: int) -> None:
    assert status(target, MAIN) == expected


def test_what_is_too_old_or_was_never_seen() -> None:
    for target in ("/health", "/main/health", "/nodes/1/primary", "/nodes/2/replica", "/main/nodes/1/health"):
        assert status(target, None) == 503, target
    for target in ("/health", "/nodes/1/primary", "/main/nodes/1/primary"):
        assert status(target) == 503, target
    assert status("/main/health", UNKNOWN) == 503
    assert status("/health", UNKNOWN) == 200, "the service is well"


def test_several_clusters() -> None:
    other = replace(MAIN, cluster="other", primary=None)
    assert status("/nodes/1/primary", MAIN, other) == 404
    assert status("/main/nodes/1/primary", MAIN, other) == 200
    assert status("/other/nodes/1/primary", MAIN, other) == 503
    assert status("/health", MAIN, None) == 503


def test_the_body_says_why() -> None:
    body = json.loads(answer("/nodes/2/primary", [Known("main", MAIN)], NOW).body)
    assert (body["cluster"], body["primary"], body["node"], body["role"]) == ("main", 1, 2, "standby")


def nodes_of(draw: st.DrawFn) -> tuple[NodeSeen, ...]:
    roles, flags = st.sampled_from(["primary", "standby", "witness", "unknown"]), st.booleans()
    return tuple(
        NodeSeen(number, f"10.0.0.{10 + number}", draw(flags), draw(roles), draw(st.integers(0, 5)), draw(flags))
        for number in range(1, draw(st.integers(1, 6)))
    )


@st.composite
def seen(draw: st.DrawFn) -> LastSeen:
    primary = draw(st.none() | st.integers(1, 7))
    return LastSeen("main", primary, draw(st.integers(0, 5)), "only", "", nodes_of(draw), 5)


@given(seen() | st.none())
def test_never_two_primaries(item: LastSeen | None) -> None:
    for check in ("primary", "read-write", "leader"):
        yes = [number for number in range(1, 8) if status(f"/nodes/{number}/{check}", item) == 200]
        assert len(yes) <= 1
        assert yes in ([], [item.primary if item else None])


@given(st.sampled_from(sorted(CHECKS)), st.text(max_size=20), st.text(max_size=20))
def test_no_target_is_too_odd(check: str, node: str, query: str) -> None:
    for target in (f"/main/nodes/{node}/{check}?{query}", f"/{node}/{check}?lag={query}", f"/{query}{node}"):
        assert status(target, MAIN) in (200, 400, 404, 503)


def test_metrics() -> None:
    text = answer("/metrics", [Known("main", MAIN, 25.0), Known("old", None)], NOW).body
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    found = {
        (sample.name.removeprefix("repmgr_hooks_"), *(v for k, v in sorted(sample.labels.items()))): sample.value
        for sample in samples
    }
    assert len(found) == len(samples)
    assert (found["status_fresh", "main"], found["status_fresh", "old"]) == (1, 0)
    assert [key for key in found if "old" in key] == [("status_fresh", "old")]
    assert found["last_poll_timestamp_seconds", "main"] == NOW - 5
    assert [found["node_is_primary", "main", str(node.node)] for node in NODES] == [1, 0, 0, 0, 0, 0]
    assert [found["node_is_stale_primary", "main", str(node.node)] for node in NODES] == [0, 0, 0, 0, 1, 0]
    assert (found["slot_retained_bytes", "main", "1", "barman"], found["barman_lag_bytes", "main"]) == (4096, 512)
