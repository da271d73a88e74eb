"""Of very many runs a few are made at once; none waits for long behind one that hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from repmgr_hooks import clock
from repmgr_hooks.journal.heartbeat import Progress
from repmgr_hooks.service import run_turns
from repmgr_hooks.service.run_turns import RunTurns

SOON = 30.0
LONG = 600.0


class Run(threading.Thread):
    """A run that goes on until it is told to end."""

    def __init__(self, turns: RunTurns, begun: list[str], name: str, urgent: bool = False) -> None:
        super().__init__(name=name, daemon=True)
        self.turns, self.all_begun, self.urgent = turns, begun, urgent
        self.progress, self.stopping = Progress(), threading.Event()
        self.begins, self.ends = threading.Event(), threading.Event()

    def run(self) -> None:
        with self.turns.turn(self.urgent, self.stopping, self.progress):
            self.all_begun.append(self.name)
            self.begins.set()
            self.ends.wait(SOON)


@contextmanager
def runs(turns: RunTurns, *names: str) -> Iterator[dict[str, Run]]:
    """Start these, one after the other; a name in capitals is urgent."""
    begun: list[str] = []
    started = {name: Run(turns, begun, name, name.isupper()) for name in names}
    try:
        for run in started.values():
            asked = turns._number
            run.start()
            while turns._number == asked:
                threading.Event().wait(0.001)
        yield started
    finally:
        for run in started.values():
            run.stopping.set()
            run.ends.set()
        for run in started.values():
            run.join(SOON)
            assert not run.is_alive()


def waits(run: Run) -> bool:
    return not run.begins.wait(0.2)


def test_so_many_are_made_at_once_and_who_waited_longest_is_next() -> None:
    with runs(RunTurns(2, LONG), "a", "b", "c", "d") as run:
        assert run["a"].begins.wait(SOON) and run["b"].begins.wait(SOON)
        assert waits(run["c"]) and waits(run["d"])
        run["b"].ends.set()
        assert run["c"].begins.wait(SOON) and waits(run["d"])


def test_a_run_for_an_event_comes_before_those_that_have_waited_longer() -> None:
    with runs(RunTurns(1, LONG), "a", "b", "c", "EVENT") as run:
        run["a"].ends.set()
        assert run["EVENT"].begins.wait(SOON) and waits(run["b"])
        run["EVENT"].ends.set()
        assert run["b"].begins.wait(SOON) and waits(run["c"])


def test_one_that_gets_nowhere_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_turns, "MOST", LONG)
    with runs(RunTurns(1, 0.3), "a", "b", "c") as run:
        assert run["b"].begins.wait(SOON) and run["c"].begins.wait(SOON), "though none has ended"
        assert run["a"].all_begun == ["a", "b", "c"]


def test_one_that_gets_on_keeps_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with runs(RunTurns(1, LONG), "a") as run:
        turns = run["a"].turns
        turns._lease = 0.3
        run["a"].progress.last = clock.monotonic() + LONG  # as if there was progress all the time
        with runs(turns, "b") as next_one:
            assert waits(next_one["b"]) and waits(next_one["b"]) and waits(next_one["b"])
    monkeypatch.setattr(run_turns, "MOST", 0.3)
    with runs(RunTurns(1, LONG), "a", "b") as run:
        assert run["b"].begins.wait(SOON), "but not for ever"


def test_who_is_stopped_or_has_waited_for_long_waits_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_turns, "MOST", LONG)
    with runs(RunTurns(1, LONG), "a", "b") as run:
        assert waits(run["b"])
        run["b"].stopping.set()
        assert run["b"].begins.wait(SOON)
    monkeypatch.setattr(run_turns, "LONGEST", 0.3)
    with runs(RunTurns(1, LONG), "a", "b") as run:
        assert run["b"].begins.wait(SOON)


def test_a_turn_is_given_back_whatever_is_raised() -> None:
    turns = RunTurns(1, LONG)
    with pytest.raises(ValueError), turns.turn(False, threading.Event(), Progress()):
        raise ValueError
    with runs(turns, "a") as run:
        assert run["a"].begins.wait(SOON)
