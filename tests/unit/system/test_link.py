"""Asking without waiting: what is prepared, which error counts, what is late, and who has a connection for himself."""

from __future__ import annotations

import socket
import threading

import psycopg
import pytest
from psycopg.types.json import Jsonb

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.client import visit_each
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.link import MOST_RESULTS, PREPARE_AFTER, Talk, linked, side_by_side
from repmgr_hooks.system.steps import Sql
from repmgr_hooks.system.visit import LATE
from tests.unit.system.test_host import GREETING, ONE_ROW, message
from tests.unit.system.test_odd_nodes import Speak, says, server

PREPARED = message(b"1") + message(b"Z", b"I")
GOODBYE = message(b"X")
COPY_OUT = message(b"H", b"\0\0\0")
SHUTDOWN = message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0")


def dsn(port: int) -> str:
    return f"host=127.0.0.1 port={port} user=x dbname=x sslmode=disable gssencmode=disable connect_timeout=2"


def ask(port: int, times: int = 1) -> list[object]:
    """The answers to so many questions through one connection, and how it ended if not well."""

    def talk() -> Talk[list[object]]:
        link = yield from linked(dsn(port))
        rows: list[object] = []
        try:
            for _ in range(times):
                rows += yield from link.ask("select %s", ("x",))
        finally:
            link.close()
        return rows

    ended = side_by_side({1: talk()}, 60)[1]
    if isinstance(ended, Exception):
        raise ended
    return ended


def test_what_is_asked_often_is_prepared() -> None:
    heard: list[bytes] = []

    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(GREETING)
        while (question := connection.recv(65536)) not in (b"", GOODBYE):
            heard.append(question)
            connection.sendall(PREPARED if question.startswith(b"Pq0") else ONE_ROW)

    with server(speak) as port:
        assert ask(port, PREPARE_AFTER + 3) == [("1",)] * (PREPARE_AFTER + 3)
    assert [b"select $1" in question for question in heard] == [True] * (PREPARE_AFTER + 1) + [False] * 3


def test_an_answer_to_a_prepared_question_is_not_kept_in_memory() -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(GREETING)
        while (question := connection.recv(65536)) not in (b"", GOODBYE):
            connection.sendall(PREPARED if question.startswith(b"Pq0") else ONE_ROW)

    def talk() -> Talk[list[object]]:
        link = yield from linked(dsn(port))
        for _ in range(PREPARE_AFTER + 2):
            yield from link.ask("select %s", ("x",))
        kept = [prepared._transformer.pgresult for prepared in link._prepared.values()]
        link.close()
        return kept

    with server(speak) as port:
        assert side_by_side({1: talk()}, 60)[1] == [None]


def test_notifications_are_not_kept_in_memory() -> None:
    """A connection is kept for months, and we listen to none."""
    notification = message(b"A", b"\0\0\0\7channel\0payload\0")

    def talk() -> Talk[object]:
        link = yield from linked(dsn(port))
        yield from link.ask("select 1")
        left = link._pgconn.notifies()
        link.close()
        return left

    with server(says(notification * 3 + ONE_ROW)) as port:
        assert side_by_side({1: talk()}, 60) == {1: None}


@pytest.mark.parametrize("ends", [True, False])
def test_what_a_server_says_counts_more_than_that_it_hangs_up_then(ends: bool) -> None:
    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(GREETING)
        connection.recv(65536)
        connection.sendall(SHUTDOWN + (b"" if ends else message(b"Z", b"I")))

    with server(speak) as port, pytest.raises(psycopg.errors.AdminShutdown, match="terminating connection"):
        ask(port)


@pytest.mark.parametrize("pieces", [COPY_OUT, ONE_ROW[:-6] * (MOST_RESULTS + 1)], ids=["copy", "endless"])
def test_an_answer_of_another_kind_keeps_nobody(pieces: bytes) -> None:
    with server(says(pieces)) as port, pytest.raises((ValueError, psycopg.Error)):
        ask(port)


