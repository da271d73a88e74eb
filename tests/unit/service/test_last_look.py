"""What the service has just found to be well is not looked at again by a ``status`` of many clusters; only while the
nodes, the rules, the receiver and the configuration are what they were then.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import clock
from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.cluster.obstacles import Hindrance
from repmgr_hooks.config import Config
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.last_look import PROBED_WITHIN, last_look
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.handlers.barman import COMPARE_EVERY
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.last_seen import Publisher, forget_others
from repmgr_hooks.reports.look import Spared, look
from repmgr_hooks.reports.status import ClusterStatus
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.prober import Prober
from repmgr_hooks.service.turns import Pace
from repmgr_hooks.settings.cluster import Node, ProbeSettings
from repmgr_hooks.system.visit import Visit
from tests import fake
from tests.fake import FakeHost, FakeNode, Wall
from tests.unit.engine.test_dispatcher import WIPED
from tests.unit.service.test_controller import later, tmp_path

__all__ = ["tmp_path"]


class Counting(FakeHost):
    """Counts the clients' visits."""

    visits = 0

    def visit_each(self, dsns: Mapping[str, str], limit: float) -> dict[str, Visit]:
        self.visits += len(dsns)
        return super().visit_each(dsns, limit)


class Service:
    """The service of one cluster, and a ``status`` beside it that takes over what it may."""

    def __init__(self, loaded: Config, journal: Journal, host: Counting, wall: Wall) -> None:
        self.loaded, self.journal, self.host, self.wall = loaded, journal, host, wall
        self.directory = loaded.state_dir
        self.prober = Prober(self.managed, host, journal)
        publisher = Publisher(self.directory, "main")
        self.controller = ClusterController(
            self.managed, journal, host, loaded, prober=self.prober, publisher=publisher
        )

    @property
    def managed(self) -> ManagedCluster:
        return self.loaded.clusters["main"]

    def look(self, seconds: float = 5.0) -> None:
        """Look after so many seconds, clients first."""
        later(self.wall, self.host, seconds)
        self.prober.probe()
        self.controller.work()

    def status(self, managed: ManagedCluster | None = None) -> tuple[ClusterStatus, list[str], int]:
        """Return the status, the programs that it has started, and how many clients it has sent."""
        self.host.ran.clear()
        visits = self.host.visits
        spared = Spared(*last_look(self.directory, "main"))
        found = look(managed or self.managed, self.host, self.journal, self.loaded, spared)
        started = sorted({program.argv[0] for program in self.host.ran})
        return found, started, self.host.visits - visits


def begin(journal: Journal) -> int:
    return journal.begin_run("main", "event", 1, [])


def end(journal: Journal, run: int, ok: bool = True, primary: int | None = 1, timeline: int = 1) -> None:
    journal.end_run(run, ok, not ok, "", primary, timeline)


def started(loaded: Config, journal: Journal, wall: Wall, host: Counting, monkeypatch: pytest.MonkeyPatch) -> Service:
    """All is well, and the service has looked twice: the first look has no fingerprints to compare with.

    For how long a look is believed goes by the clock of the test: a machine may stand still for half a minute.
    """
    moments = itertools.count(1000.0, 0.01)
    monkeypatch.setattr(clock, "since_boot", lambda: host.now() + next(moments))
    wall.host = None
    assert handle(loaded.clusters["main"], host, []).ok
    made = Service(loaded, journal, host, wall)
    end(journal, begin(journal))
    made.look()
    made.look()
    return made


@pytest.fixture
def service(loaded: Config, journal: Journal, wall: Wall, monkeypatch: pytest.MonkeyPatch) -> Service:
    return started(loaded, journal, wall, Counting(), monkeypatch)


def test_of_what_is_well_nothing_is_looked_at_again(service: Service) -> None:
    found, started, visits = service.status()
    assert found.healthy
    assert (started, visits) == (["iptables-save"], 0)
    later(service.wall, service.host, 7)
    lines = service.status()[0].lines()
    assert "  port 54322 (app): leads to node 1, and a client writes there" in lines
    assert lines[-1] == "  clients, Barman's files, repmgr.conf: as the service found them 7 s ago"


def test_a_look_at_one_looks_at_all(service: Service) -> None:
    service.host.ran.clear()
    found = look(service.managed, service.host, service.journal, service.loaded)
    assert found.healthy and found.spared_since == 0.0
    assert {"conntrack", "find", "python3"} <= {program.argv[0] for program in service.host.ran}
    assert service.host.visits > 0


