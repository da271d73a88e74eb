"""The kernel is asked over a socket that stays open, one question at a time."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from repmgr_hooks.netfilter import netlink
from repmgr_hooks.netfilter.netlink import Kernel
from repmgr_hooks.netfilter.route import route_to


def sockets() -> int:
    return sum(place.is_socket() for place in Path("/proc/self/fd").iterdir())


def test_one_socket_serves_all_who_ask() -> None:
    assert route_to("127.0.0.1").local
    before, found = sockets(), list[bool | None]()
    threads = [threading.Thread(target=lambda: found.append(route_to("127.0.0.1").local)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 20
    assert sockets() == before


def test_after_a_question_without_an_answer_the_next_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that comes late would be taken for that to another question."""
    monkeypatch.setattr(netlink, "LIMIT", 0.1)
    kernel = Kernel(socket.NETLINK_ROUTE)
    with pytest.raises(TimeoutError):
        kernel.ask(bytes(3))  # too short for a message: nobody answers
    assert kernel._socket is None
