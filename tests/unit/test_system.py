"""Connections that are kept for the next question: what happens when the node restarts or is unplugged meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from repmgr_hooks.errors import StepFailed
from repmgr_hooks.steps import Sql
from repmgr_hooks.system import System


def message(kind: bytes, body: bytes = b"") -> bytes:
    """A message of PostgreSQL's protocol."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


GREETING = (
    message(b"R", bytes(4))
    + message(b"S", b"client_encoding\0UTF8\0")
    + message(b"S", b"server_version\x0015.0\0")
    + message(b"K", bytes(8))
    + message(b"Z", b"I")
)
ONE_ROW = (
    message(b"T", b"\0\1" + b"a\0" + bytes(6) + (25).to_bytes(4, "big") + b"\xff" * 6 + b"\0\0")
    + message(b"D", b"\0\1" + b"\0\0\0\1" + b"1")
    + message(b"C", b"SELECT 1\0")
    + message(b"Z", b"I")
)


@pytest.fixture
def unplugged() -> Iterator[int]:
    """The port of a node that answers one question, and from then on nothing, on no connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        kept: list[socket.socket] = []

        def answer_once() -> None:
            connection, _ = listening.accept()
            kept.append(connection)
            connection.recv(4096)
            connection.sendall(GREETING)
            connection.recv(4096)
            connection.sendall(ONE_ROW)

        threading.Thread(target=answer_once, daemon=True).start()
        yield listening.getsockname()[1]
        for connection in kept:
            connection.close()


def test_a_node_that_falls_silent_on_an_open_connection_costs_the_limit(unplugged: int) -> None:
    world = System({1: f"host=127.0.0.1 port={unplugged} user=x dbname=x sslmode=disable gssencmode=disable"})
    assert world.fetch(Sql(1, "select 1"), 5.0) == [("1",)]
    said: list[object] = []

    def ask() -> None:
        try:
            said.append(world.fetch(Sql(1, "select 1"), 0.5))
        except StepFailed as error:
            said.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(2.0)
    assert said == ["node 1: no answer within 0 s"]


def test_a_connection_that_has_broken_since_is_opened_anew() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer_once_each() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(GREETING)
                    connection.recv(4096)
                    connection.sendall(ONE_ROW)

        threading.Thread(target=answer_once_each, daemon=True).start()
        port = listening.getsockname()[1]
        world = System({1: f"host=127.0.0.1 port={port} user=x dbname=x sslmode=disable gssencmode=disable"})
        assert [world.fetch(Sql(1, "select 1"), 5.0) for _ in range(2)] == [[("1",)]] * 2
