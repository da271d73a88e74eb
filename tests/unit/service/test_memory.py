"""What is remembered keeps clients from a primary that came back from the dead, whatever else goes wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cli import configured
from repmgr_hooks.cli import main as cli
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.config import Config
from repmgr_hooks.engine.routes import Action, ManagedCluster, Route
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import command
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.foreground import run_now
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost

LOADED = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml")
MAIN = LOADED.clusters["main"]
NODE_2_ON_TIMELINE_2 = LastKnownPrimary(2, 2, FakeHost().nodes[1].system_identifier)
EMPTY_CHAINS = "*nat\n:repmgr_dnat - [0:0]\n:repmgr_snat - [0:0]\nCOMMIT"


class FullDisk(Journal):
    """A journal that can be read; once the disk is ``full``, every change fails."""

    full = False

    def change(self, do):  # type: ignore[no-untyped-def]
        if self.full:
            raise OperationFailed("the journal cannot be used: database or disk is full")
        return super().change(do)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[FullDisk]:
    made = FullDisk(tmp_path / "journal.db")
    made.remember("main", NODE_2_ON_TIMELINE_2)
    yield made
    made.close()


@pytest.fixture
def host() -> FakeHost:
    """Node 2, the primary, is silent; node 1 is back on its old timeline, and the ports are closed."""
    made = FakeHost()
    made.fail_over()
    made.nodes[2].reachable, made.nodes[1].reachable = False, True
    made.nodes[1].registered = (1,)
    made.nat.restore(EMPTY_CHAINS)
    return made


def test_by_hand_with_a_full_disk_a_stale_primary_gets_nobody(journal: FullDisk, host: FakeHost) -> None:
    journal.full = True
    assert not run_now(MAIN, host, [Event(1, "primary_register")], "event", journal).ok
    assert host.leads_to(host.app_port) is None


def test_the_service_with_a_full_disk_leads_nobody_to_a_stale_primary(
    journal: FullDisk, host: FakeHost, loaded: Config
) -> None:
    journal.add_event("main", Event(1, "repmgrd_start"), time.time(), "a")
    journal.full = True
    queue = ClusterController(MAIN, journal, host, loaded)
    queue.work()
    queue.blind.set()
    queue.work()
    assert host.leads_to(host.app_port) is None


def test_a_second_failover_with_a_full_disk_is_remembered(journal: FullDisk, loaded: Config) -> None:
    host = FakeHost()
    host.fail_over()
    host.promote(2)
    journal.full = True
    queue = ClusterController(MAIN, journal, host, loaded)
    queue.blind.set()
    queue.work()
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"
    host.nodes[2].reachable, host.nodes[1].reachable = False, True
    host.nodes[1].timeline = 2
    host.nat.restore(EMPTY_CHAINS)
    queue.blind.set()
    queue.work()
    assert host.leads_to(host.app_port) is None, "node 2 was on timeline 3"


@pytest.mark.parametrize("forget", [False, True])
def test_a_dry_run_knows_what_is_remembered_and_forgets_nothing(
    journal: FullDisk, host: FakeHost, loaded: Config, monkeypatch: pytest.MonkeyPatch, forget: bool
) -> None:
    monkeypatch.setattr(configured, "LocalHost", lambda conninfos, **_: host)
    monkeypatch.setattr(configured.config, "load", lambda path: loaded)
    more = ["--reset-state"] if forget else []
    assert cli.run(["reconcile", "--dry-run", *more]) == (0 if forget else 1)
    assert journal.last_known("main") == NODE_2_ON_TIMELINE_2
    assert host.changes == []


def test_a_promotion_that_has_been_undone_proves_nothing_any_more(journal: FullDisk) -> None:
    now = time.time()
    journal.add_event("main", Event(1, "repmgrd_failover_promote"), now + 1, "a")
    assert journal.last_known("main").promoted == {1}
    journal.add_event("main", Event(1, "node_rejoin"), now + 100, "b")
    assert journal.last_known("main").promoted == frozenset()
    journal.add_event("main", Event(1, "standby_promote"), now + 200, "c")
    assert journal.last_known("main").promoted == {1}


# -- a failed run is not forgotten for another run ---------------------------------------------------------------------


def with_a_pager() -> ManagedCluster:
    page = Action("command", command, command.Config(run=("page", "dba")), "command {run: [page]}", "[9].do[0]")
    return ManagedCluster(MAIN.cluster, (*MAIN.routes, Route(frozenset(["standby_failure"]), (page,))))


def test_the_pager_is_called_although_a_drift_was_mended_meanwhile(journal: FullDisk, loaded: Config) -> None:
    journal.forget("main")
    host, calls = FakeHost(), []

    def page(program: Program) -> str:
        calls.append(program)
        if len(calls) == 1:
            raise OperationFailed("page: exit code 1")
        return ""

    host.programs["page"] = page
    queue = ClusterController(with_a_pager(), journal, host, loaded)
    queue.work()
    journal.add_event("main", Event(2, "standby_failure"), time.time(), "a")
    queue.work()
    host.nat.restore(EMPTY_CHAINS)
    queue._monitor.look_now()
    queue.work()
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"
    assert len(calls) == 2
    assert journal.runs(1)[0].ok


def test_an_event_without_a_route_does_not_end_the_retries(journal: FullDisk, loaded: Config) -> None:
    journal.forget("main")
    host = FakeHost()
    host.fail_over()
    host.barman.health = "ruins"
    queue = ClusterController(MAIN, journal, host, loaded)
    queue.work()
    assert journal.runs(1)[0].ok is False
    host.barman.health = "good"
    journal.add_event("main", Event(2, "repmgrd_start"), time.time(), "a")
    queue.work()
    assert journal.runs(1)[0].ok
    assert host.barman.streams_from == 2
    assert "000000020000000000000005" in host.barman.archived