def test_of_very_many_ports_visits_are_believed_until_the_next_is_due(service: Service) -> None:
    service.prober._pace = Pace(2, 30, 1000 / 30)
    service.look()
    late_clients(service)
    service.controller.work()
    assert service.status()[2] == 0
    later(service.wall, service.host, 170)
    service.controller.work()
    assert service.status()[2] > 0, "after 250 s and some more"


def foreign_rule(service: Service) -> None:
    service.host.nat.generation += 1


def flushed(service: Service) -> None:
    service.host.nat.restore(WIPED)


def new_primary(service: Service) -> None:
    service.host.fail_over()


def no_service(service: Service) -> None:
    path = service.directory / "cluster-main.look"
    moment = path.stat().st_mtime - 300
    os.utime(path, (moment, moment))


def other_boot(service: Service) -> None:
    path = service.directory / "cluster-main.look"
    there = path.stat().st_mtime_ns
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot": "another"}))
    os.utime(path, ns=(there, there))


def late_clients(service: Service) -> None:
    later(service.wall, service.host, PROBED_WITHIN + 1)


def clock_set_back(service: Service) -> None:
    service.wall.time -= 3600


def failed_run(service: Service) -> None:
    end(service.journal, begin(service.journal), ok=False)


def run_cut_off(service: Service) -> None:
    """The service ended in it: what it was to prove, as that WAL is archived, no look asks."""
    begin(service.journal)


def no_run_on_this_timeline(service: Service) -> None:
    end(service.journal, begin(service.journal), timeline=0)


@pytest.mark.parametrize(
    ("change", "looked_at", "visited"),
    [
        (foreign_rule, {"conntrack"}, False),
        (flushed, {"find", "iptables-save"}, True),
        (new_primary, {"iptables-save"}, True),
        (no_service, {"conntrack", "find"}, True),
        (other_boot, {"conntrack", "find"}, True),
        (late_clients, {"conntrack", "find"}, True),
        (clock_set_back, {"conntrack", "find"}, True),
        (failed_run, {"conntrack", "find"}, True),
        (run_cut_off, {"conntrack", "find"}, True),
        (no_run_on_this_timeline, {"conntrack", "find"}, True),
    ],
)
def test_what_has_changed_is_looked_at(
    service: Service, change: Callable[[Service], None], looked_at: set[str], visited: bool
) -> None:
    change(service)
    found, started, visits = service.status()
    assert looked_at <= set(started)
    assert bool(visits) == visited == (found.spared_since == 0.0)


def test_another_configuration_than_the_services_is_looked_at(service: Service) -> None:
    managed = service.managed
    other = replace(managed, cluster=replace(managed.cluster, probe=ProbeSettings(timeout=9)))
    found, started, visits = service.status(other)
    assert found.spared_since == 0.0
    assert visits and "iptables-save" in started


def client_rejected(service: Service) -> None:
    service.host.nodes[1].client = Visit(error="FATAL: no pg_hba.conf entry", sqlstate="28000")


def stale_primary(service: Service) -> None:
    service.host.nodes[2].in_recovery = False


def node_lost(service: Service) -> None:
    service.host.nodes[2].reachable = False


@pytest.mark.parametrize("wrong", [client_rejected, stale_primary, node_lost])
def test_while_the_service_finds_something_wrong_all_is_looked_at(
    service: Service, wrong: Callable[[Service], None]
) -> None:
    wrong(service)
    service.look()
    found, started, visits = service.status()
    assert not found.healthy and found.spared_since == 0.0
    assert visits and "iptables-save" in started
    assert not (service.directory / "cluster-main.look").exists()


def test_what_is_wrong_since_the_look_is_seen_in_the_nodes(service: Service) -> None:
    node_lost(service)
    found, _, _ = service.status()
    assert "  WARNING node 2 does not answer" in found.lines()


