"""How one queue is handed over: in order, until it is taken, whatever the gateway does meanwhile."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.forward.delivery import Delivery
from repmgr_hooks.forward.letter import MOST_EVENTS, letter, read
from repmgr_hooks.forward.queue import GatewayQueue
from repmgr_hooks.forward.settings import Gateway
from repmgr_hooks.system.steps import Program

WAY = Gateway(("ssh", "-T", "gw1"), 20)


def number(index: int) -> str:
    return f"{index:020d}-7"


class FakeGateway:
    """What is at the other end: ``taken`` are the numbers in the order in which they came."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.letters = 0
        self.answer: Callable[[list[str]], str] = lambda numbers: "".join(f"taken {each}\n" for each in numbers)

    def run(self, program: Program, limit: float) -> str:
        assert (program.argv, limit) == (WAY.command, WAY.timeout)
        self.letters += 1
        _, *lines = program.stdin.splitlines()
        numbers = [read(line).number for line in lines]
        said = self.answer(numbers)
        self.taken += [each for each in numbers if f"taken {each}" in said]
        return said

    def gone(self, numbers: list[str]) -> str:
        raise OperationFailed("ssh -T gw1: exit code 255: Connection refused")


@pytest.fixture
def queue(tmp_path: Path) -> GatewayQueue:
    made = GatewayQueue(tmp_path / "gw1")
    made.add(letter(number(index), ["main", "1", "repmgrd_start"]) for index in range(1, 4))
    return made


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    time = [100.0]
    monkeypatch.setattr(clock, "monotonic", lambda: time[0])

    def later(seconds: float) -> None:
        time[0] += seconds

    return later


def test_all_that_waits_is_handed_over_in_order(queue: GatewayQueue) -> None:
    gateway = FakeGateway()
    assert Delivery("gw1", WAY, queue, gateway.run).work() is None
    assert gateway.taken == [number(1), number(2), number(3)]
    assert queue.names() == []


def test_more_than_a_letter_holds_goes_with_the_next(queue: GatewayQueue) -> None:
    queue.add(letter(number(index), ["main", "1", "repmgrd_start"]) for index in range(4, MOST_EVENTS + 10))
    gateway = FakeGateway()
    Delivery("gw1", WAY, queue, gateway.run).work()
    assert gateway.taken == [number(index) for index in range(1, MOST_EVENTS + 10)]
    assert gateway.letters == 2


def test_a_gateway_that_is_gone_is_tried_again_later_and_later(
    queue: GatewayQueue, now: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    gateway = FakeGateway()
    gateway.answer, well = gateway.gone, gateway.answer
    delivery = Delivery("gw1", WAY, queue, gateway.run)
    waits = []
    for _ in range(7):
        wait = delivery.work()
        assert wait is not None
        waits.append(wait)
        before = gateway.letters
        assert delivery.work() == wait, "not before that time"
        assert gateway.letters == before
        now(wait)
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert len([line for line in caplog.messages if "3 event(s) wait" in line]) == 1
    assert len(queue.names()) == 3

    gateway.answer = well
    with caplog.at_level(logging.INFO):
        assert delivery.work() is None
    assert gateway.taken == [number(1), number(2), number(3)]
    assert "gw1: takes events again" in caplog.messages


def test_what_it_did_not_take_is_handed_over_again_and_first(queue: GatewayQueue) -> None:
    gateway = FakeGateway()
    gateway.answer, well = lambda numbers: f"taken {numbers[0]}\ntaken {numbers[-1]}\n", gateway.answer
    Delivery("gw1", WAY, queue, gateway.run).work()
    assert queue.names() == []
    assert gateway.letters == 2
    assert gateway.taken == [number(1), number(3), number(2), number(3)], "the last one twice: its number is the same"
    del well


def test_an_event_that_is_refused_holds_up_nothing(queue: GatewayQueue, caplog: pytest.LogCaptureFixture) -> None:
    gateway = FakeGateway()
    gateway.answer = lambda numbers: (
        f"refused {numbers[0]} no such event\n" + "".join(f"taken {each}\n" for each in numbers[1:])
    )
    Delivery("gw1", WAY, queue, gateway.run).work()
    assert queue.names() == []
    assert "gw1: 00000000000000000001-7 was refused, and is given up: no such event" in caplog.messages


@pytest.mark.parametrize("said", ["", "Welcome to gw1!\n", f"taken {number(9)}\n"])
def test_another_program_at_the_other_end_takes_nothing(
    queue: GatewayQueue, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = FakeGateway()
    gateway.answer = lambda numbers: said
    assert Delivery("gw1", WAY, queue, gateway.run).work() == 1
    assert len(queue.names()) == 3
    assert "not for the events that it was given" in caplog.text


def test_a_full_disk_hands_nothing_over_twice(queue: GatewayQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken last is noted only for who asks; the same hundred events went over for ever."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("repmgr_hooks.forward.queue.atomic_write", full)
    gateway = FakeGateway()
    assert Delivery("gw1", WAY, queue, gateway.run).work() is None
    assert gateway.taken == [number(1), number(2), number(3)]
    assert queue.names() == []
