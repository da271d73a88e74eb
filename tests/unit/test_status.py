"""``status``: what is true in a few lines, and whether that is all as it should be."""

from __future__ import annotations

from pathlib import Path

from repmgr_hooks import config
from repmgr_hooks.dispatcher import handle
from repmgr_hooks.status import describe
from tests.fake import FakeWorld

MAIN = config.load(Path(__file__).resolve().parents[2] / "config/config.yaml").clusters["main"]


def healthy() -> FakeWorld:
    world = FakeWorld()
    assert handle(MAIN, world, None).ok
    return world


def test_all_as_it_should_be() -> None:
    lines, good = describe(MAIN, healthy())
    assert good
    assert lines == [
        "main: primary is node 1, timeline 1 (the only node out of recovery)",
        "  node 1: primary, timeline 1",
        "  node 2: standby, timeline 1",
        "  port 54321 (barman): leads to node 1",
        "  port 54322 (app): leads to node 1",
    ]


def test_after_a_failover_that_nobody_handled() -> None:
    world = healthy()
    world.fail_over()
    before = list(world.changes)
    lines, good = describe(MAIN, world)
    assert not good
    assert lines[0].startswith("main: primary is node 2, timeline 2")
    assert "  port 54322 (app): leads to node 1" in lines
    assert "  MISSING lead port app to node 2 (10.0.0.12)" in lines
    assert "  MISSING create slot barman on node 2" in lines
    assert lines[-1] == "  mend it with: repmgr-hooks reconcile --cluster main"
    assert world.changes == before, "looking changes nothing"
    assert handle(MAIN, world, None).ok
    assert describe(MAIN, world)[1]


def test_an_unknown_primary() -> None:
    world = healthy()
    world.lose(1)
    lines, good = describe(MAIN, world)
    assert not good
    assert lines[0] == "main: UNKNOWN primary: no node is out of recovery"
    assert "  node 1: connection timeout expired" in lines
    assert not any("MISSING" in line for line in lines)


def test_barman_that_cannot_be_asked_is_shown() -> None:
    world = healthy()
    world.barman.health = "ruins"
    lines, good = describe(MAIN, world)
    assert not good
    assert any(line.startswith("  MISSING ") and "No space left on device" in line for line in lines)
