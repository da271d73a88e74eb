"""Consoles are closed at once, whatever their PgBouncers are at: who closes them may have a failover to see to."""

from __future__ import annotations

import gc
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system import consoles as module
from repmgr_hooks.system.consoles import Consoles
from tests.unit.system.test_host import GREETING
from tests.unit.system.test_odd_nodes import server


class Hanging:
    """A PgBouncer that lets everybody in and answers nothing; ``asked`` counts the questions, ``met`` who has come."""

    def __init__(self) -> None:
        self.met, self.asked, self.port = 0, 0, 0

    def speak(self, connection: socket.socket) -> None:
        self.met += 1
        connection.recv(65536)
        connection.sendall(GREETING)
        while said := connection.recv(65536):
            self.asked += said.startswith(b"Q")

    @property
    def console(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=x sslmode=disable gssencmode=disable"


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    made = Hanging()
    with server(made.speak) as made.port:
        yield made


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def event_loops() -> int:
    """How many are open: each has an epoll of its own."""
    links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return links.count("anon_inode:[eventpoll]")


def test_one_that_hangs_again_while_it_is_waited_for_is_not_asked_to_cancel(hanging: Hanging) -> None:
    """psycopg would connect once more for that, and wait: for 5 s, or for ever before its version 3.3."""
    consoles = Consoles()
    (late,) = consoles.ask_each({hanging.console: ("SHOW VERSION",)}, 0.2).values()
    assert isinstance(late, OperationFailed)
    until(lambda: hanging.asked == 2)
    consoles.close()
    assert hanging.met == 2


def test_an_attempt_that_is_late_is_not_asked_to_cancel_either(
    hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAKE_LIMIT", 0.2)
    monkeypatch.setattr(module, "WAKE_EVERY", 0.0)
    consoles = Consoles()
    consoles.ask_each({hanging.console: ("SHOW VERSION",)}, 0.2)
    until(lambda: hanging.asked >= 4)
    consoles.close()
    assert hanging.met - hanging.asked <= 1, "only the last may have been closed before it asked"


def test_who_waits_for_an_answer_meanwhile_is_told_that_there_will_be_none(hanging: Hanging) -> None:
    consoles, said = Consoles(), list[object]()

    def pause() -> None:
        said.extend(consoles.ask_each({hanging.console: ('PAUSE "app"',)}, 600).values())

    asking = threading.Thread(target=pause, daemon=True)
    asking.start()
    until(lambda: hanging.asked == 1)
    consoles.close()
    asking.join(60)
    assert [str(error) for error in said] == [f"PgBouncer 127.0.0.1:{hanging.port}: nobody waits for its answer now"]


def test_a_closed_event_loop_leaves_no_descriptor() -> None:
    consoles = Consoles()
    gc.disable()
    try:
        before = event_loops()
        for _ in range(5):
            consoles.ask_each({"host=127.0.0.1 port=1 user=x": ("SHOW VERSION",)}, 60)
            consoles.close()
        until(lambda: event_loops() <= before)
    finally:
        gc.enable()
