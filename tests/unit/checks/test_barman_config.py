"""Where Barman's own connection strings lead: to the primary, by one of our ports, and to nobody's standby."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repmgr_hooks.checks import barman_config
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Readers
from tests.fake import FakeHost

BARMAN = Barman("main_backup")
GATEWAY = Gateway("10.0.0.20", {"readers": 54323, "barman": 54321, "app": 54322})
MAIN = Cluster({1: Node("10.0.0.11"), 2: Node("10.0.0.12")}, GATEWAY, name="main", readers={"readers": Readers(1)})


def judged(cluster: Cluster, said: dict[str, str]) -> Finding:
    return barman_config.way(Topic("barman.conninfo", "main_backup"), cluster, said, False, BARMAN, FakeHost())


def by(port: int, **others: str) -> dict[str, str]:
    return dict.fromkeys(("conninfo", "streaming_conninfo"), f"host=10.0.0.20 port={port}") | others


@pytest.mark.parametrize("option", ["conninfo", "streaming_conninfo"])
def test_a_port_for_readers_is_no_way_to_the_primary(option: str) -> None:
    assert judged(MAIN, by(54321)).level == judged(MAIN, by(54322)).level == "OK"
    found = judged(MAIN, by(54321, **{option: "host=10.0.0.20 port=54323"}))
    assert (found.level, found.hint) == ("FAIL", "in Barman's file: host=10.0.0.20 port=54321 in both")
    assert f"{option} leads to 10.0.0.20 port 54323, not through a port of the gateway that is led" in found.message


def test_backups_may_come_from_a_standby() -> None:
    streams = dict.fromkeys(("wal_streaming_conninfo", "wal_conninfo"), "host=10.0.0.20 port=54321")
    assert judged(MAIN, by(54323, **streams)).level == "OK"
    assert judged(MAIN, by(54321, wal_streaming_conninfo="host=10.0.0.20 port=54323")).level == "FAIL"


def test_where_all_ports_are_for_readers() -> None:
    only = replace(MAIN, gateway=Gateway("10.0.0.20", {"readers": 54323}))
    assert judged(only, by(54323)).level == "FAIL"


SIX = Cluster({1: Node("fd00::11")}, Gateway("fd00::20", {"barman": 54321}), name="main")


@pytest.mark.parametrize(
    ("place", "level"),
    [
        ("fd00::20", "OK"),
        ("FD00:0:0::20", "OK"),
        ("fd00:0000:0000:0000:0000:0000:0000:0020", "OK"),
        ("fd00::21", "FAIL"),
        ("db1", "OK"),
        ("cafe", "FAIL"),
    ],
)
def test_an_address_may_be_written_in_several_ways_and_a_name_of_letters_from_a_to_f(place: str, level: str) -> None:
    host, way = FakeHost(), f"host={place} port=54321"
    host.barman.names = {"db1": "fd00::20"}
    said = {"conninfo": way, "streaming_conninfo": way}
    assert barman_config.way(Topic("barman.conninfo", "main_backup"), SIX, said, False, BARMAN, host).level == level
