"""Answer load balancers and Prometheus over HTTP, from what the service saw last; this process may do nothing else.

One request a connection, small and soon complete. It needs neither the configuration nor a node, nor a password.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import re
import signal
import sys
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.cli.logged import log, show_log_lines
from repmgr_hooks.cli.output import OK
from repmgr_hooks.errors import OperationFailed, UsageError
from repmgr_hooks.journal.last_seen import read_all
from repmgr_hooks.reports.health import Answer, Known, answer

LISTEN = "127.0.0.1:8008"
REQUEST = re.compile(rb"([A-Z]{1,20}) (/[!-~]{0,2000}) HTTP/1\.[01]")
METHODS = ("GET", "HEAD", "OPTIONS")
MOST_CONNECTIONS = 100
LARGEST_REQUEST = 8192
SECONDS = 5.0
"""For a whole request to arrive, and for its answer to be taken."""


def do_serve_http(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM. Raises UsageError, and OperationFailed for an address that cannot be had."""
    show_log_lines(sys.stderr, arguments.log)
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # a client that goes away is no news
    places = [place(text) for text in arguments.listen or [LISTEN]]
    asyncio.run(serve(places, Server(arguments.directory)))
    return OK


def place(text: str) -> tuple[str, int]:
    """Return address and port. Raises UsageError.

    >>> place("127.0.0.1:8008"), place("[::1]:8008")
    (('127.0.0.1', 8008), ('::1', 8008))
    """
    address, _, port = text.rpartition(":")
    try:
        if port.isascii() and port.isdigit() and 0 < int(port) < 65536:
            return str(ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))), int(port)
    except ValueError:
        pass
    raise UsageError(f"{text!r:.100} is not ADDRESS:PORT", hint="such as 127.0.0.1:8008, or [::1]:8008")


async def serve(places: list[tuple[str, int]], server: Server) -> None:
    """Listen at each place until SIGTERM or SIGINT. Raises OperationFailed."""
    over = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, over.set)
    listening = []
    for address, port in places:
        try:
            listening.append(await asyncio.start_server(server.accept, address, port, limit=LARGEST_REQUEST))
        except OSError as error:
            raise OperationFailed(f"cannot listen at {address} port {port}: {error.strerror}") from None
        log.info("listening at %s port %d", address, port)
    await over.wait()
    for one in listening:
        one.close()
    server.stop()


class Server:
    """Answers; of too many connections at once, the oldest has had its time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[asyncio.Task[None], None] = {}

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, within its time."""
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= MOST_CONNECTIONS:
            oldest = next(iter(self._open))
            del self._open[oldest]  # at once: a hundred may come before it has ended
            oldest.cancel()
        self._open[task] = None
        writer.transport.set_write_buffer_limits(0)  # drain() is to wait until all is taken
        try:
            async with asyncio.timeout(SECONDS):
                writer.write(await self._response(reader))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.CancelledError, asyncio.IncompleteReadError):
            writer.transport.abort()  # slow, gone, or one too many
        finally:
            self._open.pop(task, None)
            writer.close()

    async def _response(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return response("GET", Answer(431, ""))
        found = REQUEST.fullmatch(head.split(b"\r\n", 1)[0])
        if not found:
            return response("GET", Answer(400, ""))
        method, target = found[1].decode(), found[2].decode()
        if method not in METHODS:
            return response(method, Answer(405, ""))
        try:
            return response(method, answer(target, list(known(self._directory)), clock.wall()))
        except Exception:
            # What it was about is unknown, and nobody may take it for a yes.
            log.exception("a bug in repmgr_hooks; please report it")
            return response(method, Answer(503, ""))

    def stop(self) -> None:
        """End every connection."""
        for task in self._open:
            task.cancel()


def known(directory: Path) -> Iterator[Known]:
    """Read what is known now; these files are in memory, and small."""
    for cluster, seen, left in read_all(directory):
        yield Known(cluster, seen, left)


def response(method: str, answered: Answer) -> bytes:
    """Return a whole response; OPTIONS and HEAD get the status without the body."""
    body = answered.body.encode() if method == "GET" else b""
    length = len(answered.body.encode()) if method == "HEAD" else len(body)
    head = [
        f"HTTP/1.1 {answered.status} {HTTPStatus(answered.status).phrase}",
        f"Content-Type: {answered.kind}",
        f"Content-Length: {length}",
        f"Allow: {', '.join(METHODS)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
