"""The queue of one gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from repmgr_hooks.forward.letter import Letter, letter
from repmgr_hooks.forward.queue import GatewayQueue, last_taken


def event(time: int, node: int = 1) -> Letter:
    return letter(f"{time:020d}-7", ["main", str(node), "repmgrd_start"])


def waiting(queue: GatewayQueue) -> list[Letter]:
    return [each.letter for each in queue.first(100)]


def test_events_wait_in_the_order_in_which_they_came_whatever_the_clock_says(tmp_path: Path) -> None:
    queue = GatewayQueue(tmp_path / "gw1")
    queue.add([event(500)])
    queue.add([event(100), event(300)])
    assert waiting(GatewayQueue(tmp_path / "gw1")) == [event(500), event(100), event(300)]


def test_what_comes_after_a_new_start_comes_last(tmp_path: Path) -> None:
    GatewayQueue(tmp_path / "gw1").add([event(500)])
    GatewayQueue(tmp_path / "gw1").add([event(100)])
    assert waiting(GatewayQueue(tmp_path / "gw1")) == [event(500), event(100)]


def test_an_event_waits_once(tmp_path: Path) -> None:
    queue = GatewayQueue(tmp_path / "gw1")
    queue.add([event(1), event(2)])
    queue.add([event(2), event(3)])
    assert waiting(queue) == [event(1), event(2), event(3)]


def test_what_was_taken_is_gone(tmp_path: Path) -> None:
    queue = GatewayQueue(tmp_path / "gw1")
    queue.add([event(1), event(2)])
    first = queue.first(1)[0]
    queue.note_taken(first.letter)
    queue.remove(first.name)
    assert waiting(queue) == [event(2)]
    assert last_taken(tmp_path / "gw1") == event(1).line()
    assert last_taken(tmp_path / "gw2") == ""


def test_the_oldest_are_given_up(tmp_path: Path) -> None:
    queue = GatewayQueue(tmp_path / "gw1")
    queue.add([event(1), event(2), event(3)])
    assert queue.give_up_oldest(2) == 1
    assert queue.give_up_oldest(2) == 0
    assert waiting(queue) == [event(2), event(3)]


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"main\n2\n$(reboot)\n"])
def test_what_a_broken_disk_has_made_of_an_event_holds_up_nothing(tmp_path: Path, content: bytes) -> None:
    queue = GatewayQueue(tmp_path / "gw1")
    queue.add([event(1), event(2)])
    (tmp_path / "gw1" / queue.names()[0]).write_bytes(content)
    assert waiting(queue) == [event(2)]
    assert len(queue.names()) == 1


def test_what_was_begun_when_the_forwarder_was_killed_holds_up_nothing(tmp_path: Path) -> None:
    """Its name is that of the next event: none was ever delivered again."""
    GatewayQueue(tmp_path / "gw1").add([event(1)])
    (tmp_path / "gw1" / f".0000000002-{event(2).number}").write_text("ma")
    queue = GatewayQueue(tmp_path / "gw1")
    queue.add([event(2)])
    assert waiting(queue) == [event(1), event(2)]
