"""What a service of many clusters looks at first: the nodes of all, and what cannot wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.config import Config
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.event import Event
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.last_seen import Publisher, read_all
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.loop import Loop
from repmgr_hooks.service.turns import Pace, Turns, turns_of, visits_everywhere
from repmgr_hooks.settings.cluster import ProbeSettings
from tests.fake import SERVED_BY_NODE_1, FakeHost, NatTable
from tests.unit.service.test_controller import tmp_path

__all__ = ["tmp_path"]


def controller(loaded: Config, journal: Journal, host: FakeHost, place: Path) -> ClusterController:
    """Of a cluster that was looked after before."""
    managed = loaded.clusters["main"]
    assert handle(managed, host, []).ok
    ClusterController(managed, journal, host, loaded).work()
    host.ran.clear()
    return ClusterController(managed, journal, host, loaded, publisher=Publisher(place, "main"))


def test_the_nodes_are_shown_and_nothing_is_started(loaded: Config, journal: Journal, tmp_path: Path) -> None:
    host = FakeHost()
    queue = controller(loaded, journal, host, tmp_path)
    assert queue.glance()
    assert {program.argv[0] for program in host.ran} == {"iptables-save"}, "which is read once for all clusters"
    ((name, seen, _),) = read_all(tmp_path)
    assert (name, seen and seen.primary) == ("main", 1)


def failed_over(host: FakeHost, journal: Journal) -> None:
    host.fail_over()


def event_waits(host: FakeHost, journal: Journal) -> None:
    journal.add_event("main", Event(2, "standby_promote"), 1.0)


def paused(host: FakeHost, journal: Journal) -> None:
    journal.pause("main", None, "")


def no_primary(host: FakeHost, journal: Journal) -> None:
    host.nodes[1].in_recovery = True


@pytest.mark.parametrize("change", [failed_over, event_waits, paused, no_primary])
def test_what_is_not_as_remembered_waits_for_no_turn(
    change: Callable[[FakeHost, Journal], None], loaded: Config, journal: Journal, tmp_path: Path
) -> None:
    host = FakeHost()
    queue = controller(loaded, journal, host, tmp_path)
    change(host, journal)
    assert not queue.glance()


def test_all_nodes_have_been_looked_at_before_the_first_cluster_is_asked_everything() -> None:
    turns = [turns_of(number, 100) for number in range(1, 100)]
    assert max(turn.nodes for turn in turns) < 3 < 10
    assert max(turn.nodes for turn in turns) < min(turn.everything for turn in turns)
    assert max(turn.everything for turn in turns) < min(turn.clients for turn in turns)


def test_nodes_are_looked_at_all_the_same_while_the_rest_waits(
    loaded: Config, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 150 clusters the last waited 45 s: who died meanwhile was not seen, and what was shown had grown too old."""
    host = FakeHost()
    queue = controller(loaded, journal, host, tmp_path)
    monkeypatch.setattr(queue, "_tick", 0.01)
    loop = Loop(queue, None, lambda: None, lambda: None, Turns(0.0, 600.0, 900.0))

    def work() -> float:
        loop.stop()
        return 0.0

    monkeypatch.setattr(queue, "work", work)
    loop.start()
    end = time.monotonic() + 60
    while not list(read_all(tmp_path)):
        assert time.monotonic() < end
        time.sleep(0.01)
    host.fail_over()
    loop.join(60)
    assert not loop.is_alive(), "it has gone on to look at everything"


def test_a_port_that_leads_elsewhere_than_to_the_primary_waits_for_no_turn(
    loaded: Config, journal: Journal, tmp_path: Path
) -> None:
    """Somebody has loaded old rules while the service was down."""
    host = FakeHost()
    queue = controller(loaded, journal, host, tmp_path)
    host.nat = NatTable(SERVED_BY_NODE_1.replace("10.0.0.11", "10.0.0.12"))
    assert not queue.glance()


def of(interval: int, ports: int, loaded: Config) -> ManagedCluster:
    """A cluster whose ports are tried every so many seconds."""
    main = loaded.clusters["main"]
    gateway = replace(main.cluster.gateway, ports={f"p{number}": 20000 + number for number in range(ports)})
    cluster = replace(main.cluster, name=f"every {interval} s", gateway=gateway, probe=ProbeSettings(interval=interval))
    return Opening(cluster, main.routes)


class Opening(ManagedCluster):
    """Opens all its ports."""

    @property
    def opened_ports(self) -> tuple[str, ...]:
        return tuple(self.cluster.gateway.ports)


def test_ports_that_are_seldom_tried_do_not_slow_down_those_that_are_tried_often(loaded: Config) -> None:
    """600 ports that were tried once an hour made 150 s of the 5 s of another cluster."""
    everywhere = visits_everywhere([of(5, 2, loaded), of(3600, 600, loaded)])
    assert Pace(2, 5, everywhere).period == 5
    many = visits_everywhere([of(30, 1000, loaded)])
    assert Pace(10, 30, many).period == pytest.approx(250)
    assert Pace(10, 30, visits_everywhere([of(30, 120, loaded)])).at_once == 10