def test_a_connection_that_is_not_made_in_time_says_so() -> None:
    def silent(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.recv(65536)

    with server(silent) as port, pytest.raises(psycopg.OperationalError, match="timeout expired"):
        ask(port)


def test_what_has_come_in_by_the_end_is_read_and_what_has_not_is_closed() -> None:
    closed = threading.Event()

    def talk(descriptor: int) -> Talk[str]:
        try:
            yield descriptor, 1, float("inf")
        finally:
            closed.set()
        return "read"

    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert side_by_side({1: talk(ours.fileno())}, 0.0) == {}
        assert closed.is_set()
        theirs.send(b"x")
        assert side_by_side({1: talk(ours.fileno())}, 0.0) == {1: "read"}


def test_who_asks_has_a_connection_for_himself_and_one_is_kept() -> None:
    asked, go = threading.Barrier(3), threading.Event()
    taken: list[socket.socket] = []

    def speak(connection: socket.socket) -> None:
        taken.append(connection)
        connection.recv(65536)
        connection.sendall(GREETING)
        while connection.recv(65536):
            if len(taken) <= 2 and not go.is_set():
                asked.wait(60)
                go.wait(60)
            connection.sendall(ONE_ROW)

    with server(speak) as port:
        host = LocalHost({1: dsn(port)})
        answers: list[object] = []
        both = [
            threading.Thread(target=lambda: answers.append(host.fetch(Sql(1, "select 1"), 60)), daemon=True)
            for _ in range(2)
        ]
        for thread in both:
            thread.start()
        asked.wait(60)
        go.set()
        for thread in both:
            thread.join(60)
        assert answers == [[("1",)]] * 2
        assert host.fetch(Sql(1, "select 1"), 60) == [("1",)]
        assert len(taken) == 2
        host.close_idle()


def broken_off(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(GREETING)
    connection.recv(65536)


STAGES: list[tuple[Speak, str, str]] = [
    (lambda connection: connection.recv(65536) and connection.recv(65536), "connect", LATE),  # type: ignore[list-item, return-value]
    (says(b""), "ask", LATE),
    (broken_off, "ask", "closed the connection"),
]


@pytest.mark.parametrize(("speak", "stage", "error"), STAGES, ids=["silent", "silent later", "hangs up"])
def test_a_visit_says_how_far_it_came(speak: Speak, stage: str, error: str) -> None:
    with server(speak) as port:
        visit = visit_each({"app": dsn(port)}, 1)["app"]
    assert visit.stage == stage
    assert error in visit.error
    assert visit.seconds > 0


def test_a_node_that_is_left_in_peace_is_not_sought_any_more() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = LocalHost({1: dsn(listening.getsockname()[1])})
        with pytest.raises(OperationFailed, match=r"no answer within 0\.1 s"):
            host.fetch(Sql(1, "select 1"), 0.1)
        with pytest.raises(OperationFailed, match="still no answer"):
            host.fetch(Sql(1, "select 1"), 60)
        host.close_idle()
        with pytest.raises(OperationFailed, match=r"no answer within 0\.1 s"):
            host.fetch(Sql(1, "select 1"), 0.1)


def test_the_same_parameters_are_not_written_anew_but_equal_ones_are_not_the_same() -> None:
    """1 == True, and psycopg's Jsonb shows its beginning alone; the list of a cluster's nodes goes with every look."""
    heard: list[bytes] = []
    long = [f"{'x' * 100}{end}" for end in "ab"]

    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(GREETING)
        while (question := connection.recv(65536)) not in (b"", GOODBYE):
            heard.append(question)
            connection.sendall(ONE_ROW)

    def talk() -> Talk[None]:
        link = yield from linked(dsn(port))
        try:
            for params in (([1, 2],), ([1, 2],), ([1, 3],), (1,), (True,), *((Jsonb(text),) for text in long)):
                yield from link.ask("select %s", params)
        finally:
            link.close()

    with server(speak) as port:
        assert side_by_side({1: talk()}, 60) == {1: None}
    assert heard[0] == heard[1] and b"{1,2}" in heard[0]
    assert b"{1,3}" in heard[2] and len(set(heard[2:])) == 5
