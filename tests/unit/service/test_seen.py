"""What the service shows to others: at each look, at the beginning of a run, during a pause."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster.decide import PrimaryDecision, decide
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import observe
from repmgr_hooks.config import Config
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.drift import Drift
from repmgr_hooks.engine.run import ActionResult
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.event import Event
from repmgr_hooks.former_primary import record
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.last_seen import LastSeen, Publisher, read_all
from repmgr_hooks.reports.health import Known, answer
from repmgr_hooks.reports.look import look
from repmgr_hooks.reports.metrics import measure
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.seen import Surroundings, seen_of
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost, FakeSlot, Wall
from tests.unit.service.test_controller import later

REPOSITORY = Path(__file__).resolve().parents[3]


class Showing(Publisher):
    """Keeps all that was shown, besides."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, "main")
        self.shown: list[LastSeen] = []

    def publish(self, seen: LastSeen, longer: float = 0.0) -> None:
        super().publish(seen, longer)
        if not self.shown or seen != self.shown[-1]:
            self.shown.append(seen)


Begin = Callable[..., tuple[ClusterController, Showing]]


@pytest.fixture
def begin(loaded: Config, journal: Journal, host: FakeHost, tmp_path: Path) -> Begin:
    def begun(interval: int = 5) -> tuple[ClusterController, Showing]:
        publisher = Showing(tmp_path)
        service = replace(loaded.service, monitor_interval=interval)
        managed = loaded.clusters["main"]
        own = replace(loaded, service=service)
        return ClusterController(managed, journal, host, own, publisher=publisher), publisher

    return begun


def primaries(publisher: Showing) -> list[int | None]:
    """Each that was shown, in order."""
    return [number for number, _ in groupby(seen.primary for seen in publisher.shown)]


def test_what_is_seen(loaded: Config, host: FakeHost) -> None:
    host.nodes[2].upstream, host.nodes[2].behind = 1, 4096
    cluster = loaded.clusters["main"].cluster
    seen = seen_of(decide(observe(cluster, host)), cluster, 5)
    assert (seen.primary, seen.timeline, seen.code, seen.barman_streaming, seen.barman_lag) == (1, 1, "only", True, 0)
    one, two = seen.nodes
    assert (one.role, one.lag, one.retained is not None) == ("primary", None, True)
    assert (two.role, two.streaming, two.lag, two.received_lag) == ("standby", True, 4096, 4096)


@pytest.mark.parametrize(("client", "lag", "sync"), [("10.0.0.12", 8192, "quorum"), ("10.0.0.99", 0, "")])
def test_what_a_standby_has_replayed_is_known_to_its_sender(
    loaded: Config, host: FakeHost, client: str, lag: int, sync: str
) -> None:
    cluster = loaded.clusters["main"].cluster
    decision = decide(observe(cluster, host))
    primary, standby = decision.states
    sender = replace(primary.senders[0], client=client, replayed=primary.lsn - 8192, sync_state="quorum")
    decision = replace(decision, states=(replace(primary, senders=(*primary.senders, sender)), standby))
    two = seen_of(decision, cluster, 5).nodes[1]
    assert (two.lag, two.sync_state) == (lag, sync)


