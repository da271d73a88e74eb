"""Connections that are kept for the next question: what happens when the node restarts or is unplugged meanwhile."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import Program, Sql


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
    host = LocalHost({1: f"host=127.0.0.1 port={unplugged} user=x dbname=x sslmode=disable gssencmode=disable"})
    assert host.fetch(Sql(1, "select 1"), 60) == [("1",)]
    said: list[object] = []

    def ask() -> None:
        try:
            said.append(host.fetch(Sql(1, "select 1"), 0.5))
        except OperationFailed as error:
            said.append(str(error))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(60)
    assert said == ["node 1: no answer within 0.5 s"]


class Node:
    """A node that takes every connection and answers on none, until it is ``back``."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.port = listening.getsockname()[1]
        self.taken = 0
        self.back = threading.Event()
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self.taken += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        self._connections.append(connection)
        self.back.wait()
        with suppress(OSError), connection:
            answer = GREETING
            while connection.recv(4096):
                connection.sendall(answer)
                answer = ONE_ROW

    def end_connections(self) -> None:
        """As PostgreSQL does when it is shut down."""
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def conninfo(self) -> str:
        return f"host=127.0.0.1 port={self.port} user=x dbname=x sslmode=disable gssencmode=disable connect_timeout=2"


@pytest.fixture
def node() -> Iterator[Node]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Node(listening)
        yield made
        made.back.set()


def ask(host: LocalHost, limit: float = 60.0, node: int = 1) -> object:
    """The answer to a question, or why there is none."""
    return host.fetch_each([Sql(node, "select 1")], limit)[node]


def until(host: LocalHost, true: Callable[[object], bool]) -> None:
    """Ask again and again."""
    end = time.monotonic() + 60
    while not true(ask(host)):
        assert time.monotonic() < end
        time.sleep(0.02)


def answers(answer: object) -> bool:
    return answer == [("1",)]


def test_a_silent_node_is_waited_for_once_and_noticed_when_it_is_back(node: Node) -> None:
    host = LocalHost({1: node.conninfo()})
    assert str(ask(host, 0.2)) == "node 1: no answer within 0.2 s"
    for _ in range(3):
        assert str(ask(host)).startswith("node 1: still no answer"), "at once, whatever the limit"
    node.back.set()
    until(host, answers)
    assert answers(ask(host))


def test_a_node_that_ends_an_idle_connection_is_noticed_at_once(node: Node) -> None:
    """Nobody asks meanwhile; and an answer is no end."""
    noticed = threading.Event()
    host = LocalHost({1: node.conninfo()}, noticed=noticed.set)
    node.back.set()
    for _ in range(3):
        assert answers(ask(host))
    assert not noticed.is_set()
    node.end_connections()
    assert noticed.wait(60)
    assert answers(ask(host)), "through a new one"
    noticed.clear()
    node.end_connections()
    assert noticed.wait(60), "and again"
    host.close_idle()


def test_a_connection_that_we_end_ourselves_is_no_news(node: Node) -> None:
    noticed = threading.Event()
    host = LocalHost({1: node.conninfo()}, noticed=noticed.set)
    node.back.set()
    for _ in range(3):
        assert answers(ask(host))
        host.close_idle()
    host.close_idle()
    assert not noticed.is_set()


@pytest.mark.slow
def test_it_knocks_at_a_silent_node_again_and_again(node: Node) -> None:
    host = LocalHost({1: node.conninfo()})
    ask(host, 0.1)
    said: set[str] = set()
    until(host, lambda answer: said.add(str(answer)) or node.taken > 2)  # type: ignore[func-returns-value]
    assert said == {"node 1: still no answer"}, "nobody waits for it again"
    node.back.set()
    until(host, answers)


@pytest.mark.slow
def test_a_connection_that_times_out_by_itself_makes_a_silent_node_too(node: Node) -> None:
    host = LocalHost({1: node.conninfo()})
    assert "timeout" in str(ask(host))
    assert str(ask(host)) == "node 1: still no answer (connection timeout expired)"


@pytest.mark.slow
def test_a_silent_node_that_refuses_connections_now_says_so(node: Node) -> None:
    host = LocalHost({1: node.conninfo()})
    ask(host, 0.1)
    node._listening.shutdown(socket.SHUT_RDWR)
    node._listening.close()
    until(host, lambda answer: "Connection refused" in str(answer))


def test_a_silent_node_keeps_no_other_waiting(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        well = Node(listening)
        well.back.set()
        host = LocalHost({1: node.conninfo(), 2: well.conninfo()})
        for said in ("no answer within 1.5 s", "still no answer"):
            found = host.fetch_each([Sql(1, "select 1"), Sql(2, "select 1")], 1.5)
            assert str(found[1]).startswith(f"node 1: {said}")
            assert answers(found[2])


def test_a_rest_closes_what_was_kept(node: Node) -> None:
    node.back.set()
    host = LocalHost({1: node.conninfo()})
    assert answers(ask(host)) and answers(ask(host))
    assert node.taken == 1
    host.close_idle()
    assert answers(ask(host))
    assert node.taken == 2


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
        host = LocalHost({1: f"host=127.0.0.1 port={port} user=x dbname=x sslmode=disable gssencmode=disable"})
        assert [host.fetch(Sql(1, "select 1"), 60) for _ in range(2)] == [[("1",)]] * 2


def test_what_never_changes_is_asked_once(tmp_path: Path) -> None:
    host = LocalHost({})
    script = tmp_path / "ask"
    script.write_text(f"#!/bin/sh\necho asked >> {tmp_path}/log\ncat {tmp_path}/log\n")
    script.chmod(0o755)
    assert [host.run(Program((str(script),), constant=True), 5) for _ in range(3)] == ["asked\n"] * 3
    assert host.run(Program((str(script),)), 5) == "asked\nasked\n"