def test_another_receiver_is_looked_into(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it receives may come into another directory, or be of another branch."""
    monkeypatch.setattr(fake, "SENDER_PID", 4812)
    found, started, visits = service.status()
    assert found.healthy and found.spared_since
    assert ({"find", "python3"} <= set(started), visits) == (True, 0)


def test_what_is_due_again_is_looked_at(service: Service) -> None:
    """The service looks at all once in each turn; a status between that and the turn's begin looks itself."""
    last = last_look(service.directory, "main")[0]
    assert last
    later(service.wall, service.host, COMPARE_EVERY)
    service.prober.probe()
    seen = replace(last, probed=service.wall.time)
    found = look(service.managed, service.host, service.journal, service.loaded, Spared(seen, 1.0))
    assert found.spared_since
    assert {"find", "conntrack"} <= {program.argv[0] for program in service.host.ran}


def test_what_is_removed_from_the_configuration_is_forgotten(service: Service) -> None:
    assert (service.directory / "cluster-main.look").exists()
    forget_others(service.directory, [])
    assert not (service.directory / "cluster-main.look").exists()


def test_only_the_services_own_file_is_believed(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    assert last_look(service.directory, "main")[0]
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert last_look(service.directory, "main") == (None, 0.0)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"boot": 1}', '{"probes": 3}', '{"probes": [{"code": "x"}]}'])
def test_a_file_of_other_content_is_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster-main.look"
    path.write_text(text)
    moment = clock.since_boot() + 10
    os.utime(path, (moment, moment))
    assert last_look(tmp_path, "main") == (None, 0.0)


def test_a_look_that_shows_nothing_new_writes_nothing(service: Service) -> None:
    path = service.directory / "cluster-main.look"
    before = path.stat()
    later(service.wall, service.host, 5)
    service.controller.work()
    after = path.stat()
    assert (after.st_ino, after.st_mtime >= before.st_mtime) == (before.st_ino, True)


def test_what_has_no_fingerprint_is_looked_at(service: Service) -> None:
    """As a slot, which is part of what the nodes have just said."""
    service.host.nodes[1].slots.clear()
    found, _, _ = service.status()
    assert any("create slot barman" in line for line in found.lines())


@pytest.fixture
def with_reports(
    loaded: Config, journal: Journal, wall: Wall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Service:
    """A third node is for reports: its repmgr.conf, which stands here, says ``failover=manual``."""
    managed = loaded.clusters["main"]
    nodes = {**managed.cluster.nodes, 3: Node("10.0.0.13")}
    loaded.clusters["main"] = replace(managed, cluster=replace(managed.cluster, nodes=nodes))
    conf = "node_id={0}\nnode_name=db{0}\nconninfo='host=10.0.0.1{0}'\nfailover='{1}'\npromote_command='true'\n"
    for number, failover in ((2, "automatic"), (3, "manual")):
        (tmp_path / f"repmgr-{number}.conf").write_text(conf.format(number, failover))
    monkeypatch.setattr(repmgr_files, "PLACES", (f"{tmp_path}/repmgr-*.conf".lstrip("/"),))
    host = Counting()
    host.nodes[3] = FakeNode("10.0.0.13")
    return started(loaded, journal, wall, host, monkeypatch)


def test_a_standby_that_repmgr_would_not_promote_is_no_candidate(with_reports: Service) -> None:
    """That another one would be promoted makes it no fault; it stays one that would not."""
    service = with_reports
    whole = look(service.managed, service.host, service.journal, service.loaded)
    found, _, visits = service.status()
    assert (visits, found.spared_since > 0) == (0, True)
    assert found.readiness == whole.readiness
    assert found.readiness and found.readiness.candidates == (2,)


def test_that_no_standby_is_left_that_repmgr_would_promote_is_seen_at_once(with_reports: Service) -> None:
    node_lost(with_reports)
    found, _, _ = with_reports.status()
    assert found.readiness and found.readiness.candidates == ()
    assert [obstacle.code for obstacle in found.obstacles] == [Hindrance.MANUAL]


def test_what_a_run_that_was_cut_off_has_not_proved_is_not_taken_for_right(service: Service) -> None:
    run_cut_off(service)
    service.host.barman.archived.clear()
    service.look()
    found, _, _ = service.status()
    assert not found.healthy
    assert any("archive" in line for line in found.lines())


def test_an_event_without_a_route_proves_nothing_else(service: Service) -> None:
    """Such a run does not ask who the primary is."""
    end(service.journal, begin(service.journal), primary=None, timeline=0)
    found, started, visits = service.status()
    assert found.healthy
    assert (started, visits) == (["iptables-save"], 0)
