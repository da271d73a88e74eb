"""The server: what it answers to good and bad clients, and that none keeps others from being answered."""

from __future__ import annotations

import asyncio
import logging
import select
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from repmgr_hooks.cli import serve_http as module
from repmgr_hooks.cli.serve_http import LARGEST_REQUEST, MOST_CONNECTIONS, Server, place
from repmgr_hooks.errors import UsageError
from repmgr_hooks.journal.last_seen import LastSeen, NodeSeen, Publisher
from repmgr_hooks.reports.health import Answer

NODES = (NodeSeen(1, "10.0.0.11", True, "primary", 1), NodeSeen(2, "10.0.0.12", True, "standby", 1))
SEEN = LastSeen("main", 1, 1, "only", "the primary is node 1", NODES, interval=3600)


async def _listening(directory: Path, client: Callable[[str], Awaitable[object]]) -> object:
    path = str(directory / "socket")
    server = Server(directory)
    listening = await asyncio.start_unix_server(server.accept, path, limit=LARGEST_REQUEST)
    try:
        return await client(path)
    finally:
        listening.close()
        server.stop()


@pytest.fixture
def ask(tmp_path: Path) -> Callable[[bytes], bytes]:
    """Send bytes, and return all that comes until the connection is closed."""
    Publisher(tmp_path, "main").publish(SEEN)

    async def exchange(path: str, sent: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(sent)
        answer = await reader.read()
        writer.close()
        return answer

    def asked(sent: bytes) -> bytes:
        found = asyncio.run(_listening(tmp_path, lambda path: exchange(path, sent)))
        assert isinstance(found, bytes)
        return found

    return asked


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /main/nodes/1/primary HTTP/1.1", 200),
        (b"GET /main/nodes/2/primary HTTP/1.1", 503),
        (b"OPTIONS /nodes/1/primary HTTP/1.0", 200),
        (b"HEAD /nodes/2/primary HTTP/1.1", 503),
        (b"POST /nodes/1/primary HTTP/1.1", 405),
        (b"DELETE /nodes/1/primary HTTP/1.1", 405),
        (b"GET http://elsewhere/ HTTP/1.1", 400),
        (b"GET /nodes/1/primary HTTP/2.0", 400),
        (b"GET /nodes/1/primary", 400),
        (b"\x16\x03\x01\x02", 400),
        (b"GET /" + b"a" * 2100 + b" HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * LARGEST_REQUEST, 431),
    ],
)
def test_requests(ask: Callable[[bytes], bytes], request_line: bytes, status: int) -> None:
    answer = ask(request_line + b"\r\nHost: x\r\n\r\n")
    assert answer.split(b"\r\n")[0].split()[1] == str(status).encode()
    assert b"Connection: close" in answer


def test_only_get_has_a_body(ask: Callable[[bytes], bytes]) -> None:
    of = {way: ask(f"{way} /nodes/1/primary HTTP/1.1\r\n\r\n".encode()) for way in ("GET", "HEAD", "OPTIONS")}
    bodies = {way: answer.partition(b"\r\n\r\n")[2] for way, answer in of.items()}
    assert bodies["GET"].startswith(b'{"cluster": "main", "primary": 1')
    assert bodies["HEAD"] == bodies["OPTIONS"] == b""
    assert f"Content-Length: {len(bodies['GET'])}".encode() in of["HEAD"]
    assert b"Content-Length: 0" in of["OPTIONS"]


def test_a_bug_is_no_yes(
    ask: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise TypeError("lag")

    monkeypatch.setattr(module, "answer", broken)
    with caplog.at_level(logging.ERROR):
        assert ask(b"GET /nodes/1/primary HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 503 ")
    assert "a bug in repmgr_hooks" in caplog.text


def test_a_slow_client_is_dropped(ask: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.05)
    with pytest.raises(ConnectionError):
        assert ask(b"GET /nodes/1/prim") == b""
        raise ConnectionError  # closed without a word is as good


def test_many_that_say_nothing_keep_nobody_out(tmp_path: Path) -> None:
    """The one that has been there for longest makes room."""
    Publisher(tmp_path, "main").publish(SEEN)

    async def client(path: str) -> bytes:
        silent = [await asyncio.open_unix_connection(path) for _ in range(3 * MOST_CONNECTIONS)]
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /nodes/1/primary HTTP/1.1\r\n\r\n")
        answer = await reader.read()
        for _, one in [*silent, (reader, writer)]:
            one.close()
        return answer

    answer = asyncio.run(_listening(tmp_path, client))
    assert isinstance(answer, bytes)
    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_those_that_come_all_at_once_are_no_more_than_those_that_may(tmp_path: Path) -> None:
    async def flood() -> int:
        server, pairs = Server(tmp_path), [socket.socketpair() for _ in range(2 * MOST_CONNECTIONS)]
        streams = [await asyncio.open_connection(sock=ours) for ours, _ in pairs]
        tasks = [asyncio.create_task(server.accept(*each)) for each in streams]
        await asyncio.sleep(0)  # each has begun, and none has got any further
        connected = len(server._open)
        server.stop()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _, theirs in pairs:
            theirs.close()
        return connected

    assert asyncio.run(flood()) == MOST_CONNECTIONS


def test_one_that_does_not_take_its_answer_is_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if what is left of it would have been kept in our memory."""
    monkeypatch.setattr(module, "SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        room = other.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    monkeypatch.setattr(module, "answer", lambda *_: Answer(200, "x" * (room + 30_000)))

    def client(path: str) -> list[tuple[int, int]]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.connect(path)
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            hung_up = select.poll()
            hung_up.register(connection, 0)  # POLLHUP comes unasked
            return hung_up.poll(60_000)

    assert asyncio.run(_listening(tmp_path, lambda path: asyncio.to_thread(client, path)))


@pytest.mark.parametrize("text", ["", "8008", "localhost:8008", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "::1"])
def test_a_place_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        place(text)
