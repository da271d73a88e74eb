"""A node that repmgr reaches on another port than we do: a warning and an alert, and no rule follows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster.node_ports import EVERY, PortWatch, moved
from repmgr_hooks.cluster.repmgr_files import Identity, identities
from tests.fake import FakeHost

CLUSTER = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"].cluster


def said(host: FakeHost) -> list[str]:
    return [str(problem) for _, problem in moved(CLUSTER, identities(1, host, 2))]


def test_a_node_on_another_port_of_its_host() -> None:
    host = FakeHost()
    assert said(host) == []
    host.nodes[2].port = 5433
    assert said(host) == ["node 2: repmgr.nodes has port 5433; clients are still led to 5432"]
    host.nodes[2].host = "10.9.9.2"
    assert said(host) == [], "by another network it may be another port"


@pytest.mark.parametrize(
    ("conninfo", "port"),
    [
        ("host=a", 5432),
        ("postgresql://repmgr@a:5433/repmgr", 5433),
        ("host=a,b port=1,2", None),
        ("port=-1", None),
        pytest.param("port=" + "9" * 5000, None, id="no number that Python reads"),
        ("nonsense", None),
    ],
)
def test_the_port_in_a_conninfo(conninfo: str, port: int | None) -> None:
    class Said(FakeHost):
        def fetch(self, *asked: object) -> list[tuple[object, ...]]:
            return [(1, "db1", conninfo, "/etc/repmgr.conf")]

    assert identities(1, Said(), 2)[1].port == port


def test_what_no_configuration_has_is_left_alone() -> None:
    assert list(moved(CLUSTER, {9: Identity("db9", "10.0.0.11", port=1), 1: Identity("db1", "10.0.0.11")})) == []


def test_a_conninfo_that_names_no_host_says_nothing_of_its_port() -> None:
    """``service=db1``: pg_service.conf on that node has both."""
    assert list(moved(CLUSTER, {1: Identity("db1", "", conninfo="service=db1", port=5433)})) == []


def test_it_is_asked_once_a_minute_and_an_answer_holds_while_nobody_knows_better() -> None:
    host, watch = FakeHost(), PortWatch()
    host.nodes[2].port = 5433
    assert [problem.code for problem in watch.look(CLUSTER, 1, host)] == ["port_moved"]
    host.nodes[2].port = 5432
    assert len(watch.look(CLUSTER, 1, host)) == 1
    host.sleep(EVERY)
    assert len(watch.look(CLUSTER, None, host)) == 1
    host.nodes[1].reachable = False
    assert len(watch.look(CLUSTER, 1, host)) == 1
    host.sleep(EVERY)
    host.nodes[1].reachable = True
    assert watch.look(CLUSTER, 1, host) == ()


def test_a_port_of_its_own_is_what_repmgr_has() -> None:
    host = FakeHost()
    host.nodes[2].port = 5433
    theirs = replace(CLUSTER, nodes={**CLUSTER.nodes, 2: replace(CLUSTER.nodes[2], port=5433)})
    assert list(moved(theirs, identities(1, host, 2))) == []