def test_a_failover(
    begin: Begin, host: FakeHost, journal: Journal, wall: Wall, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is seen is shown before the first step: the old primary may come back while steps are taken."""
    controller, publisher = begin()
    controller.work()
    host.fail_over()
    shown_meanwhile: list[int | None] = []
    run = host.run

    def watched(*words: object) -> str:
        shown_meanwhile.append(publisher.shown[-1].primary)
        return run(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(host, "run", watched)
    journal.add_event("main", Event(2, "standby_promote"), wall.time)
    controller.work()
    assert set(shown_meanwhile) == {2}
    assert primaries(publisher) == [1, 2]


def test_nobody_is_the_primary(begin: Begin, host: FakeHost, wall: Wall) -> None:
    controller, publisher = begin()
    controller.work()
    host.nodes[1].reachable = False
    later(wall, host, 5)
    controller.work()
    assert primaries(publisher)[-1] is None


def test_a_pause(begin: Begin, host: FakeHost, journal: Journal, wall: Wall) -> None:
    """Nothing is done, and what is asked is answered all the same."""
    controller, publisher = begin()
    controller.work()
    journal.pause("main", None, "")
    assert controller.work() == 5
    host.fail_over()
    later(wall, host, 5)
    assert controller.work() == 5
    assert [(seen.primary, seen.paused) for seen in publisher.shown] == [(1, False), (1, True), (2, True)]


def test_without_looks_nothing_is_shown(begin: Begin, journal: Journal, wall: Wall) -> None:
    controller, publisher = begin(0)
    journal.add_event("main", Event(1, "primary_register"), wall.time)
    controller.work()
    journal.pause("main", None, "")
    assert controller.work() > 60
    assert publisher.shown == []


def test_what_cannot_be_shown_stops_nothing(begin: Begin, tmp_path: Path, host: FakeHost, wall: Wall) -> None:
    controller, _ = begin()
    (tmp_path / "cluster-main.json").mkdir()
    controller.work()
    assert [seen for _, seen, _ in read_all(tmp_path)] == [None]
    (tmp_path / "cluster-main.json").rmdir()
    later(wall, host, 5)
    controller.work()
    assert [seen.primary for _, seen, _ in read_all(tmp_path) if seen] == [1]


def test_the_last_known_primary_counts(begin: Begin, journal: Journal, host: FakeHost) -> None:
    """As for the routes: a node on an older timeline than was seen is none."""
    journal.remember("main", LastKnownPrimary(2, 2, host.nodes[1].system_identifier))
    controller, publisher = begin()
    controller.work()
    assert primaries(publisher) == [None]


def test_what_the_nodes_say_is_shown_before_barman_is_asked(
    begin: Begin, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a server that is cut off, Barman says nothing for 20 s."""
    controller, publisher = begin()
    run = host.run

    def watched(program: Program, limit: float) -> str:
        if program.argv[0] == "barman":
            assert publisher.shown[-1].primary == 1
        return run(program, limit)

    monkeypatch.setattr(host, "run", watched)
    controller.work()
    assert "barman" in [program.argv[0] for program in host.ran]
    assert controller._monitor.decision


SHOWN = ("port_target", "reader_fit", "reader_lag_bytes", "slot_retained_bytes", "failover_slot_in_sync")
CHANGES = (
    ("app: 54322}", "app: 54322, readers: 54323}"),
    ("# - firewall: {open: readers", "- firewall: {open: readers"),
    ("- slot: {on: primary}\n", "- slot: {on: primary}\n          - slot: {name: second, on: primary}\n"),
    ("    routes:\n", "    former_primary: {fence: {program: [/bin/false]}, rejoin: false}\n    routes:\n"),
)


@pytest.fixture
def everything(tmp_path: Path) -> Config:
    """Readers, a second slot, former primaries that are looked after."""
    text = (REPOSITORY / "config/config.yaml").read_text().replace("/var/lib/repmgr-hooks", str(tmp_path))
    for before, after in CHANGES:
        assert before in text
        text = text.replace(before, after, 1)
    (tmp_path / "config.yaml").write_text(text)
    return config.load(tmp_path / "config.yaml")


def shown(directory: Path) -> dict[str, float]:
    ((_, seen, _),) = read_all(directory)
    assert seen
    return {f"{metric} {' '.join(labels.values())}": value for metric, labels, value in seen.numbers}


def test_what_is_for_metrics_is_what_metrics_prints(
    everything: Config, journal: Journal, host: FakeHost, wall: Wall, tmp_path: Path
) -> None:
    managed = everything.clusters["main"]
    controller = ClusterController(managed, journal, host, everything, publisher=Publisher(tmp_path, "main"))
    host.nodes[2].upstream, host.nodes[2].behind = 1, 4096
    sub = FakeSlot(physical=False, failover=True)
    host.nodes[1].slots["sub"], host.nodes[2].slots["sub"] = sub, replace(sub, synced=True)
    assert handle(managed, host, []).ok
    controller.work()
    assert shown(tmp_path)["port_target readers 2"] == 1
    assert {"slot_retained_bytes 1 second", "slot_retained_bytes 1 sub"} <= shown(tmp_path).keys()
    assert shown(tmp_path)["failover_slot_in_sync 2 sub"] == 1
    assert shown(tmp_path)["node_is_fenced 1"] == 0

    record.keep(managed.cluster, {1: Former(1, "7", 1, 2, 0.0, phase="fenced", attempts=(wall.time, 1.0))})
    host.nodes[2].replay_paused = True
    later(wall, host, 5)
    controller.work()
    later(wall, host, 5)
    controller.work()
    assert (shown(tmp_path)["node_is_fenced 1"], shown(tmp_path)["rejoin_attempts 1"]) == (1, 1)
    assert (shown(tmp_path)["port_target readers 1"], shown(tmp_path)["reader_fit readers 2"]) == (1, 0)
    printed = {str(sample) for sample in measure(look(managed, host, journal, everything), journal, tmp_path)}
    known = [Known(cluster, seen, 25.0) for cluster, seen, _ in read_all(tmp_path)]
    served = answer("/metrics", known, wall.time).body.splitlines()
    for name in (*SHOWN, "node_is_fenced", "rejoin_attempts"):
        of_both = [
            {(where, float(value)) for where, _, value in (line.rpartition(" ") for line in said) if name in where}
            for said in (printed, [line for line in served if not line.startswith("#")])
        ]
        assert of_both[0] == of_both[1] != set(), name


def test_where_the_ports_lead_is_shown_while_a_run_fails_again_and_again(
    begin: Begin, host: FakeHost, wall: Wall, tmp_path: Path
) -> None:
    """And nothing is believed for longer because of it."""
    controller, _ = begin()
    controller.work()
    assert shown(tmp_path)["port_target app 1"] == 1
    host.fail_over()
    host.barman.health = "ruins"
    for _ in range(3):
        later(wall, host, 5)
        controller.work()
    assert (shown(tmp_path)["port_target app 1"], shown(tmp_path)["port_target app 2"]) == (0, 1)
    ((_, seen, left),) = read_all(tmp_path)
    assert seen
    assert left <= seen.valid_for


def test_where_the_ports_lead_is_shown_though_each_look_finds_something_else(
    begin: Begin, loaded: Config, host: FakeHost, wall: Wall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as WAL that is missing, a file more each time; it was shown as it had been before all that."""
    controller, _ = begin()
    controller.work()
    look, action = controller._monitor.look, loaded.clusters["main"].actions[0]

    def missing_more(last_known: LastKnownPrimary, show: Callable[[PrimaryDecision], None]) -> Drift:
        problem = Problem("missing", f"at {host.now():.0f} s other files were missing")
        return replace(look(last_known, show), found=(ActionResult(action, problems=(problem,)),))

    monkeypatch.setattr(controller._monitor, "look", missing_more)
    host.fail_over()
    assert handle(loaded.clusters["main"], host, []).ok
    for _ in range(4):
        later(wall, host, 5)
        controller._shown.look(controller._monitor, controller._last_known, host)
    assert (shown(tmp_path)["port_target app 1"], shown(tmp_path)["port_target app 2"]) == (0, 1)


def not_found(program: Program) -> str:
    raise OperationFailed(f"{program}: not found")


def test_rules_that_cannot_be_read_lead_nowhere_that_is_known(
    begin: Begin, host: FakeHost, wall: Wall, tmp_path: Path
) -> None:
    controller, _ = begin()
    controller.work()
    assert shown(tmp_path)["port_target app 1"] == 1
    host.counts_rules, host.programs["iptables-save"] = False, not_found
    later(wall, host, 5)
    controller.work()
    later(wall, host, 5)
    controller.work()
    assert [name for name in shown(tmp_path) if "port_target" in name] == []


def test_rules_whose_changes_nobody_counts_are_read_once_a_second(loaded: Config, host: FakeHost) -> None:
    """Those of iptables-legacy; while no primary is known, looks come ten times a second."""
    surroundings, host.counts_rules = Surroundings(loaded.clusters["main"].cluster), False
    assert surroundings.look(host)
    programs = len(host.ran)
    assert not surroundings.look(host)
    assert len(host.ran) == programs
    host.sleep(1)
    assert not surroundings.look(host)
    assert len(host.ran) == programs + 1
