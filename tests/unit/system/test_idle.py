"""Idle connections are watched by one thread, which nothing ends."""

from __future__ import annotations

import socket
import threading

import pytest

from repmgr_hooks.system.connections import Connections
from repmgr_hooks.system.idle import IdleConnections
from repmgr_hooks.system.link import linked, side_by_side
from tests.unit.system.test_link import dsn
from tests.unit.system.test_odd_nodes import says, server


def test_a_bug_of_one_who_is_noticed_is_said_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    idle, noticed = IdleConnections(), threading.Event()

    def bug() -> None:
        raise TypeError("odd")

    for call in (bug, noticed.set):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            idle.watch(ours.fileno(), call)
            theirs.send(b"x")
            if call is bug:
                until_said(caplog)
            else:
                assert noticed.wait(60)


def until_said(caplog: pytest.LogCaptureFixture) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if "a bug in repmgr_hooks" in caplog.text:
            return
        waiting.wait(0.01)
    raise AssertionError("nobody said it")


def test_a_connection_that_has_broken_already_is_not_kept() -> None:
    with server(says(b"")) as port:
        link = side_by_side({1: linked(dsn(port))}, 60)[1]
        assert not isinstance(link, Exception)
        connections = Connections({1: dsn(port)}, lambda: None)
        link.close()
        connections._keep(1, link)
        connections.close_idle()
