"""What a failover would do now: no step is taken, and what stands in its way is said."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cli import main as cli
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.engine import dispatcher, simulation
from repmgr_hooks.engine.run import RunResult
from repmgr_hooks.errors import UsageError
from repmgr_hooks.event import Event
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.system.steps import Step
from tests.fake import STREAMING, Connection, FakeHost, FakeNode, FakeSlot

FILE = Path(__file__).resolve().parents[3] / "config/config.yaml"
MAIN = config.load(FILE).clusters["main"]
PARTIAL = "000000010000000000000005.partial"


@pytest.fixture
def host() -> FakeHost:
    made = FakeHost()
    made.nodes[2].upstream = 1
    made.connections = [Connection(Flow("10.0.0.30", 40000, "10.0.0.20", 54322), "10.0.0.11")]
    assert dispatcher.handle(MAIN, made, []).ok
    made.changes.clear()
    return made


def simulate(host: FakeHost, node: int = 2) -> RunResult:
    return simulation.simulate(MAIN, host, Event(node, simulation.EVENT), LastKnownPrimary())


def steps(run: RunResult) -> list[Step]:
    return [step for item in run.done for step in item.steps]


def names(run: RunResult) -> list[str]:
    return [step.what for step in steps(run)]


def test_it_names_the_steps_that_the_failover_then_takes(host: FakeHost) -> None:
    """Each command to the letter, but for the position that Barman must have sent."""
    simulated = simulate(host)
    assert simulated.ok
    assert simulated.message.endswith("as if node 2 were promoted now, to timeline 2")
    assert host.changes == []
    host.fail_over()
    taken = dispatcher.handle(MAIN, host, [Event(2, "standby_promote")])
    assert [(step.what, step.do) for step in steps(taken)] == [(step.what, step.do) for step in steps(simulated)]
    assert len(steps(simulated)) == 8


def full(host: FakeHost) -> None:
    host.nodes[2].slots = {f"other{number}": FakeSlot() for number in range(host.nodes[2].most_slots)}


def subscribed(host: FakeHost) -> None:
    host.nodes[1].slots["sub"] = FakeSlot(physical=False, failover=True, active=True)


def deaf(host: FakeHost) -> None:
    host.nodes[2].upstream = None


def behind(host: FakeHost) -> None:
    host.nodes[2].behind = 3 * 1024 * 1024


def without_a_primary(host: FakeHost) -> None:
    host.lose(1)


def without_barman(host: FakeHost) -> None:
    host.barman.health = "ruins"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (full, "node 2 has 0 free replication slot(s) for barman"),
        (subscribed, "logical slot sub is not in sync on node 2: it would be lost"),
        (deaf, "node 2 receives no WAL from node 1: what is written there now would be lost"),
        (behind, "node 2 is 3 MB behind node 1: that would be lost"),
        (without_a_primary, "now already the primary is unknown: no node is out of recovery"),
        (without_barman, "cannot open /var/lib/barman: No space left on device"),
    ],
)
def test_what_stands_in_its_way(
    host: FakeHost, caplog: pytest.LogCaptureFixture, fault: Callable[[FakeHost], None], said: str
) -> None:
    fault(host)
    with caplog.at_level(logging.WARNING, "repmgr_hooks"):
        assert not simulate(host).ok
    assert said in caplog.text


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("{node: [2]}", ""),
        ("{role: [primary], primary: known}", ""),
        ("{node: [1]}", "port app is not opened by a promotion of node 2"),
        ("{success: false}", "port app is not opened by a promotion of node 2"),
        ("{role: [standby]}", "port app is not opened by a promotion of node 2"),
        ("{primary: unknown}", "port app is not opened by a promotion of node 2"),
    ],
)
def test_a_port_that_this_promotion_does_not_open(
    host: FakeHost, tmp_path: Path, caplog: pytest.LogCaptureFixture, when: str, said: str
) -> None:
    file, text = tmp_path / "config.yaml", FILE.read_text()
    opens = next(line for line in text.splitlines() if "firewall: {open: app" in line)
    file.write_text(text.replace(opens, f"{opens}\n            when: {when}"))
    main = config.load(file).clusters["main"]
    with caplog.at_level(logging.WARNING, "repmgr_hooks"):
        result = simulation.simulate(main, host, Event(2, simulation.EVENT), LastKnownPrimary())
    assert result.ok == (not said)
    assert said in caplog.text
    assert "barman is not opened" not in caplog.text


def test_a_slot_that_is_there_already_needs_no_free_one(host: FakeHost) -> None:
    full(host)
    del host.nodes[2].slots["other0"]
    host.nodes[2].slots["barman"] = FakeSlot()
    assert simulate(host).ok


def test_what_only_barman_would_have(host: FakeHost) -> None:
    host.barman.streaming = host.barman.tails = {PARTIAL}
    assert [what for what in names(simulate(host)) if what.startswith(f"keep as {STREAMING.rsplit('/', 1)[0]}")]


def test_another_standby_follows_the_new_primary(host: FakeHost) -> None:
    """The primary so far counts as gone: nothing is asked of it."""
    three = replace(MAIN, cluster=replace(MAIN.cluster, nodes={**MAIN.cluster.nodes, 3: Node("10.0.0.13")}))
    host.nodes[3] = FakeNode("10.0.0.13", upstream=1, slots={"barman": FakeSlot()})
    found = names(simulation.simulate(three, host, Event(2, simulation.EVENT), LastKnownPrimary()))
    assert "drop slot barman on standby 3" in found
    assert not [what for what in found if "node 1" in what or "standby 1" in what]


@pytest.mark.parametrize("node", [1, 2])
def test_only_a_standby_that_answers(host: FakeHost, node: int) -> None:
    host.nodes[2].reachable = False
    with pytest.raises(UsageError, match=f"node {node}: .*a failover can be simulated with a standby that answers"):
        simulate(host, node)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["7"], "clusters.main.nodes has no node 7 (it has 1, 2)"),
        (["2", "--cluster", "mian"], "the configuration has no cluster 'mian'\nHINT: did you mean 'main'?"),
    ],
)
def test_a_node_or_cluster_that_is_not_there(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--config", str(FILE), "simulate-failover", *words]) == 2
    assert said in capsys.readouterr().err
